import json
import signal
import subprocess
import sys
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from drawings import noise

from edgecrack.errors import FrameError, MissingDependency, SourceError, SpecError
from edgecrack.runtime import (
    Account,
    Detection,
    Event,
    Frame,
    JsonLines,
    MaskImages,
    OverlayImages,
    OverlayVideo,
    Sinks,
    VideoWriter,
)
from edgecrack.runtime.disk import DurableFile
from edgecrack.runtime.log import entries
from edgecrack.runtime.video import VideoEncoder


def seen(index, source="road.mp4", height=48, width=64):
    """A frame with a crack of `index` + 1 pixels."""
    probability = np.zeros((height, width), np.uint8)
    probability[0, : index + 1] = 255
    return Frame(noise(index, height, width), index, index / 10, source), Detection.of(probability, 0.5)


def read_video(path):
    with av.open(str(path)) as file:
        return [frame.to_ndarray(format="bgr24") for frame in file.decode(video=0)]


def run_limited(code, *arguments, limit):
    """Run Python code in a process whose files may not grow beyond `limit` bytes, as on a disk that is full."""
    preamble = f"import resource, sys\nresource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
    command = [sys.executable, "-c", preamble + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_log_has_a_line_a_frame_at_once(tmp_path):
    path = tmp_path / "new" / "log.jsonl"
    with JsonLines(path) as log:
        for index in range(3):
            log.write(*seen(index))
            assert len(path.read_text().splitlines()) == index + 1
    line = json.loads(path.read_text().splitlines()[2])
    assert line.pop("speed").keys() == {"preprocess", "inference", "postprocess"}
    assert line == {
        "index": 2,
        "source": "road.mp4",
        "time": 0.2,
        "width": 64,
        "height": 48,
        "crack_pixels": 3,
        "crack_share": round(3 / (48 * 64), 8),
        "threshold": 0.5,
    }


def test_a_log_that_exists_is_gone_on_with(tmp_path):
    for index in range(2):
        with JsonLines(tmp_path / "log.jsonl") as log:
            log.write(*seen(index))
    assert [json.loads(line)["index"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [0, 1]


def test_a_log_on_a_full_disk_is_one_line_of_error():
    with (
        JsonLines("/dev/full") as log,
        pytest.raises(SourceError, match=r"^cannot write /dev/full: No space left[^\n]*$"),
    ):
        log.write(*seen(0))


def test_a_log_that_fills_the_disk_keeps_whole_lines(tmp_path):
    code = """
from edgecrack.errors import SourceError
from edgecrack.runtime import Detection, Frame, JsonLines
import numpy as np
image = np.zeros((4, 4, 3), np.uint8)
with JsonLines(sys.argv[1]) as log:
    try:
        for index in range(100):
            log.write(Frame(image, index, None, "road.mp4"), Detection.of(image[:, :, 0], 0.5))
    except SourceError as error:
        print(index)
"""
    failed_at = int(run_limited(code, tmp_path / "log.jsonl", limit=3000))
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["index"] for line in lines] == list(range(failed_at))
    assert failed_at > 5


@pytest.mark.parametrize("make", [JsonLines, lambda path: OverlayVideo(path, 30), OverlayImages, MaskImages])
def test_a_place_that_cannot_be_written_is_one_line_of_error(tmp_path, make):
    (tmp_path / "file").touch()
    with pytest.raises(SourceError, match=r"^cannot write (into )?[^\n]*/file(/out)?: (Not a directory|File exists)$"):
        make(tmp_path / "file" / "out")


def test_a_video_plays_in_a_browser(tmp_path):
    path = tmp_path / "new" / "a.mp4"
    with VideoWriter(path, 30000 / 1001) as video:
        for value in range(0, 240, 8):
            video.write(np.full((48, 64, 3), value, np.uint8))
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.pix_fmt == "yuv420p"
        assert stream.average_rate == Fraction(30000, 1001)
    frames = read_video(path)
    assert [round(frame.mean() / 8) for frame in frames] == list(range(30))
    capture = cv2.VideoCapture(str(path))
    assert (capture.get(cv2.CAP_PROP_FRAME_COUNT), round(capture.get(cv2.CAP_PROP_FPS), 2)) == (30, 29.97)


def test_a_finer_quality_is_closer_to_what_was_written(tmp_path):
    image = np.repeat(cv2.GaussianBlur(noise(height=96, width=96)[:, :, :1], (5, 5), 0)[:, :, None], 3, 2)
    errors = []
    for quality in (10, 35):
        with VideoWriter(tmp_path / "a.mp4", 10, quality=quality) as video:
            video.write(image)
        errors.append(np.abs(read_video(tmp_path / "a.mp4")[0].astype(int) - image).mean())
    assert errors[0] < errors[1] / 2


@pytest.mark.parametrize(("height", "width"), [(47, 64), (48, 63), (47, 63), (2, 1)])
def test_odd_sides_grow_by_their_last_pixel(tmp_path, height, width):
    image = np.full((height, width, 3), 60, np.uint8)
    image[:, -1:] = 200
    with VideoWriter(tmp_path / "a.mp4", 10, quality=0) as video:
        video.write(image)
    (frame,) = read_video(tmp_path / "a.mp4")
    assert frame.shape == (height + height % 2, width + width % 2, 3)
    assert np.abs(frame[:, -1].astype(int) - 200).max() <= 4


def test_a_video_keeps_its_first_size(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 10) as video:
        video.write(noise())
        with pytest.raises(FrameError, match="wanted a frame of 64x48, got 64x46"):
            video.write(noise(height=46))
        video.write(noise())
    assert len(read_video(tmp_path / "a.mp4")) == 2


@pytest.mark.parametrize("rate", [0, 1e-9, -1, float("nan"), 1e6])
def test_a_rate_that_cannot_be_is_refused(tmp_path, rate):
    with pytest.raises(SpecError, match="frame rate"):
        VideoWriter(tmp_path / "a.mp4", rate)


def test_a_closed_video_takes_no_frame(tmp_path):
    video = VideoWriter(tmp_path / "a.mp4", 10)
    video.write(noise())
    video.close()
    video.close()
    with pytest.raises(SourceError, match="it is closed"):
        video.write(noise())


def test_without_pyav_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingDependency, match=r"pip install .edgecrack\[video\]."):
        OverlayVideo(tmp_path / "a.mp4", 30)


def test_a_process_that_is_killed_leaves_a_video_that_plays(tmp_path):
    code = """
import os, signal, sys
import numpy as np
from edgecrack.runtime import VideoWriter
video = VideoWriter(sys.argv[1], 20)
for index in range(90):
    video.write(np.full((48, 64, 3), 2 * index, np.uint8))
os.kill(os.getpid(), signal.SIGKILL)
"""
    died = subprocess.run([sys.executable, "-c", code, tmp_path / "a.mp4"], check=False)
    assert died.returncode == -signal.SIGKILL
    frames = read_video(tmp_path / "a.mp4")
    assert 60 <= len(frames) <= 90  # at most the fragment of the last second is lost
    assert [frame.mean() for frame in frames] == pytest.approx(range(0, 2 * len(frames), 2), abs=6)


@pytest.mark.parametrize(("limit", "last_words"), [(40_000, "write"), (3_000, "close")])
def test_a_video_that_fills_the_disk_is_one_line_of_error_and_closes(tmp_path, limit, last_words):
    code = """
import numpy as np
from edgecrack.errors import SourceError
from edgecrack.runtime import VideoWriter
rng = np.random.default_rng(0)
images = rng.integers(0, 256, ({"write": 100, "close": 1}[sys.argv[2]], 48, 64, 3), np.uint8)
video = VideoWriter(sys.argv[1], 10)
when = "write"
try:
    for image in images:
        video.write(image)
    when = "close"
    video.close()
except SourceError as error:
    print(when, error)
video.close()
"""
    told = run_limited(code, tmp_path / "a.mp4", last_words, limit=limit)
    assert told == f"{last_words} cannot write {tmp_path / 'a.mp4'}: File too large\n"
    if last_words == "write":
        capture = cv2.VideoCapture(str(tmp_path / "a.mp4"))
        assert capture.read()[0]


def test_the_overlay_video_shows_the_cracks(tmp_path):
    frame, detection = seen(0)
    detection = Detection.of(np.pad(np.full((16, 16), 255, np.uint8), ((16, 16), (24, 24))), 0.5)
    frame = Frame(np.full((48, 64, 3), 90, np.uint8), 0, 0.0, "road.mp4")
    with OverlayVideo(tmp_path / "a.mp4", 10) as video:
        video.write(frame, detection)
    (shown,) = read_video(tmp_path / "a.mp4")
    assert shown[24, 32, 2] > shown[24, 32, 1] + 40
    assert np.ptp(shown[4, 4].astype(int)) < 12


@pytest.mark.parametrize(("make", "ending"), [(OverlayImages, "jpg"), (MaskImages, "png")])
@pytest.mark.parametrize(
    ("sources", "names"),
    [
        (["in/a.png", "in/b.jpg"], ["a", "b"]),
        (["road.mp4", "road.mp4"], ["000000", "000001"]),
        (["one/a.png", "two/a.png"], ["a-000001", "a"]),
        (["frames", "frames"], ["000000", "000001"]),
    ],
)
def test_images_are_named_by_where_they_came_from(tmp_path, make, ending, sources, names):
    with make(tmp_path / "out") as sink:
        for index, source in enumerate(sources):
            sink.write(*seen(index, source))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"{name}.{ending}" for name in names]


def test_images_hold_the_overlay_and_the_mask_at_the_frames_own_size(tmp_path):
    for index, (height, width) in enumerate([(48, 64), (101, 33)]):
        frame, detection = seen(index, f"{index}.png", height, width)
        with OverlayImages(tmp_path / "overlay") as overlays, MaskImages(tmp_path / "masks") as masks:
            overlays.write(frame, detection)
            masks.write(frame, detection)
        mask = cv2.imread(str(tmp_path / "masks" / f"{index}.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(mask, detection.mask * 255)
        shown = cv2.imread(str(tmp_path / "overlay" / f"{index}.jpg"))
        np.testing.assert_allclose(shown.mean((0, 1)), detection.plot(frame.image).mean((0, 1)), atol=3)
        assert shown.shape == (height, width, 3)


def test_a_mask_that_fills_the_disk_leaves_the_ones_before(tmp_path):
    code = """
import numpy as np
from edgecrack.errors import SourceError
from edgecrack.runtime import Detection, Frame, MaskImages
rng = np.random.default_rng(0)
with MaskImages(sys.argv[1]) as masks:
    for side in (16, 1600):
        image = np.zeros((side, side, 3), np.uint8)
        try:
            probability = rng.integers(0, 256, (side, side), np.uint8)
            masks.write(Frame(image, side, None, "road.mp4"), Detection.of(probability, 0.5))
        except SourceError as error:
            print(error)
"""
    told = run_limited(code, tmp_path, limit=20_000)
    assert told == f"cannot write {tmp_path / '001600.png'}: File too large\n"
    assert [path.name for path in tmp_path.iterdir()] == ["000016.png"]


def live(index, time, height=48, width=64):
    """A frame of a camera with its detection."""
    probability = np.zeros((height, width), np.uint8)
    return Frame(noise(0, height, width), index, time, "camera", 100 + time, 1.7e9 + time), Detection.of(
        probability, 0.5
    )


def test_a_cameras_frames_are_shown_for_as_long_as_they_lasted(tmp_path):
    times = [0, 0.1, 0.1, 0.25, 3.0, 3.01, 4.5]
    with OverlayVideo(tmp_path / "a.mp4", 30) as video:
        for index, time in enumerate(times):
            video.write(*live(index, time))
    with av.open(str(tmp_path / "a.mp4")) as file:
        frames = list(file.decode(video=0))
    np.testing.assert_allclose([frame.time for frame in frames], times, atol=2e-3)
    # A fragment is begun when the last one is a second old, so that a power cut loses little of a slow camera.
    assert [frame.key_frame for frame in frames] == [True, False, False, False, True, False, True]


def test_a_further_video_is_begun_where_the_size_of_a_camera_changes(tmp_path):
    with OverlayVideo(tmp_path / "a.mp4", 30) as video:
        for index, (height, width) in enumerate([(48, 64), (48, 64), (24, 32), (48, 64)]):
            video.write(*live(index, index / 10, height, width))
    shapes = [[image.shape for image in read_video(tmp_path / name)] for name in ("a.mp4", "a-2.mp4", "a-3.mp4")]
    assert shapes == [[(48, 64, 3)] * 2, [(24, 32, 3)], [(48, 64, 3)]]


def test_a_line_of_a_camera_has_its_time_in_utc_and_its_age(tmp_path, monkeypatch):
    monkeypatch.setattr("time.monotonic", lambda: 102.25)
    with JsonLines(tmp_path / "log.jsonl") as log:
        log.write(*live(3, 2.0))
        log.write_event(Event("lost", "rtsp://camera", 1.7e9, {"reason": "the stream ended"}))
        log.write_event(Account(9, 6, {"newer": 2}, 1))
    first, second, third = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert (first["time"], first["utc"], first["age"]) == (2.0, "2023-11-14T22:13:22.000Z", 0.25)
    assert second == {
        "event": "lost",
        "source": "rtsp://camera",
        "utc": "2023-11-14T22:13:20.000Z",
        "reason": "the stream ended",
    }
    assert third == {"event": "summary", "captured": 9, "processed": 6, "dropped": {"newer": 2}, "failed": 1}


def test_a_sink_that_fails_for_two_threads_is_left_out_once(tmp_path, caplog):
    class Log(JsonLines):
        def write(self, frame, detection):
            sinks.write_event(Event("marked", "camera", 0.0, {}))  # as from the page, meanwhile
            raise SourceError("the disk is full")

        def write_event(self, event):
            raise SourceError("the disk is full")

    told = []
    with Sinks() as sinks:
        sinks.on_event = told.append
        sinks.add("log", Log(tmp_path / "log.jsonl"))
        sinks.write(*live(0, 0.0))
    assert [event.name for event in told] == ["left out"]
    assert caplog.text.count("the disk is full") == 1


def test_a_quality_that_cannot_be_leaves_the_video_that_is_there(tmp_path):
    (tmp_path / "road.mp4").write_bytes(b"a video")
    with pytest.raises(SpecError, match="quality"):
        VideoWriter(tmp_path / "road.mp4", 30, quality=99)
    assert (tmp_path / "road.mp4").read_bytes() == b"a video"


def test_an_encoder_that_fails_ends_the_video_and_nothing_else(tmp_path):
    with Sinks() as sinks:
        sinks.add("video", OverlayVideo(tmp_path / "road.mp4", 10))
        sinks.add("log", JsonLines(tmp_path / "log.jsonl"))
        for index in range(2):  # x264 takes no more than 16,384 pixels a side
            wide = np.full((2, 17000, 3), 90, np.uint8)
            sinks.write(Frame(wide, index, None, "wide"), Detection.of(wide[:, :, 0], 0.5))
    assert list(sinks.lost) == ["video"]
    assert sinks.lost["video"].startswith(f"cannot write {tmp_path / 'road.mp4'}: ")
    assert [line["index"] for line in entries(tmp_path / "log.jsonl") if "index" in line] == [0, 1]


def test_a_pyav_without_x264_is_said_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264"})
    with pytest.raises(MissingDependency, match="was built without x264; its wheels have it: pip install av"):
        VideoWriter(tmp_path / "road.mp4", 10)


def test_an_interrupt_while_a_video_is_written_is_not_swallowed(tmp_path):
    class Target(DurableFile):
        armed = False

        def write(self, data):
            if self.armed:
                raise KeyboardInterrupt
            return super().write(data)

    target = Target(tmp_path / "road.mp4", anew=True)
    with VideoEncoder(target, 10) as video:
        for index in range(3):
            video.write(noise(index))
        target.armed = True
        with pytest.raises(KeyboardInterrupt):
            for index in range(3):
                video.write(noise(index))
    assert len(read_video(tmp_path / "road.mp4")) >= 2
