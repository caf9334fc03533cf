"""Video files as a source: each frame with its time, parts of them, and what a damaged one still gives."""

import logging
import os
import re
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from clips import cut, write_video
from drawings import grey

from edgecrack.errors import SourceError
from edgecrack.runtime import SourceOptions, open_source


@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi"])
def test_a_video_gives_every_frame_with_its_time(tmp_path, ending):
    path = write_video(tmp_path / f"road.{ending}")
    with open_source(path) as source:
        frames = list(source)
    assert source.rate == pytest.approx(30000 / 1001, abs=1e-3)
    assert source.count == len(frames) == 30
    assert source.truncated_at is None
    assert [frame.index for frame in frames] == list(range(30))
    assert [round(frame.image.mean() / 8) for frame in frames] == list(range(30))
    np.testing.assert_allclose([frame.captured_at for frame in frames], np.arange(30) * 1001 / 30000, atol=1e-3)
    assert {frame.source for frame in frames} == {str(path)}


def test_a_motion_jpeg_is_a_video(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 12.5, (64, 48))
    for value in (10, 200):
        writer.write(grey(value))
    writer.release()
    with open_source(tmp_path / "a.avi") as source:
        assert source.rate == 12.5
        assert [frame.image.mean() for frame in source] == pytest.approx([10, 200], abs=2)


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_the_time_is_the_files_own_where_frames_are_not_evenly_spaced(tmp_path, ending):
    times = [0, 100, 150, 1000, 1500, 3000]  # milliseconds
    with av.open(str(tmp_path / f"a.{ending}"), "w") as file:
        stream = file.add_stream("libx264", rate=30, options={"preset": "ultrafast", "tune": "zerolatency"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for time in times:
            picture = av.VideoFrame.from_ndarray(grey(90), format="bgr24")
            picture.pts = time
            file.mux(stream.encode(picture))
        file.mux(stream.encode(None))
    with open_source(tmp_path / f"a.{ending}") as source:
        found = [frame.captured_at and round(1e3 * frame.captured_at) for frame in source]
    opencv_4 = ending == "mkv" and cv2.__version__.startswith("4.")  # has no time for such a file, and none is made up
    assert found in ((times, [None] * len(times)) if opencv_4 else (times,))
    assert source.truncated_at is None


@pytest.mark.parametrize(("ending", "options"), [("mp4", {"movflags": "faststart"}), ("mkv", {})])
def test_a_video_that_was_cut_short_gives_what_is_left_and_says_so(tmp_path, caplog, ending, options):
    path = cut(write_video(tmp_path / f"a.{ending}", **options), 0.7)
    with caplog.at_level(logging.WARNING, "edgecrack"), open_source(path) as source:
        frames = list(source)
    assert 5 < len(frames) < 28
    assert [round(frame.image.mean() / 8) for frame in frames] == list(range(len(frames)))
    assert source.truncated_at == len(frames)
    assert caplog.messages == [
        f"{path} ends after {len(frames)} of 30 frames: it is truncated or trimmed, or its sound is longer"
    ]


def test_a_fragmented_video_that_was_cut_short_says_so(tmp_path, caplog):
    """It declares no more frames than it has: that it ends in the middle of one is all there is to see."""
    whole = write_video(tmp_path / "a.mp4", movflags="frag_every_frame+empty_moov")
    with caplog.at_level(logging.WARNING, "edgecrack"), open_source(whole) as source:
        assert len(list(source)) == 30
    assert (source.truncated_at, caplog.messages) == (None, [])
    path = cut(whole, 0.7)
    with caplog.at_level(logging.WARNING, "edgecrack"), open_source(path) as source:
        frames = list(source)
    assert source.truncated_at == len(frames) < 30
    assert caplog.messages == [f"{path} ends in the middle, after {len(frames)} frames: it is truncated"]
    whole = write_video(tmp_path / "b.mp4")
    whole.write_bytes(whole.read_bytes() + b"12345678 by my dashcam")
    with open_source(whole) as source:
        assert len(list(source)) == 30
    assert source.truncated_at is None


def test_frames_that_a_damaged_container_lost_are_said(tmp_path, caplog):
    path = write_video(tmp_path / "a.ts", key_every=1)
    data = bytearray(path.read_bytes())
    packets = len(data) // 188
    lost = range(188 * (packets // 2), 188 * (packets * 7 // 10), 188)
    for place in lost:
        data[place : place + 188] = b"\x47\x1f\xff\x10".ljust(188, b"\xff")  # a packet that says nothing
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING, "edgecrack"), open_source(path) as source:
        frames = list(source)
    assert 10 < len(frames) < 28
    assert re.search(
        rf"has {len(frames)} frames where its length means \d+: its rate varies, or parts of it are damaged",
        caplog.text,
    )


@pytest.mark.parametrize("options", [{}, {"start": 0.5, "end": 0.8}])
def test_a_raw_stream_has_the_times_of_its_rate(tmp_path, options):
    path = write_video(tmp_path / "a.h264", rate=Fraction(30))
    with open_source(path, SourceOptions(**options)) as source:
        times = [frame.captured_at for frame in source]
    expected = np.arange(30) / 30
    expected = expected[(expected >= options.get("start", 0)) & (expected < options.get("end", 9))]
    np.testing.assert_allclose(times, expected, atol=1e-6)


@pytest.mark.parametrize(("end", "cut_short"), [(0.3, False), (0.9, True), (60.0, True)])
def test_a_part_that_was_cut_short_says_so_and_no_other(tmp_path, end, cut_short):
    path = cut(write_video(tmp_path / "a.mp4", movflags="faststart"), 0.7)  # of a second
    with open_source(path, SourceOptions(end=end)) as source:
        frames = list(source)
    assert source.truncated_at == (len(frames) if cut_short else None)


def test_a_video_is_read_on_from_where_it_was_left(tmp_path):
    with open_source(write_video(tmp_path / "a.mp4")) as source:
        first = [frame.index for frame, _ in zip(source, range(3), strict=False)]
        assert first + [frame.index for frame in source][-1:] == [0, 1, 2, 29]


def test_a_part_of_a_video(tmp_path):
    path = write_video(tmp_path / "a.mp4", rate=Fraction(10))
    with open_source(path, SourceOptions(start=0.5, end=1.2)) as source:
        frames = list(source)
    assert [round(frame.image.mean() / 8) for frame in frames] == list(range(5, 12))
    assert [frame.index for frame in frames] == list(range(7))
    assert [round(frame.captured_at, 3) for frame in frames] == [0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1]
    assert source.count == source.read == 7
    assert source.truncated_at is None


def test_a_part_behind_the_end_is_told(tmp_path):
    with pytest.raises(SourceError, match=r"no frame of .*a\.mp4 can be decoded from 60 s; it is 1\.0 s long"):
        list(open_source(write_video(tmp_path / "a.mp4"), SourceOptions(start=60)))


def test_a_video_begins_again_until_it_is_stopped(tmp_path):
    with open_source(write_video(tmp_path / "a.mp4", count=5), SourceOptions(loop=True)) as source:
        seen = []
        for frame in source:
            seen.append((frame.index, round(frame.image.mean() / 8)))
            if frame.index == 12:
                source.stop()
    assert seen == [(index, index % 5) for index in range(13)]
    assert source.count is None
    assert source.read == 13


def test_a_part_of_a_video_begins_again_too(tmp_path):
    path = write_video(tmp_path / "a.mp4", rate=Fraction(10))
    with open_source(path, SourceOptions(loop=True, start=0.2, end=0.5)) as source:
        bright = [round(frame.image.mean() / 8) for frame, _ in zip(source, range(7), strict=False)]
    assert bright == [2, 3, 4, 2, 3, 4, 2]


def test_a_video_may_have_a_colon_in_its_name(tmp_path, monkeypatch):
    write_video(tmp_path / "road.mp4", 4).rename(tmp_path / "2026-05-01T12:30:00.mp4")
    monkeypatch.chdir(tmp_path)
    with open_source("2026-05-01T12:30:00.mp4") as source:
        assert source.name == "2026-05-01T12:30:00.mp4"
        assert len(list(source)) == 4


def test_a_name_that_is_not_utf_8_is_one_line(tmp_path):
    path = tmp_path / os.fsdecode(b"bad\xff.mp4")
    write_video(tmp_path / "good.mp4", 2).rename(path)
    with pytest.raises(SourceError, match=r"bad\\udcff\.mp4' is not UTF-8; rename it"):
        open_source(path)


@pytest.mark.parametrize("broken", [[10], [10, 11, 12], list(range(5, 25))])
def test_what_comes_after_a_damaged_part_of_a_video_is_read(tmp_path, caplog, broken):
    path = write_video(tmp_path / "a.mp4")
    with av.open(str(path)) as file:
        packets = [(packet.pos, packet.size) for packet in file.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for number in broken:
        place, size = packets[number]
        data[place : place + size] = bytes(size)
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING, "edgecrack"), open_source(path) as source:
        frames = list(source)
    assert source.dropped == {"damaged": len(broken)}
    assert source.read == len(frames) + len(broken) == 30
    assert [frame.index for frame in frames] == list(range(len(frames)))
    assert frames[-1].captured_at == pytest.approx(29 * 1001 / 30000, abs=1e-3)
    assert source.truncated_at is None
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(f"{path} is damaged after ")
    with open_source(path, SourceOptions(first=len(frames) - 2)) as rest:
        assert len(list(rest)) == rest.read == 2  # what is before was counted when it was read


def test_a_file_that_is_gone_when_its_turn_comes_is_one_line(tmp_path):
    first, second = write_video(tmp_path / "a.mp4", 3), write_video(tmp_path / "b.mp4", 3)
    with open_source([str(first), str(second)]) as source:
        frames = iter(source)
        next(frames)
        second.unlink()
        with pytest.raises(SourceError, match=r"b\.mp4 is not there any more$"):
            list(frames)
