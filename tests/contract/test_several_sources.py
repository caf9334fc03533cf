"""Several cameras through one net, and several files one after the other."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner
from waiting import wait_until

from edgecrack.cli import app
from edgecrack.errors import SourceError, SourceLost, SpecError
from edgecrack.runtime import Account, CrackDetector, JsonLines, SourceOptions, open_backend, open_source
from edgecrack.spec import FrameSpec, ModelSpec

QUICK = {"backoff": (0.05, 0.1), "timeout": 2.0}


@pytest.fixture
def cameras(camera):
    """Two cameras, of which the second shows brighter pictures."""
    second = type(camera)(rate=50)
    second.value = 200
    yield camera, second
    if not second.killed.is_set():
        second.kill()


@pytest.fixture
def pair(tmp_path, write_model):
    """A model that takes two frames a call."""
    return write_model(tmp_path / "pair.onnx", ModelSpec("scnet", frame=FrameSpec(48, 64), batch=2, threshold=0.5))


class Calls:
    """A backend that notes what it is given, and takes its time."""

    def __init__(self, backend, wait):
        self.backend, self.wait, self.calls = backend, wait, []
        self.in_flight = self.most = 0

    def __getattr__(self, name):
        return getattr(self.backend, name)

    def submit(self, frames):
        time.sleep(self.wait)
        self.calls.append([int(frame.mean()) for frame in frames])
        self.backend.submit(frames)
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)

    def collect(self):
        self.in_flight -= 1
        return self.backend.collect()


def opened(cameras, **options):
    return open_source([camera.url for camera in cameras], SourceOptions(**{**QUICK, **options}))


def test_frames_of_cameras_that_are_ready_go_into_one_call(cameras, pair):
    backend = Calls(open_backend(pair, "onnxruntime"), wait=0.1)  # slower than both cameras
    road = opened(cameras, staleness=9)
    seen, names = [], [part.name for part in road.parts]
    with CrackDetector(backend) as detector:
        for frame, detection in detector.stream(road):
            brightness = 50 if frame.source == names[0] else 200
            assert abs(int(detection.probability[0, 0]) - brightness) < 4
            seen.append((frame.source, frame.index))
            if len(seen) == 24:
                road.stop()
    both = [call for call in backend.calls if abs(call[0] - call[1]) > 100]
    assert len(both) >= len(backend.calls) - 4  # not before the second was connected, nor after the end
    shares = [sum(source == name for source, _ in seen) for name in names]
    assert min(shares) >= 8  # one gives twice as many frames, and gets no more turns
    for name in names:
        numbers = [index for source, index in seen if source == name]
        assert numbers == sorted(set(numbers))
    account = Account.of(road, dict(zip(names, shares, strict=True)))
    assert account.captured == sum(part.captured for part in account.sources.values())
    assert account.failed == 0


@pytest.mark.parametrize("drop", [True, False])
def test_of_a_camera_one_call_is_in_flight_also_while_its_answers_are_dealt_with(camera, model, drop):
    """A second one would wait for the first, and its frame grow old; where none may be dropped that does not count."""
    camera.rate = 100 if drop else 5
    backend = Calls(open_backend(model, "onnxruntime"), wait=0.05)
    backend.depth = 2
    seen = []
    with CrackDetector(backend) as detector, open_source(camera.url, SourceOptions(**QUICK, drop=drop)) as road:
        for frame, _ in detector.stream(road):
            seen.append(backend.in_flight)
            if len(seen) == 10:
                road.stop()
            if not drop and frame.index == 2:
                time.sleep(0.7)  # so that some wait
    assert backend.most == (1 if drop else 2)
    if drop:
        assert 1 in seen  # what came meanwhile is begun with first


def test_no_frame_waits_for_a_camera_that_is_silent(cameras, pair):
    there, silent = cameras
    silent.silent, there.rate = True, 5
    ages = []
    with CrackDetector(pair) as detector:
        for frame, _ in detector.stream(opened(cameras)):
            ages.append(time.monotonic() - frame.monotonic)
            if len(ages) == 5:
                break
    assert (
        min(ages) < 0.19
    )  # the interval of the camera, for which a whole batch would wait; the machine may be slow at times


def test_cameras_are_watched_by_a_list_in_python_and_leave_no_thread(cameras, model):
    before = threading.active_count()
    with CrackDetector(model) as detector:
        seen = set()
        for frame, _ in detector.stream([camera.url for camera in cameras]):
            seen.add(frame.source)
            if len(seen) == 2:
                break
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("edgecrack")]
    for camera in cameras:
        camera.kill()
    wait_until(lambda: threading.active_count() <= before)  # the cameras' own too


def test_cameras_with_options_of_their_own_are_joined(cameras):
    upright, hanging = cameras
    road = open_source(
        [open_source(upright.url, SourceOptions(**QUICK)), open_source(hanging.url, SourceOptions(**QUICK, every=5))]
    )
    with road:
        for frame in road:
            if frame.source == road.parts[1].name:
                assert frame.index % 5 == 0
                if frame.index:
                    break


def lines_of(out):
    log = out / "log.jsonl"
    return [json.loads(line) for line in log.read_text().split("\n")[:-1]] if log.exists() else []


def frames_of(out, source):
    return [line["index"] for line in lines_of(out) if "event" not in line and line["source"] == source]


def check_account(lines, source, account):
    """Each number of a source's frames is processed or dropped, once, as the summary says."""
    mine = [line for line in lines if line.get("source") == source]
    processed = [line["index"] for line in mine if "event" not in line]
    numbers = list(processed)
    for line in mine:
        if line.get("event") == "dropped":
            numbers += range(line["first"], line["last"] + 1)
    assert sorted(numbers) == list(range(account["captured"]))
    assert account["processed"] == len(processed)
    assert account["failed"] == 0
    assert sum(account["dropped"].values()) == account["captured"] - len(processed)


def test_a_run_goes_on_without_the_camera_that_was_given_up_and_ends_with_5(cameras, pair, tmp_path):
    out = tmp_path / "out"
    sources = [word for camera in cameras for word in ("--source", camera.url)]
    command = [sys.executable, "-m", "edgecrack", "run", pair, *sources, "--out", out]
    options = ["--max-reconnects", "1", "--no-overlay"]
    names = [f"http://***@127.0.0.1:{camera.port}/video?token=***" for camera in cameras]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_until(lambda: all(frames_of(out, name) for name in names), process)
            cameras[0].kill()
            wait_until(lambda: any(line.get("event") == "ended" for line in lines_of(out)), process)
            there = len(frames_of(out, names[1]))
            wait_until(lambda: len(frames_of(out, names[1])) > there + 10, process)
            cameras[1].kill()
            stdout, stderr = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 5, stderr
    lines = lines_of(out)
    summary = lines[-1]
    assert list(summary["sources"]) == names
    for name in names:
        check_account(lines, name, summary["sources"][name])
    for key in ("captured", "processed", "failed"):
        assert summary[key] == sum(part[key] for part in summary["sources"].values())
    assert [line.split(": ")[0].strip() for line in stdout.splitlines()] == [
        f"{summary['captured']} frames came",
        *(name.split(": ")[0] for name in names),
    ]
    last = stderr.splitlines()[-1]
    assert last.count("did not come back") == 2
    assert f"{names[0]}: ended" in stderr  # it is told when it happens too
    assert "secret" not in stdout + stderr


def test_a_signal_ends_a_run_on_several_cameras_with_whole_files(cameras, model, tmp_path):
    out = tmp_path / "out"
    sources = [word for camera in cameras for word in ("--source", camera.url)]
    command = [sys.executable, "-m", "edgecrack", "run", model, *sources, "--out", out, "--no-overlay"]
    names = [f"http://***@127.0.0.1:{camera.port}/video?token=***" for camera in cameras]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_until(lambda: all(frames_of(out, name) for name in names), process)
            cameras[1].silent = True
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 143
        finally:
            process.kill()
    lines = lines_of(out)
    for name in names:
        check_account(lines, name, lines[-1]["sources"][name])


# Files.


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "drive.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for _ in range(7):
        writer.write(np.full((48, 64, 3), 90, np.uint8))
    writer.release()
    return path


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "photos"
    path.mkdir()
    for name in "abc":
        cv2.imwrite(str(path / f"{name}.png"), np.full((40, 30, 3), 200, np.uint8))
    return path


def test_files_are_read_one_after_the_other(video, folder):
    with open_source([folder, video, folder / "b.png"]) as source:
        assert (source.rate, source.count) == (None, 11)
        frames = [(frame.source, frame.index) for frame in source]
    photos = [str(folder / f"{name}.png") for name in "abc"]
    assert frames == [
        *zip(photos, range(3), strict=True),
        *((str(video), index) for index in range(7)),
        (photos[1], 0),
    ]
    account = Account.of(source, {**dict.fromkeys(photos, 1), str(video): 6})  # it broke off
    parts = [(part.captured, part.processed, part.failed) for part in account.sources.values()]
    assert parts == [(3, 3, 0), (7, 6, 1), (1, 0, 1)]
    assert (account.captured, account.processed, account.failed) == (11, 9, 2)


def test_files_stop_at_the_next_frame_and_every_nth_is_of_each(video, folder):
    with open_source([video, folder], SourceOptions(every=2)) as source:
        assert source.count == 4 + 2
        frames = iter(source)
        assert [next(frames).index for _ in range(5)] == [0, 2, 4, 6, 0]
        source.stop()
        assert list(frames) == []
        assert source.read == 5


def test_a_file_that_cannot_be_read_ends_the_run_before_it_begins(video, tmp_path):
    (tmp_path / "torn.avi").write_bytes(video.read_bytes()[:200])
    with pytest.raises(SourceError, match=r"torn\.avi is not a video"):
        open_source([video, tmp_path / "torn.avi"])


def test_an_image_that_turns_out_damaged_is_passed_over(video, folder, tmp_path, caplog):
    (tmp_path / "torn.png").write_bytes(b"no image")
    with open_source([video, tmp_path / "torn.png", folder]) as source:
        frames = list(source)
    assert [frame.index for frame in frames] == [*range(7), *range(len(frames) - 7)]
    assert len(frames) > 7
    assert (source.read, source.dropped) == (len(frames) + 1, {"damaged": 1})
    assert [message for message in caplog.messages if "torn.png is not an image" in message]


def test_images_of_which_none_can_be_decoded_are_refused(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"no image")
    with open_source([tmp_path / "a.png", tmp_path / "b.png"]) as source, pytest.raises(SourceError, match=r"b\.png"):
        list(source)


@pytest.mark.parametrize(
    ("sources", "options", "message"),
    [
        (["rtsp://127.0.0.1:9/a", "VIDEO"], {}, r"all cameras or all files, got rtsp://127.0.0.1:9/a and .*drive\.avi"),
        (["VIDEO", "VIDEO"], {}, r"got one twice: .*drive\.avi"),
        (["VIDEO", "RELATIVE"], {}, r"got one twice: .*drive\.avi"),
        (["rtsp://u:secret@127.0.0.1:9/a"] * 2, {}, r"got one twice: rtsp://\*\*\*@127.0.0.1:9/a"),
        (["rtsp:/u:secret@h/a"] * 2, {}, r"got one twice: \*\*\*@h/a"),
        (["raw:64x48@30", "raw:32x24@30"], {}, "got one twice: standard input"),
        (["7", "v4l2:///dev/video7"], {}, "got one twice: /dev/video7"),
        (["raw:64x48", "VIDEO"], {}, "raw:64x48 is standard input, which is read alone"),
        (["VIDEO", "FOLDER"], {"loop": True}, "read once, not in a loop"),
        (["rtsp://127.0.0.1:9/a", "http://127.0.0.1:9"], {"codec": "MJPG"}, "rtsp takes no codec"),
    ],
)
def test_sources_that_do_not_go_together_are_refused(video, folder, sources, options, message):
    files = {"VIDEO": str(video), "FOLDER": str(folder), "RELATIVE": os.path.relpath(video)}
    with pytest.raises(SpecError, match=message) as caught:
        open_source([files.get(source, source) for source in sources], SourceOptions(**options))
    assert "secret" not in str(caught.value)


def test_a_link_to_itself_is_one_line(tmp_path, folder):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(SourceError, match=r"^no file or folder [^\n]*loop$"):
        open_source([str(tmp_path / "loop"), str(folder)])


def test_a_video_is_held_open_while_it_is_its_turn_only(video, tmp_path):
    files = [tmp_path / f"{number}.avi" for number in range(4)]
    for file in files:
        shutil.copy(video, file)

    def held():
        return sorted(
            name for fd in Path("/proc/self/fd").iterdir() if (name := _opened(fd).name) in "0.avi 1.avi 2.avi 3.avi"
        )

    with open_source(files) as source:
        assert source.count == 28
        assert held() == []
        for count, frame in enumerate(source):
            assert held() == [f"{count // 7}.avi"]
            assert frame.index == count % 7
    assert count == 27


def _opened(descriptor):
    try:
        return descriptor.readlink()
    except OSError:  # closed meanwhile
        return Path("closed")


def test_one_source_in_a_list_is_that_source(video):
    with open_source([video], SourceOptions(loop=True)) as source:
        assert source.name == str(video)
        assert next(iter(source)).index == 0
    assert isinstance(open_source([np.zeros((4, 4, 3), np.uint8)]).count, int)  # a list of frames stays one


def test_the_command_line_takes_several(video, folder, model, tmp_path):
    out = tmp_path / "out"
    sources = ["--source", str(video), "--source", str(folder)]
    done = CliRunner().invoke(app, ["run", str(model), *sources, "--out", str(out), "--no-overlay"])
    assert done.exit_code == 0, done.output
    assert "10 frames came: 10 processed, 0 dropped, 0 failed" in done.stdout
    assert f"  {video}: 7 frames came: 7 processed" in done.stdout
    assert f"  {folder}: 3 frames came: 3 processed" in done.stdout
    assert [line["source"] for line in lines_of(out)][6:8] == [str(video), str(folder / "a.png")]
    shown = CliRunner().invoke(app, ["run", str(model), *sources, "--out", str(out), "--dry-run"])
    assert shown.stdout.splitlines() == [f"{video} through OpenCV, 7 frames", f"{folder} through OpenCV, 3 frames"]


def test_a_callback_gets_every_frame_and_may_end_it(video, folder, model, tmp_path):
    seen = []
    with CrackDetector(model) as detector, JsonLines(tmp_path / "log.jsonl") as log:
        count = detector.stream_to([video, folder], log.write, lambda frame, detection: seen.append(frame.index))
        assert count == len(seen) == len((tmp_path / "log.jsonl").read_text().splitlines()) == 10

        def full(frame, detection):
            raise SourceError("the disk is full")

        with pytest.raises(SourceError, match="the disk is full"):
            detector.stream_to(video, full)
        assert detector.stream_to(video) == 7  # it is free again


def test_the_second_camera_may_be_lost_from_the_start(camera, model):
    with (
        CrackDetector(model) as detector,
        open_source([camera.url, "rtsp://127.0.0.1:9/a"], SourceOptions(**QUICK, max_reconnects=0)) as road,
        pytest.raises(SourceLost, match="a was tried 0 times"),
    ):
        for frame, _ in detector.stream(road):
            if frame.index == 30:
                camera.kill()
