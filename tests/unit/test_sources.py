import logging
import os
import subprocess
import sys
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from drawings import grey

from edgecrack.errors import FrameError, SourceError, SpecError
from edgecrack.runtime import SourceOptions, open_source


def write_video(path, count=30, rate=Fraction(30000, 1001), **options):
    """`count` frames that brighten by 8, so that a frame can be told from its neighbours; H.264 without B-frames."""
    with av.open(str(path), "w", options=options) as file:
        stream = file.add_stream("libx264", rate=rate, options={"preset": "ultrafast", "crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        noise = np.random.default_rng(0).integers(0, 8, (48, 64, 3), np.uint8)
        for index in range(count):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(noise + np.uint8(8 * index), format="bgr24")))
        file.mux(stream.encode(None))
    return path


def cut(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


@pytest.fixture
def folder(tmp_path):
    for index, name in enumerate(["b.png", "a.jpg", "c.bmp"]):
        cv2.imwrite(str(tmp_path / name), grey(50 * index, 20 + index, 30))
    (tmp_path / "notes.txt").write_text("not an image")
    return tmp_path


def test_a_folder_gives_its_images_by_name_each_of_its_own_size(folder):
    with open_source(folder) as source:
        frames = list(source)
    assert (source.name, source.rate, source.count) == (str(folder), None, 3)
    assert [frame.source for frame in frames] == [str(folder / name) for name in ("a.jpg", "b.png", "c.bmp")]
    assert [frame.index for frame in frames] == [0, 1, 2]
    assert [frame.image.shape for frame in frames] == [(21, 30, 3), (20, 30, 3), (22, 30, 3)]
    assert [frame.captured_at for frame in frames] == [None] * 3


@pytest.mark.parametrize(("pattern", "names"), [("*.png", ["b.png"]), ("[ab].*", ["a.jpg", "b.png"]), ("**", None)])
def test_a_pattern_gives_the_images_that_match(folder, pattern, names):
    names = names or ["a.jpg", "b.png", "c.bmp"]
    assert [frame.source for frame in open_source(f"{folder}/{pattern}")] == [str(folder / name) for name in names]


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(tmp_path):
    cv2.imwrite(str(tmp_path / "a[1].png"), grey(7))
    assert [frame.image[0, 0, 0] for frame in open_source(tmp_path / "a[1].png")] == [7]


def test_an_image_file_is_one_frame(folder):
    (frame,) = open_source(str(folder / "b.png"))
    np.testing.assert_array_equal(frame.image, grey(0, 20, 30))


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
    assert caplog.messages == [f"{path} ends after {len(frames)} of 30 frames: it is truncated"]


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


def nothing(tmp_path):
    return tmp_path / "nothing.mp4"


def empty_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


def no_match(tmp_path):
    return f"{tmp_path}/*.jpg"


def junk_video(tmp_path):
    (tmp_path / "junk.mp4").write_bytes(b"junk" * 1000)
    return tmp_path / "junk.mp4"


def empty_video(tmp_path):
    (tmp_path / "empty.mp4").touch()
    return tmp_path / "empty.mp4"


def video_without_its_index(tmp_path):
    return cut(write_video(tmp_path / "cut.mp4"), 0.7)


def video_without_a_frame(tmp_path):
    path = write_video(tmp_path / "cut.mp4", movflags="faststart")
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"mdat") + 8])
    return path


def text(tmp_path):
    (tmp_path / "a.txt").write_text("hello")
    return tmp_path / "a.txt"


def junk_image(tmp_path):
    (tmp_path / "junk.png").write_bytes(b"junk" * 1000)
    return tmp_path / "junk.png"


def cut_image(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8))
    return cut(tmp_path / "a.png", 0.5)


MAKERS = [
    nothing,
    empty_folder,
    no_match,
    junk_video,
    empty_video,
    video_without_its_index,
    video_without_a_frame,
    text,
    junk_image,
    cut_image,
]


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_what_cannot_be_read_is_one_line_that_names_it(tmp_path, make, capfd):
    path = make(tmp_path)
    with pytest.raises(SourceError) as caught, open_source(path) as source:
        list(source)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    if make is not cut_image:  # libpng has the last word there
        assert capfd.readouterr().err == ""


def test_ffmpeg_does_not_write_over_our_words(tmp_path):
    path = cut(write_video(tmp_path / "a.mp4", movflags="faststart"), 0.7)
    code = "import sys\nfrom edgecrack.runtime import open_source\nprint(len(list(open_source(sys.argv[1]))))"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 5
    assert len(done.stderr.splitlines()) == 1
    assert "truncated" in done.stderr


def test_an_image_in_the_middle_that_cannot_be_read_is_named_after_those_before_it(folder):
    (folder / "b.png").write_bytes(b"junk")
    frames = iter(open_source(folder))
    assert next(frames).index == 0
    with pytest.raises(SourceError, match=r"b\.png is not an image"):
        next(frames)


def test_an_image_of_16_bits_is_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "deep.png"), np.full((9, 9, 3), 40000, np.uint16))
    with pytest.raises(FrameError, match=r"deep\.png has uint16 pixels"):
        list(open_source(tmp_path / "deep.png"))


def test_an_unknown_kind_is_refused_without_its_password():
    with pytest.raises(SourceError) as caught:
        open_source("ftp://user:secret@camera/1")
    assert str(caught.value).startswith(
        "cannot read ftp:// sources; wanted a file, folder or pattern, or one of csi, gst,"
    )
    assert "secret" not in str(caught.value)


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
    with pytest.raises(SourceError, match=r"no frame of .*a\.mp4 can be decoded from 60 s"):
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


def test_a_folder_begins_again(folder):
    with open_source(folder, SourceOptions(loop=True)) as source:
        names = [frame.source[-5:] for frame, _ in zip(source, range(5), strict=False)]
    assert names == ["a.jpg", "b.png", "c.bmp", "a.jpg", "b.png"]
    assert source.count is None


def test_frames_of_files_are_flipped_as_asked(tmp_path):
    image = grey(0)
    image[0, 0] = 200
    cv2.imwrite(str(tmp_path / "a.png"), image)
    (frame,) = open_source(tmp_path / "a.png", SourceOptions(flip="180"))
    assert [tuple(place) for place in np.argwhere(frame.image[..., 0] == 200)] == [(47, 63)]


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (lambda folder: folder, {"start": 1.0}, "a source of images takes no start"),
        (lambda folder: write_video(folder / "a.mp4"), {"rate": 5.0}, "a video file takes no rate"),
        (lambda folder: [grey(1)], {"loop": True}, "an iterable of frames takes no loop"),
        (lambda folder: "rtsp://camera", {"codec": "MJPG", "end": 2.0}, "rtsp takes no codec or end"),
        (lambda folder: "raw:8x8", {"drop": False}, "raw without a rate takes no drop"),
    ],
)
def test_an_option_that_the_source_cannot_do_is_refused(folder, make, options, words):
    with pytest.raises(SpecError, match=words):
        open_source(make(folder), SourceOptions(**options))


def test_an_open_source_is_taken_as_it_is(folder):
    source = open_source(folder)
    assert open_source(source) is source


@pytest.mark.parametrize(
    ("step", "indices"), [(1, list(range(20))), (3, [0, 3, 6, 9, 12, 15, 18]), (20, [0]), (50, [0])]
)
def test_every_nth_frame_keeps_its_place_and_time(tmp_path, step, indices):
    path = write_video(tmp_path / "a.mp4", 20, Fraction(12))
    with open_source(path, SourceOptions(every=step)) as source:
        assert (source.count, source.rate) == (len(indices), 12 / step)
        frames = list(source)
    assert source.truncated_at is None
    assert [frame.index for frame in frames] == indices
    np.testing.assert_allclose([frame.captured_at for frame in frames], np.array(indices) / 12, atol=1e-3)
    assert [round(frame.image.mean() / 8 - 0.44) for frame in frames] == indices


def test_every_nth_frame_of_a_part_that_begins_again(tmp_path):
    path = write_video(tmp_path / "a.mp4", rate=Fraction(10))
    with open_source(path, SourceOptions(start=0.5, end=1.2, every=3)) as source:
        assert [(frame.index, round(frame.image.mean() / 8)) for frame in source] == [(0, 5), (3, 8), (6, 11)]
    assert source.count == source.read == 3
    with open_source(path, SourceOptions(start=0.2, end=0.6, every=3, loop=True)) as source:
        frames = [(frame.index, round(frame.image.mean() / 8)) for frame, _ in zip(source, range(4), strict=False)]
    assert frames == [(0, 2), (3, 5), (6, 4), (9, 3)]


def test_images_between_are_not_even_read(tmp_path):
    for index in range(5):
        cv2.imwrite(str(tmp_path / f"{index}.png"), grey(9))
        if index % 2:
            (tmp_path / f"{index}.png").write_bytes(b"junk")
    source = open_source(tmp_path, SourceOptions(every=2))
    assert source.count == 3
    assert [frame.index for frame in source] == [0, 2, 4]
    assert (source.read, source.dropped) == (3, {})


@pytest.mark.parametrize("step", [0, -1, 1.5, "2"])
def test_every_which_frame_must_be_a_whole_number(step):
    with pytest.raises(SpecError, match="whole number from 1"):
        SourceOptions(every=step)


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


@pytest.mark.parametrize(
    "source",
    [" rtsp://admin:secret@127.0.0.1:99999/live", "rtsp:/admin:secret@host/live", "admin:secret@host", "a:secret@*"],
)
def test_an_address_that_was_mistyped_is_refused_without_its_password(source):
    with pytest.raises((SourceError, SpecError)) as caught:
        open_source(source)
    assert "secret" not in str(caught.value)


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


def test_a_source_that_was_closed_is_not_read_as_an_empty_one(tmp_path, folder):
    for name in (write_video(tmp_path / "a.mp4", 3), folder):
        with open_source(name) as source:
            assert len(list(source)) == 3
        with pytest.raises(SourceError, match="is closed; open it again"):
            list(source)
