"""Frames larger than the net, in tiles, through the real libraries: brightness in, brightness out, wherever a pixel lies."""

import gc
import logging
import subprocess
import sys
import time
import weakref
from collections import deque
from contextlib import closing

import cv2
import numpy as np
import pytest
import typer
from recorder import NET, Recorder
from scripted import END, Scripted, dropped, live, picture
from typer.testing import CliRunner
from waiting import wait_until

from edgecrack.cli.evaluate import evaluate
from edgecrack.cli.run import run
from edgecrack.errors import FrameError, SourceError, SpecError
from edgecrack.runtime import Account, Camera, CrackDetector, LiveSource, SourceOptions, VideoWriter
from edgecrack.runtime.backends import BACKENDS
from edgecrack.runtime.tiling import Tiling
from edgecrack.spec import ModelSpec


def grey_noise(height, width, seed=0):
    """uint8 (height, width, 3), the three channels equal: the libraries round their mean alike at every place."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 1), np.uint8).repeat(3, 2)


@pytest.fixture(scope="module", params=[1, 4], ids=["batch 1", "batch 4"])
def batched(request, tmp_path_factory, write_model):
    """The path of the brightness model for that many frames of 64x48 a call."""
    path = tmp_path_factory.mktemp("batched") / "mean.onnx"
    return write_model(path, ModelSpec("scnet", frame=NET, batch=request.param, threshold=0.4))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("height", "width"), [(48, 64), (49, 65), (96, 128), (97, 131), (30, 300), (200, 40), (333, 777), (48, 65)]
)
def test_tiles_answer_exactly_as_bright_as_each_pixel_is(batched, backend, height, width):
    frame = grey_noise(height, width)
    with CrackDetector(batched, backend=backend, tile="tile") as detector:
        levels = detector.run(np.arange(48 * 64, dtype=np.uint16).astype(np.uint8).reshape(48, 64, 1).repeat(3, 2))
        detection = detector.run(frame)
    answer_to = levels.probability.ravel()[:256]
    assert np.abs(answer_to.astype(int) - np.arange(256)).max() <= 1  # a mean may be rounded down from just below
    np.testing.assert_array_equal(detection.probability, answer_to[frame[..., 0]])
    np.testing.assert_array_equal(detection.mask, detection.probability >= 102)
    assert all(spent > 0 for spent in detection.speed.values())


def test_a_frame_smaller_than_the_net_is_fitted(batched):
    frame = grey_noise(20, 30)
    with CrackDetector(batched, tile="tile") as tiling, CrackDetector(batched) as fitting:
        np.testing.assert_array_equal(tiling.run(frame).probability, fitting.run(frame).probability)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_stream_of_many_sizes_gives_each_frame_its_own_answer_in_order(batched, backend):
    sizes = [(48, 64), (97, 131), (20, 30), (200, 40), (48, 64), (150, 150), (30, 300)]
    frames = [grey_noise(*size, seed=index) for index, size in enumerate(sizes)]
    with CrackDetector(batched, backend=backend, tile="tile") as detector:
        alone = [detector.run(frame).probability for frame in frames]
        results = list(detector.stream(iter(frames)))
    assert [frame.index for frame, _ in results] == list(range(len(frames)))
    for image, expected, (frame, detection) in zip(frames, alone, results, strict=True):
        assert frame.image is image
        np.testing.assert_array_equal(detection.probability, expected)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 4])
def test_a_stream_of_tiles_keeps_the_backend_busy_and_its_batches_full(batch, depth):
    recorder = Recorder(batch, depth)
    frames = [grey_noise(97, 131, seed) for seed in range(3)]  # nine tiles each
    results = list(CrackDetector(recorder, tile="tile").stream(frames))
    assert [np.array_equal(found.probability, frame.image[..., 0]) for frame, found in results] == [True] * 3
    assert recorder.most == depth
    assert len(recorder.calls) == -(-27 // batch)
    for spare in recorder.calls[-1][27 % batch or batch :]:
        np.testing.assert_array_equal(spare, recorder.calls[-1][27 % batch - 1])


class Waiting:
    """A connection that gives `frames` and then waits until `is_over`."""

    def __init__(self, frames):
        self.frames, self.is_over = deque(frames), False

    def read(self):
        if self.frames:
            return self.frames.popleft()
        time.sleep(0.002)
        raise EOFError if self.is_over else TimeoutError

    def close(self):
        pass


@pytest.mark.parametrize(("height", "width", "calls"), [(97, 131, 3), (20, 30, 1)])
@pytest.mark.parametrize("depth", [1, 3])
def test_a_cameras_frame_is_given_out_whole_before_the_next_one_comes(height, width, calls, depth):
    """A batch is not kept back for a frame that may never come, and not cut short within a frame."""
    camera, recorder = Waiting([grey_noise(height, width)]), Recorder(4, depth)
    source = LiveSource(Camera("camera", lambda: camera, SourceOptions(staleness=9)))
    with closing(CrackDetector(recorder, tile="tile").stream(source)) as stream:
        for count in (1, 2):
            frame, detection = next(stream)
            assert detection.probability.shape == (height, width)
            assert frame.index == count - 1
            assert len(recorder.calls) == count * calls
            camera.frames.append(grey_noise(height, width, seed=count))
        next(stream)
        camera.is_over = True
        assert list(stream) == []
    assert source.parts[0].room == (
        1 if calls == 3 else 4
    )  # where one frame fills a call, a second one would only grow old


def test_a_frame_is_given_out_as_soon_as_its_last_tile_is_answered():
    recorder = Recorder(depth=2)
    stream = CrackDetector(recorder, tile="tile").stream(grey_noise(97, 131, seed) for seed in range(9))
    next(stream)
    assert len(recorder.calls) == 10  # its nine, and one of the next frame that was in flight meanwhile
    stream.close()
    assert not recorder.waiting


def test_a_tiled_frame_took_from_its_first_tile_to_its_last_answer():
    class Slow(Recorder):
        def collect(self):
            time.sleep(0.005)
            return super().collect()

    speed = CrackDetector(Slow(), tile="tile").run(grey_noise(97, 131)).speed
    assert speed["inference"] >= 9 * 5


@pytest.mark.parametrize("tile", ["fit", "tile"])
def test_a_frame_is_let_go_with_its_detection(batched, tile):
    gc.disable()  # what needs it to be freed piles up, megabytes a frame
    try:
        with CrackDetector(batched, tile=tile) as detector:
            frame = grey_noise(97, 131)
            kept = weakref.ref(frame)
            assert detector.run(frame).probability.shape == (97, 131)
            del frame
            assert kept() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("batch", [1, 4])
def test_an_error_of_the_source_comes_after_the_tiled_frames_before_it(batch):
    def source():
        for seed in range(3):
            yield grey_noise(97, 131, seed)
        raise SourceError("the camera is gone")

    detector = CrackDetector(Recorder(batch), tile="tile")
    seen = []
    with pytest.raises(SourceError, match="the camera is gone"):
        for frame, detection in detector.stream(source()):
            seen.append(np.array_equal(detection.probability, frame.image[..., 0]))
    assert seen == [True] * 3
    with pytest.raises(FrameError, match="float32"):
        detector.run(np.zeros((99, 99, 3), np.float32))
    assert detector.run(grey_noise(99, 99)).probability.shape == (99, 99)


@pytest.mark.parametrize("tile", ["fit", "tile", "auto"])
@pytest.mark.parametrize("roi", ["rows:0.4-0.9", "rows:80-120", "30,40 150,40 150,100", "0.1,0.2 0.9,0.2 0.5,0.9"])
def test_nothing_fires_outside_the_region(batched, tile, roi):
    with CrackDetector(batched, tile=tile, roi=roi) as detector:
        probability = detector.run(np.full((170, 240, 3), 200, np.uint8)).probability
    assert probability.shape == (170, 240)
    assert set(np.unique(probability)) <= {0, 199, 200}
    inside = probability > 0
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    box = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    expected = {
        "rows:0.4-0.9": (68, 153, 0, 240),
        "rows:80-120": (80, 120, 0, 240),
        "30,40 150,40 150,100": (40, 101, 30, 151),
        "0.1,0.2 0.9,0.2 0.5,0.9": (34, 154, 24, 217),
    }
    assert box == expected[roi]
    filled = 1 if roi.startswith("rows") else 0.5
    assert inside[box[0] : box[1], box[2] : box[3]].mean() == pytest.approx(filled, abs=0.02)


def test_what_lies_outside_the_region_does_not_go_to_the_net():
    frame = grey_noise(480, 640)
    frame[:, :, 1] = (np.arange(480) >= 240)[:, np.newaxis]  # green says where a pixel lies
    for tile in ("fit", "tile"):
        recorder = Recorder()
        probability = CrackDetector(recorder, tile=tile, roi="rows:240-480").run(frame).probability
        assert all((call[..., 1] == 1).all() for call in recorder.calls)
        assert len(recorder.calls) == (1 if tile == "fit" else 6 * 12)
        if tile == "tile":
            np.testing.assert_array_equal(probability[240:], frame[240:, :, 0])


def test_a_region_outside_a_frame_is_told_after_the_frames_before_it():
    detector = CrackDetector(Recorder(), tile="tile", roi="rows:100-200")
    stream = detector.stream([grey_noise(150, 70), grey_noise(90, 70)])
    assert next(stream)[1].probability[100:].any()
    with pytest.raises(SpecError, match="rows:100-200 holds no row of a frame of 70x90"):
        next(stream)
    assert detector.run(grey_noise(150, 70)).probability.shape == (150, 70)


def test_of_a_camera_that_comes_back_smaller_frames_outside_the_region_are_dropped(caplog):
    """One that is there from the first frame on is a mistake, and raised."""
    camera = Scripted()
    sizes = [(150, 70), (90, 70), (90, 70), (150, 70)]
    detector = CrackDetector(Recorder(), tile="tile", roi="rows:100-200")
    with live(camera, drop=False) as source, caplog.at_level(logging.WARNING, "edgecrack"):
        for height, width in sizes:
            camera.script.put(grey_noise(height, width))
        camera.script.put(END)
        frames = [frame.index for frame, _ in detector.stream(source)]
    assert frames == [0, 3]
    assert dropped(source) == {"outside": [1, 2]}
    assert str(Account.of(source, {"camera": 2})) == "4 frames came: 2 processed, 2 dropped (2 outside), 0 failed"
    assert caplog.messages == [
        "camera: the region rows:100-200 holds no row of a frame of 70x90; such frames are dropped"
    ]
    camera = Scripted(grey_noise(90, 70), END)
    with live(camera) as source, pytest.raises(SpecError, match="holds no row"):
        list(detector.stream(source))


def test_a_frame_that_grows_old_while_the_caller_is_busy_is_dropped():
    camera = Scripted(picture(0, 48, 64))

    class Prompt(Recorder):
        """The next frame comes while it works, and is submitted at once."""

        def collect(self):
            if len(self.calls) == 1:
                camera.script.put(picture(1, 48, 64))
                wait_until(lambda: source.ready)
            return super().collect()

    detector = CrackDetector(Prompt())
    with live(camera, staleness=0.2) as source:
        stream = detector.stream(source)
        assert next(stream)[0].index == 0
        assert len(detector.backend.calls) == 2
        time.sleep(0.3)
        camera.script.put(picture(2, 48, 64))
        wait_until(lambda: source.read == 3)
        assert next(stream)[0].index == 2
        camera.script.put(END)
        assert not list(stream)
    assert dropped(source) == {"stale": [1]}
    assert str(Account.of(source, {"camera": 2})) == "3 frames came: 2 processed, 1 dropped (1 stale), 0 failed"


def test_what_cannot_be_is_refused_before_a_model_is_opened(tmp_path):
    with pytest.raises(SpecError, match="tile is one of"):
        CrackDetector(tmp_path / "none.onnx", tile="maybe")
    for roi in ("", "the road", "1,1 2,2"):
        with pytest.raises(SpecError):
            CrackDetector(tmp_path / "none.onnx", roi=roi)


def test_a_clone_looks_at_frames_in_the_same_way():
    frame = grey_noise(97, 131)
    detector = CrackDetector(Recorder(), tile="tile", roi="rows:0-0.5")
    clone = detector.clone()
    np.testing.assert_array_equal(clone.run(frame).probability, detector.run(frame).probability)
    assert isinstance(clone.run(frame).fit, Tiling)


@pytest.mark.parametrize("channels", [3, 4])
def test_tiles_of_a_model_with_four_bytes_a_pixel(channels):
    frame = np.dstack([grey_noise(97, 131), np.zeros((97, 131, 1), np.uint8)])[..., :channels]
    detector = CrackDetector(Recorder(pixels="bgrx"), tile="tile")
    np.testing.assert_array_equal(detector.run(frame).probability, frame[..., 0])


def test_auto_is_decided_and_logged_once_a_size(caplog):
    caplog.set_level(logging.INFO, "edgecrack.tiling")
    detector = CrackDetector(Recorder(), tile="auto")
    kinds = [
        isinstance(found.fit, Tiling)
        for _, found in detector.stream(grey_noise(*size) for size in [(96, 128), (480, 640)] * 3)
    ]
    assert kinds == [False, True] * 3
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "fitting frames of 128x96",
        "tiling frames of 640x480",
    ]


@pytest.fixture
def video(tmp_path):
    with VideoWriter(tmp_path / "road.mp4", 12) as writer:
        for value in range(20):
            writer.write(np.full((60, 80, 3), 12 * value, np.uint8))
    return tmp_path / "road.mp4"


@pytest.fixture
def edgecrack(model):
    """`edgecrack VERB MODEL ...` with the given options; an EdgecrackError comes out as it is."""

    def call(verb, *options):
        app = typer.Typer()
        app.command()(verb)
        return CliRunner().invoke(app, [str(model), *map(str, options)], catch_exceptions=False)

    return call


def test_run_takes_tiles_a_region_and_every_nth_frame(edgecrack, video, tmp_path):
    done = edgecrack(
        *(run, "--source", video, "--out", tmp_path, "--masks", "--no-overlay"),
        *("--tile", "tile", "--roi", "rows:0.5-1", "--every", 4),
    )
    assert done.exit_code == 0
    assert done.stdout.startswith("5 frames, ")
    assert sorted(path.stem for path in (tmp_path / "masks").iterdir()) == [f"{n:06d}" for n in range(0, 20, 4)]
    mask = cv2.imread(str(tmp_path / "masks" / "000016.png"), cv2.IMREAD_UNCHANGED)
    assert not mask[:30].any() and (mask[30:] == 255).all()


def test_a_region_or_a_way_that_cannot_be_ends_run_in_one_line(edgecrack, video, tmp_path):
    for option, words in ((("--roi", "sky"), "a region is"), (("--tile", "x"), "tile is one of")):
        with pytest.raises(SpecError, match=words):
            edgecrack(run, "--source", video, "--out", tmp_path / "out", *option)
    with pytest.raises(SpecError, match="outside a frame of 80x60"):
        edgecrack(run, "--source", video, "--out", tmp_path / "out", "--roi", "90,90 100,90 99,99")
    assert edgecrack(run, "--source", video, "--out", tmp_path / "out", "--every", 0).exit_code == 2


@pytest.fixture
def labelled(tmp_path):
    """A folder with one frame of 400x300 and its mask: a line two pixels wide, of which fitting to 64x48 leaves a smear."""
    mask = np.zeros((300, 400), np.uint8)
    mask[:, 199:201] = 255
    for folder, image in (("images", mask[..., np.newaxis].repeat(3, 2)), ("masks", mask)):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "a.png"), image)
    return tmp_path


def test_evaluate_in_tiles_scores_the_answer_in_tiles(edgecrack, labelled):
    f1 = {
        tile: edgecrack(evaluate, "--data", labelled, "--tile", tile).stdout.split("best F1 (ODS)")[1].split()[0]
        for tile in ("fit", "tile", "auto")
    }
    assert float(f1["tile"]) == float(f1["auto"]) == 1
    assert float(f1["fit"]) < 0.9


def test_what_auto_takes_is_said_on_stderr(model, labelled):
    command = [sys.executable, "-m", "edgecrack", "evaluate", model, "--data", labelled, "--json", "--tile"]
    said = [subprocess.run([*command, tile], check=True, capture_output=True, text=True) for tile in ("auto", "tile")]
    assert said[0].stderr == (
        "edgecrack.tiling: tiling frames of 400x300: fitted they are at scale 0.16, and scnet was trained at 0.3 to 3\n"
    )
    assert said[1].stderr == ""
    assert said[0].stdout == said[1].stdout
