import subprocess
import sys
from fractions import Fraction

import cv2
import numpy as np
import pytest
from clips import cut, write_video
from drawings import grey

from edgecrack.errors import FrameError, SourceError, SpecError
from edgecrack.runtime import SourceOptions, open_source


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


def test_an_image_in_the_middle_that_cannot_be_decoded_is_dropped_and_named(folder, caplog):
    (folder / "b.png").write_bytes(b"junk")
    with open_source(folder) as source:
        assert [frame.index for frame in source] == [0, 2]
    assert (source.read, source.dropped) == (3, {"damaged": 1})
    assert caplog.messages == [f"{folder / 'b.png'} is not an image, or is truncated (4 bytes); it is dropped"]


def test_an_image_of_more_bits_in_the_middle_is_dropped_and_named(folder, caplog):
    cv2.imwrite(str(folder / "b.png"), np.full((6, 8, 3), 9000, np.uint16))
    with open_source(folder) as source:
        assert [frame.index for frame in source] == [0, 2]
    assert source.dropped == {"damaged": 1}
    assert caplog.messages == [
        f"{folder / 'b.png'} has uint16 pixels, wanted 8 bits a channel; scale it to 0..255 first; it is dropped"
    ]


def test_a_folder_that_is_named_like_an_image_is_none_of_a_pattern(folder):
    before = open_source(f"{folder}/*.png").count
    (folder / "x.png").mkdir()
    assert open_source(f"{folder}/*.png").count == before


@pytest.mark.parametrize("image", [np.full((6, 8, 3), 0.5), np.zeros((6, 8, 3), np.uint16), None, np.zeros((0, 8, 3))])
def test_a_frame_that_is_none_is_not_flipped_into_one(image):
    with pytest.raises(FrameError, match="wanted a"):
        list(open_source(iter([image]), SourceOptions(flip="180")))


def test_an_image_that_is_damaged_is_so_in_each_pass_of_a_loop_and_said_once(folder, caplog):
    (folder / "b.png").write_bytes(b"junk")
    with open_source(folder, SourceOptions(loop=True)) as source:
        assert [frame.index for frame, _ in zip(source, range(5), strict=False)] == [0, 2, 3, 5, 6]
    assert len(caplog.messages) == 1


def test_in_a_loop_that_skips_images_each_that_is_damaged_is_named_once(folder, caplog):
    """Every second of three: a, c, b, a and so on."""
    for name in ("a.jpg", "b.png"):
        (folder / name).write_bytes(b"junk")
    with open_source(folder, SourceOptions(loop=True, every=2)) as source:
        assert [frame.index for frame, _ in zip(source, range(4), strict=False)] == [2, 8, 14, 20]
    assert [message.split(" is ")[0].rpartition("/")[2] for message in caplog.messages] == ["a.jpg", "b.png"]


def test_a_loop_whose_images_are_all_lost_meanwhile_ends(folder):
    frames = iter(open_source(folder, SourceOptions(loop=True)))
    assert next(frames).index == 0
    for name in ("a.jpg", "b.png", "c.bmp"):
        (folder / name).write_bytes(b"junk")
    with pytest.raises(SourceError, match="is not an image"):
        next(frames)


@pytest.mark.parametrize("options", [{}, {"loop": True}, {"every": 2}])
def test_a_folder_without_an_image_that_can_be_decoded_is_refused(folder, options):
    for name in ("a.jpg", "b.png", "c.bmp"):
        (folder / name).write_bytes(b"junk")
    with pytest.raises(SourceError, match="is not an image"), open_source(folder, SourceOptions(**options)) as source:
        list(source)


def test_an_image_that_is_gone_when_its_turn_comes_is_named_after_those_before_it(folder):
    frames = iter(open_source(folder))
    assert next(frames).index == 0
    (folder / "b.png").unlink()
    with pytest.raises(SourceError, match=r"cannot read .*b\.png"):
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
        (
            lambda folder: "raw:8x8",
            {"drop": False},
            "raw without a rate drops no frame for lack of time anyway; leave --no-drop out",
        ),
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


@pytest.mark.parametrize(
    "source",
    [" rtsp://admin:secret@127.0.0.1:99999/live", "rtsp:/admin:secret@host/live", "admin:secret@host", "a:secret@*"],
)
def test_an_address_that_was_mistyped_is_refused_without_its_password(source):
    with pytest.raises((SourceError, SpecError)) as caught:
        open_source(source)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("", "the source is empty; wanted a file, folder, pattern or camera"),
        (None, "wanted a source by its name, or frames, got NoneType"),
        (5.0, "wanted a source by its name, or frames, got float"),
    ],
)
def test_what_is_no_source_is_one_line(source, words):
    with pytest.raises(SourceError, match=words):
        open_source(source)


def test_a_camera_may_be_named_by_its_number():
    with open_source(0) as source:
        assert source.name == "0"


def test_a_source_that_was_closed_is_not_read_as_an_empty_one(tmp_path, folder):
    for name in (write_video(tmp_path / "a.mp4", 3), folder):
        with open_source(name) as source:
            assert len(list(source)) == 3
        with pytest.raises(SourceError, match="is closed; open it again"):
            list(source)


def test_what_a_program_may_get_wrong_is_told(folder):
    class Own:
        name, rate, count = "own", None, None

        def __iter__(self):
            return iter([grey(0, 20, 30)])

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

    with pytest.raises(SpecError, match="a Source of your own alone"):
        open_source([Own(), Own()])
    with (
        open_source(folder) as source,
        pytest.raises(SpecError, match="is open already; give the options where it is opened"),
    ):
        open_source(source, SourceOptions(every=2))
    with pytest.raises(SpecError, match="a size is a FrameSpec, got"):
        SourceOptions(size=(480, 640))


def test_without_opencv_the_extra_is_named():
    code = """
import sys
sys.modules["cv2"] = None
import edgecrack
try:
    edgecrack.CrackDetector
except ImportError as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("MissingDependency cv2 is not installed; pip install 'edgecrack[cpu]'")
