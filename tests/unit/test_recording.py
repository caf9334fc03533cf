import errno
import io
import math
import os
from pathlib import Path

import av
import numpy as np
import pytest
from recordings import names, seen, values

from edgecrack.errors import SourceError
from edgecrack.runtime import Detection, Event, Frame, JsonLines, MaskImages, OverlayVideo, Sinks
from edgecrack.runtime.disk import DurableFile
from edgecrack.runtime.log import entries
from edgecrack.runtime.recording import Labels, last_of


@pytest.mark.parametrize("live", [False, True])
def test_a_segment_that_is_full_is_gone_on_with_in_another(tmp_path, live):
    with OverlayVideo(tmp_path / "a.mp4", 10, segment=2) as video:
        for index in range(50):
            video.write(*seen(5 * index, index / 10 if live else None))
    assert names(tmp_path) == ["a-2.mp4", "a-3.mp4", "a.mp4"]
    shown = values(tmp_path / "a.mp4") + values(tmp_path / "a-2.mp4") + values(tmp_path / "a-3.mp4")
    assert shown == pytest.approx(range(0, 250, 5), abs=4)
    with av.open(str(tmp_path / "a-2.mp4")) as file:
        assert next(file.decode(video=0)).time == 0


def test_a_video_that_is_closed_is_not_begun_again(tmp_path):
    with OverlayVideo(tmp_path / "a.mp4", 10) as video:
        video.write(*seen(90, 0.0))
    before = (tmp_path / "a.mp4").read_bytes()
    with pytest.raises(SourceError, match="it is closed"):
        video.write(*seen(10, 0.1))
    assert (tmp_path / "a.mp4").read_bytes() == before


def test_each_source_has_videos_of_its_own(tmp_path):
    sources = ["rtsp://***@10.0.0.5:8554/front?token=***", "rtsp://***@10.0.0.5:8554/rear", "/dev/video0"]
    with OverlayVideo(tmp_path / "a.mp4", 10, sources=sources) as video:
        for index in range(9):
            video.write(*seen(60 * (index % 3), index / 10, sources[index % 3], (48, 64) if index % 3 else (96, 32)))
    found = {name: values(tmp_path / name) for name in names(tmp_path)}
    expected = {"a-rtsp-10.0.0.5-8554-front-token.mp4": 0, "a-rtsp-10.0.0.5-8554-rear.mp4": 60, "a-dev-video0.mp4": 120}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx([value] * 3, abs=4)


def test_sources_that_nobody_announced_do_not_share_a_video(tmp_path):
    with OverlayVideo(tmp_path / "a.mp4", 10) as video:
        for index in range(4):
            video.write(*seen(100 * (index % 2), index / 10, f"camera {index % 2}"))
    assert names(tmp_path) == ["a-camera-1.mp4", "a.mp4"]
    assert values(tmp_path / "a.mp4") == pytest.approx([0, 0], abs=2)


def test_images_share_a_video_whatever_their_names(tmp_path):
    with OverlayVideo(tmp_path / "a.mp4", 10) as video:
        for index in range(3):
            video.write(*seen(index, source=f"photos/{index}.jpg"))
    assert names(tmp_path) == ["a.mp4"]


@pytest.mark.parametrize(
    ("sources", "labels"),
    [
        (["a/drive.mp4"], [""]),
        (["a/drive.mp4", "b/drive.mp4"], ["drive", "drive_2"]),
        (["rtsp://host/a", "rtsp://host/a/2"], ["rtsp-host-a", "rtsp-host-a-2_2"]),  # a-2 is the second file of a
        (["drive-2.mp4", "drive.mp4", "drive-3.mp4"], ["drive-2", "drive_2", "drive-3"]),
        (["rtsp://admin:secret@host/a", "0"], ["rtsp-host-a", "0"]),
        (["camera", "camera (2)"], ["camera", "camera-2_2"]),
        (["../..", "///"], ["source", "source_2"]),
        (["x" * 300 + ".mp4", "Straße 1.mp4"], ["x" * 64, "Straße-1"]),
    ],
)
def test_a_label_is_fit_for_a_file_and_holds_no_password(sources, labels):
    known = Labels(sources)
    found = [known.of(seen(0, 0.0, source)[0]) for source in sources]
    assert found == labels


def test_the_masks_of_several_videos_do_not_overwrite_each_other(tmp_path):
    with MaskImages(tmp_path, sources=["a.mp4", "b.mp4"]) as masks:
        for source in ("a.mp4", "b.mp4"):
            for index in range(2):
                masks.write(*seen(index, source=source))
    assert {name: names(tmp_path / name) for name in names(tmp_path)} == {
        "a": ["000000.png", "000001.png"],
        "b": ["000000.png", "000001.png"],
    }


def test_videos_go_on_after_those_that_are_there(tmp_path):
    (tmp_path / "a-7.mp4").write_bytes(b"")  # what a kill leaves of a video before its first frame
    for resume in (False, True, True):
        with OverlayVideo(tmp_path / "a.mp4", 10, resume=resume) as video:
            for index in range(3):
                video.write(*seen(index))
        if not resume:
            (tmp_path / "a-7.mp4").write_bytes((tmp_path / "a.mp4").read_bytes()[:700])
    assert names(tmp_path) == ["a-2.mp4", "a-3.mp4", "a.mp4"]
    assert [len(values(tmp_path / name)) for name in names(tmp_path)] == [3, 3, 3]


def test_a_video_is_finished_when_the_turn_of_the_next_file_comes(tmp_path):
    sources = ["a.mp4", "b.mp4"]
    with OverlayVideo(tmp_path / "overlay.mp4", 10, sources=sources) as video:
        for source in sources:
            for index in range(3):
                frame, detection = seen(index)
                video.write(Frame(frame.image, index, index / 10, source), detection)
        assert len(values(tmp_path / "overlay-a.mp4")) == 3  # of the other the last frame is being encoded


def test_without_room_to_keep_to_nothing_is_deleted(tmp_path):
    with OverlayVideo(tmp_path / "a.mp4", 10, segment=1) as video:
        for index in range(60):
            video.write(*seen(index))
    assert len(names(tmp_path)) == 6


class Sieve:
    """A sink that fails at a frame."""

    def __init__(self, error, at):
        self.error, self.at, self.frames, self.closed = error, at, [], 0

    def write(self, frame, detection):
        if frame.index >= self.at:
            raise self.error
        self.frames.append(frame.index)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.closed += 1


@pytest.mark.parametrize("sink", ["masks", "video"])
def test_a_disk_that_is_gone_ends_the_recording_only(tmp_path, monkeypatch, sink):
    """As a card that was mounted anew for reading only, or a stick that was pulled: tidying up fails too."""
    gone = OSError(errno.EIO, "Input/output error")
    sinks, log = Sinks(), Sieve(None, at=math.inf)
    sinks.add("out", MaskImages(tmp_path) if sink == "masks" else OverlayVideo(tmp_path / "a.mp4", 10))
    sinks.add("log", log)
    sinks.write(*seen(0))

    def fail(*_, **__):
        raise gone

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", fail)
        broken.setattr(Path, "unlink", fail)
        broken.setattr("edgecrack.runtime.disk.DurableFile._add", fail)
        broken.setattr("edgecrack.runtime.disk._sync", fail)
        sinks.write(*seen(1))
    sinks.write(*seen(2))
    assert log.frames == [0, 1, 2]
    assert list(sinks.lost) == ["out"]


def test_a_file_that_cannot_even_be_closed_is_said_in_one_line(tmp_path):
    class Stuck(io.FileIO):
        def close(self):
            super().close()
            raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    file = DurableFile(tmp_path / "log.jsonl")
    file._file.close()
    file._file = Stuck(tmp_path / "log.jsonl", "ab")
    with pytest.raises(SourceError, match=r"cannot write .*log\.jsonl: Transport endpoint is not connected"):
        file.close()


def test_a_sink_that_cannot_write_is_left_out_and_the_others_go_on(tmp_path, caplog):
    full, fine = Sieve(SourceError("cannot write x: No space left on device"), 2), Sieve(None, 99)
    with Sinks() as sinks:
        sinks.add("x", full)
        sinks.add("y", fine)
        sinks.add("log", JsonLines(tmp_path / "log.jsonl"))
        for index in range(5):
            sinks.write(*seen(index))
        assert full.closed == 1
    assert (full.frames, fine.frames) == ([0, 1], [0, 1, 2, 3, 4])
    assert (full.closed, fine.closed) == (1, 1)
    assert caplog.messages == ["cannot write x: No space left on device; going on without it"]
    assert sinks.lost == {"x": "cannot write x: No space left on device"}
    with pytest.raises(SourceError, match=r"^cannot write x: No space left on device$"):
        sinks.check()
    lines = list(entries(tmp_path / "log.jsonl"))
    assert [line.get("index", line.get("event")) for line in lines] == [0, 1, "left out", 2, 3, 4]
    assert lines[2]["source"] == "x"
    assert lines[2]["reason"] == "cannot write x: No space left on device"


def test_what_else_a_sink_raises_ends_the_run_with_the_others_closed(tmp_path):
    bug, fine = Sieve(ZeroDivisionError(), 1), Sieve(None, 99)
    sinks = Sinks()
    sinks.add("fine", fine)
    sinks.add("bug", bug)
    with pytest.raises(ZeroDivisionError), sinks:
        for index in range(3):
            sinks.write(*seen(index))
    assert (bug.closed, fine.closed) == (1, 1)
    assert fine.frames == [0, 1]


def test_a_log_that_is_full_stops_nothing_and_a_video_that_cannot_be_finished_is_told(tmp_path, caplog):
    class Unfinished(Sieve):
        def __exit__(self, *error):
            raise SourceError("cannot write v: Input/output error")

    fine = Sieve(None, 99)
    with Sinks() as sinks:
        sinks.add("v", Unfinished(None, 99))
        sinks.add("fine", fine)
        sinks.add("log", JsonLines("/dev/full"))
        for index in range(3):
            sinks.write(*seen(index))
    assert fine.frames == [0, 1, 2]
    assert list(sinks.lost) == ["log", "v"]
    assert "cannot write /dev/full: No space left on device; going on without it" in caplog.messages
    with pytest.raises(SourceError, match="No space left on device; cannot write v: Input/output error"):
        sinks.check()


def test_what_fails_when_it_is_closed_keeps_nothing_else_open_and_is_in_the_log(tmp_path):
    class Failing(Sieve):
        def __exit__(self, *error):
            raise self.error

    fine = Sieve(None, 99)
    sinks = Sinks()
    sinks.add("v", Failing(SourceError("cannot write v: Input/output error"), 99))
    sinks.add("bug", Failing(ZeroDivisionError(), 99))
    sinks.add("fine", fine)
    sinks.add("log", JsonLines(tmp_path / "log.jsonl"))
    with pytest.raises(ZeroDivisionError):
        sinks.close()
    assert fine.closed == 1
    assert list(sinks.lost) == ["v"]
    assert [entry["source"] for entry in entries(tmp_path / "log.jsonl")] == ["v"]


def test_a_video_of_hours_is_sought_in_as_fast_as_it_is_read(tmp_path):
    """One fragment a frame does not make a reader lose its way."""
    with OverlayVideo(tmp_path / "a.mp4", 10) as video:
        for index in range(240):
            video.write(*seen(index))
    with av.open(str(tmp_path / "a.mp4")) as file:
        stream = file.streams.video[0]
        file.seek(int(15 / stream.time_base), stream=stream)
        frame = next(file.decode(video=0))
        assert 14 <= frame.time <= 15
        assert frame.to_ndarray(format="bgr24").mean() == pytest.approx(10 * frame.time, abs=3)


def test_a_video_that_a_power_cut_ends_anywhere_plays_up_to_there(tmp_path):
    with OverlayVideo(tmp_path / "a.mp4", 10) as video:
        for index in range(40):
            video.write(*seen(5 * index))
    whole = (tmp_path / "a.mp4").read_bytes()
    ends = [place for place in range(len(whole)) if whole[place + 4 : place + 8] == b"moof"][1:]
    for length in range(ends[0], ends[-1], 97):
        (tmp_path / "cut.mp4").write_bytes(whole[:length])
        assert last_of(tmp_path / "cut.mp4") == 1
        frames = sum(end <= length for end in ends)
        assert values(tmp_path / "cut.mp4") == pytest.approx(range(0, 5 * frames, 5), abs=4)
    (tmp_path / "cut.mp4").write_bytes(whole[: ends[0] - 1])
    assert last_of(tmp_path / "cut.mp4") == 0
    assert not (tmp_path / "cut.mp4").exists()


def test_a_log_that_fails_when_it_is_told_of_another_is_told_once(caplog):
    class Full:
        def write(self, *told):
            raise SourceError("no space left")

        write_event = write

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

    with Sinks() as sinks:
        sinks.add("overlay.mp4", Full())
        sinks.add("log.jsonl", Full())
        sinks.write(None, None)
    assert sinks.lost == {"overlay.mp4": "no space left", "log.jsonl": "no space left"}
    assert len(caplog.records) == 2


def test_what_is_told_after_the_end_is_no_loss(tmp_path):
    with Sinks() as sinks:
        sinks.add("log.jsonl", JsonLines(tmp_path / "log.jsonl"))
    sinks.write_event(Event("marked", "camera", 0.0))
    assert sinks.lost == {}


def test_frames_of_a_file_are_shown_when_the_road_was_seen_whatever_the_rate(tmp_path):
    """As those of the slower of two files, and of one that is not evenly spaced; a file that begins again goes on."""
    captured = [0.0, 0.5, 0.6, 3.0, 0.0, 0.5]
    with OverlayVideo(tmp_path / "a.mp4", 30) as video:
        for index, at in enumerate(captured):
            image = np.full((48, 64, 3), 40 * index, np.uint8)
            video.write(Frame(image, index, at, "road.mp4"), Detection.of(np.zeros((48, 64), np.uint8), 0.5))
    with av.open(str(tmp_path / "a.mp4")) as file:
        times = [frame.time for frame in file.decode(video=0)]
    assert times == pytest.approx([0, 0.5, 0.6, 3.0, 3.0 + 1 / 30, 3.5 + 1 / 30], abs=1e-4)
