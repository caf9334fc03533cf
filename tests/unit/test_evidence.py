import tracemalloc

import av
import cv2
import numpy as np
import pytest

from edgecrack.errors import SourceError, SpecError
from edgecrack.runtime import Detection, Evidence, Frame, MaskImages
from edgecrack.runtime.evidence import OnlyFinds

RATE = 10


def seen(index, crack=0, live=False, at=None, size=(48, 64), source="road.mp4"):
    """A frame that shows its number below, a bit in 8 pixels, with so many pixels of crack above."""
    at = index / RATE if at is None else at
    probability = np.zeros(size, np.uint8)
    probability[0, :crack] = 255
    image = np.full((*size, 3), 90, np.uint8)
    for bit in range(8):
        image[-16:, 8 * bit : 8 * bit + 8] = 220 if index >> bit & 1 else 30
    frame = Frame(image, index, at, source, 100 + at, 1.7e9 + at) if live else Frame(image, index, at, source)
    return frame, Detection.of(probability, 0.5)


def shown(path):
    """The times and the numbers of the frames of a clip."""
    with av.open(str(path)) as file:
        frames = [(frame.time, frame.to_ndarray(format="gray")[-16:, :64]) for frame in file.decode(video=0)]
    bits = [image.reshape(16, 8, 8).mean((0, 2)) > 125 for _, image in frames]
    return [time for time, _ in frames], [int(sum(1 << bit for bit in np.flatnonzero(each))) for each in bits]


def check_clip(path, first, last):
    """The clip holds frames `first` to `last`, each once, from time 0 on."""
    times, numbers = shown(path)
    assert numbers == list(range(first, last + 1))
    assert times == pytest.approx(np.arange(last + 1 - first) / RATE, abs=0.002)


def names(folder, suffix):
    return sorted(path.name for path in folder.rglob(f"*{suffix}"))


def watch(folder, finds, count, live, **options):
    with Evidence(folder, RATE, **options) as evidence:
        for index in range(count):
            evidence.write(*seen(index, finds.get(index, 0), live))


@pytest.mark.parametrize("live", [False, True])
def test_a_clip_goes_from_two_seconds_before_a_find_to_two_after(tmp_path, live):
    watch(tmp_path, {85: 5}, 200, live)
    assert names(tmp_path, "mp4") == ["000085.mp4"]
    _, numbers = shown(tmp_path / "000085.mp4")
    assert 52 <= numbers[0] <= 65  # at a key frame, of which there is one a second
    check_clip(tmp_path / "000085.mp4", numbers[0], 105)
    with av.open(str(tmp_path / "000085.mp4")) as file:
        assert next(file.decode(video=0)).key_frame


@pytest.mark.parametrize("live", [False, True])
def test_finds_whose_clips_overlap_share_one_and_no_frame_is_in_two(tmp_path, live):
    watch(tmp_path, {50: 5, 51: 5, 70: 5, 105: 5, 200: 5}, 240, live)
    assert names(tmp_path, "mp4") == ["000050.mp4", "000105.mp4", "000200.mp4"]
    _, first = shown(tmp_path / "000050.mp4")
    assert first[-1] == 90
    # its two seconds before begin where the clip before ended
    check_clip(tmp_path / "000105.mp4", 91, 125)
    _, third = shown(tmp_path / "000200.mp4")
    assert third[-1] == 220


def test_a_find_at_the_first_and_at_the_last_frame(tmp_path):
    watch(tmp_path, {0: 5, 59: 5}, 60, False)
    check_clip(tmp_path / "000000.mp4", 0, 20)
    _, numbers = shown(tmp_path / "000059.mp4")
    assert numbers[0] <= 39
    check_clip(tmp_path / "000059.mp4", numbers[0], 59)


def test_a_clip_that_grows_long_is_gone_on_with_in_another(tmp_path):
    watch(tmp_path, dict.fromkeys(range(10, 70), 5), 100, True, longest=3)
    assert names(tmp_path, "mp4") == ["000010.mp4", "000040.mp4", "000070.mp4"]
    check_clip(tmp_path / "000010.mp4", 0, 39)
    check_clip(tmp_path / "000040.mp4", 40, 69)
    check_clip(tmp_path / "000070.mp4", 70, 89)


def test_without_a_find_nothing_is_written(tmp_path):
    watch(tmp_path, {}, 50, True)
    assert not list(tmp_path.iterdir())


def test_only_a_share_of_crack_that_is_enough_is_a_find(tmp_path):
    share = 10 / (48 * 64)
    watch(tmp_path, {10: 9, 80: 10}, 120, False, share=share)
    assert names(tmp_path, "mp4") == ["000080.mp4"]
    with pytest.raises(SpecError, match="between 0 and 1, got 5"):
        Evidence(tmp_path, RATE, share=5)


def test_of_each_second_of_a_find_there_is_the_frame_with_the_most_crack_as_the_camera_gave_it(tmp_path):
    watch(tmp_path, {30: 5, 33: 9, 35: 7, 39: 1, 40: 3, 44: 4, 60: 2}, 100, True)
    assert names(tmp_path, "jpg") == ["000033.jpg", "000044.jpg", "000060.jpg"]
    image = cv2.imread(str(tmp_path / "000033.jpg"))
    np.testing.assert_allclose(image[:24], np.full((24, 64, 3), 90), atol=2)  # no crack is drawn into it


def test_a_change_of_size_begins_another_clip(tmp_path):
    with Evidence(tmp_path, RATE) as evidence:
        for index in range(60):
            evidence.write(*seen(index, 5 if index in (25, 33) else 0, True, size=(48, 64) if index < 30 else (32, 96)))
    assert names(tmp_path, "mp4") == ["000025.mp4", "000030.mp4"]
    _, before = shown(tmp_path / "000025.mp4")
    assert before[-1] == 29
    check_clip(tmp_path / "000030.mp4", 30, 53)


def test_what_was_seen_before_a_camera_was_lost_is_not_two_seconds_before_a_find(tmp_path):
    with Evidence(tmp_path, RATE) as evidence:
        for index in range(60):
            evidence.write(*seen(index, 5 if index == 32 else 0, True, at=index / RATE + (600 if index >= 30 else 0)))
    times, numbers = shown(tmp_path / "000032.mp4")
    assert numbers == list(range(30, 53))
    assert times[-1] == pytest.approx(2.2, abs=0.01)


def test_each_source_has_a_folder_of_its_own(tmp_path):
    with Evidence(tmp_path, RATE, sources=["front", "rear"]) as evidence:
        for index in range(40):
            for source in ("front", "rear"):
                evidence.write(*seen(index, 5 if (index, source) == (20, "rear") else 0, True, source=source))
    assert names(tmp_path / "rear", "4") == ["000020.mp4"]
    assert names(tmp_path / "front", "") == []


def test_a_clip_that_is_there_is_kept(tmp_path):
    for _ in range(2):
        watch(tmp_path, {5: 5}, 10, False)
    assert names(tmp_path, "mp4") == ["000005-2.mp4", "000005.mp4"]


def test_what_waits_for_a_find_stays_small(tmp_path):
    """Two seconds of it as pictures would be 69 MB."""
    rng = np.random.default_rng(0)
    road = cv2.GaussianBlur(rng.integers(0, 256, (720, 1280, 3), np.uint8), (9, 9), 0)
    tracemalloc.start()
    try:
        with Evidence(tmp_path, RATE) as evidence:
            for index in range(60):
                frame = Frame(np.roll(road, 8 * index, 0), index, index / RATE, "camera", index / RATE, 0.0)
                evidence.write(frame, Detection.of(np.zeros((720, 1280), np.uint8), 0.5))
            held, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 20e6
    assert most < 60e6


def test_masks_of_finds_only(tmp_path):
    with OnlyFinds(MaskImages(tmp_path), share=0.001) as masks:
        for index in range(4):
            masks.write(*seen(index, [0, 2, 20, 64][index]))
    assert names(tmp_path, "png") == ["000002.png", "000003.png"]


@pytest.mark.parametrize("live", [False, True])
def test_a_clip_does_not_reach_over_a_time_without_frames(tmp_path, live):
    """A camera was away for 10 minutes, first after a find and then before one."""
    with Evidence(tmp_path, RATE) as evidence:
        for index in range(100):
            at = index / RATE + (600 if index >= 40 else 0) + (600 if index >= 70 else 0)
            evidence.write(*seen(index, 5 if index in (35, 70) else 0, live, at))
    assert names(tmp_path, "mp4") == ["000035.mp4", "000070.mp4"]
    times, numbers = shown(tmp_path / "000035.mp4")
    assert numbers[-1] == 39
    assert times[-1] == pytest.approx((39 - numbers[0]) / RATE, abs=0.002)
    check_clip(tmp_path / "000070.mp4", 70, 90)


def test_recorded_sources_may_take_turns(tmp_path):
    """As where a program replays what two cameras recorded."""
    with Evidence(tmp_path, RATE, sources=("left", "right")) as evidence:
        for index in range(60):
            for source in ("left", "right"):
                evidence.write(*seen(index, 5 * (30 <= index < 34), source=source))
    for source in ("left", "right"):
        assert names(tmp_path / source, "mp4") == ["000030.mp4"]
        assert shown(tmp_path / source / "000030.mp4")[1][-1] == 53


def test_evidence_that_is_closed_takes_no_more(tmp_path):
    evidence = Evidence(tmp_path, RATE)
    evidence.write(*seen(0))
    evidence.close()
    with pytest.raises(SourceError, match="it is closed"):
        evidence.write(*seen(1, 5))
    assert not names(tmp_path, "mp4")
