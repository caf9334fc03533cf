import dataclasses
import errno
import json
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from edgecrack.errors import SourceError
from edgecrack.runtime import Detection, Frame, JsonLines
from edgecrack.runtime import disk as disk_module
from edgecrack.runtime.disk import DurableFile
from edgecrack.runtime.log import entries
from edgecrack.runtime.rle import rle_of


def seen(index, probability=None):
    probability = np.zeros((48, 64), np.uint8) if probability is None else probability
    image = np.zeros((*probability.shape, 3), np.uint8)
    return Frame(image, index, index / 10, "road.mp4"), Detection.of(probability, 0.5)


def decoded(rle):
    """The mask, bool (H, W), of COCO's compressed RLE, decoded as its C library does: a character, a bit, a run at a time."""
    height, width = rle["size"]
    counts, at, text = [], 0, rle["counts"]
    while at < len(text):
        value, shift, more = 0, 0, True
        while more:
            bits = ord(text[at]) - 48
            value |= (bits & 0x1F) << 5 * shift
            more = bool(bits & 0x20)
            at, shift = at + 1, shift + 1
            if not more and bits & 0x10:
                value |= -1 << 5 * shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
    flat = [number % 2 == 1 for number, count in enumerate(counts) for _ in range(count)]
    return np.array(flat, bool).reshape(width, height).T


@pytest.mark.parametrize("share", [0, 1, 0.5, 0.01, 0.99])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (9, 1), (48, 64), (61, 333)])
def test_rle_is_decoded_to_the_mask(size, share):
    mask = np.random.default_rng(7).random(size) < share
    rle = rle_of(mask)
    assert rle["size"] == list(size)
    np.testing.assert_array_equal(decoded(rle), mask)


def test_rle_is_what_pycocotools_writes():
    mask = np.zeros((48, 64), bool)
    mask[10:20, 5:9] = True
    mask[::7, 60:] = True
    mask[0, 0] = True
    # what pycocotools 2.0.11 encodes it as
    assert rle_of(mask)["counts"] == "01i79]I00000V\\2GjbM00000000000O0100000000000O0100000000000O0100000000000O"


def test_a_line_has_boxes_contours_and_the_mask_where_they_are_asked_for(tmp_path):
    probability = np.zeros((48, 64), np.uint8)
    probability[3:7, 10:30] = 255
    probability[40, 50] = 255
    with JsonLines(tmp_path / "log.jsonl", boxes=True, contours=True, rle=True) as log:
        log.write(*seen(0, probability))
        log.write(*seen(1))
    full, empty = entries(tmp_path / "log.jsonl")
    assert sorted(full["boxes"]) == [[10, 3, 30, 7], [50, 40, 51, 41]]
    assert any([10, 3] in contour for contour in full["contours"])
    np.testing.assert_array_equal(decoded(full["rle"]), probability > 0)
    assert (empty["boxes"], empty["contours"]) == ([], [])
    assert not decoded(empty["rle"]).any()


def test_a_line_has_the_drops_so_far(tmp_path):
    drops = {"camera": {"newer": 2}}
    with JsonLines(tmp_path / "log.jsonl", dropped=lambda source: drops["camera"]) as log:
        log.write(*seen(0))
        drops["camera"] = {"newer": 2, "stale": 1}
        log.write(*seen(1))
    assert [entry["dropped"] for entry in entries(tmp_path / "log.jsonl")] == [{"newer": 2}, {"newer": 2, "stale": 1}]


@pytest.mark.parametrize("torn", [b'{"index": 3, "sou', b"\0\0\0\0", b'{"index": 2}{"ind', b"7"])
def test_a_torn_last_line_is_cut_off_and_gone_on_after(tmp_path, torn):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"index": 0}\n{"index": 1}\n' + torn)
    assert [entry["index"] for entry in entries(path)] == [0, 1]
    with JsonLines(path) as log:
        log.write(*seen(2))
    assert [json.loads(line)["index"] for line in path.read_bytes().splitlines()] == [0, 1, 2]


def test_every_place_at_which_a_log_can_be_cut_leaves_its_whole_lines(tmp_path):
    path = tmp_path / "log.jsonl"
    with JsonLines(path) as log:
        for index in range(3):
            log.write(*seen(index))
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with JsonLines(path) as log:
            log.write(*seen(9))
        lines = [json.loads(line)["index"] for line in path.read_bytes().splitlines()]
        done = whole[:length].count(b"\n") + (
            whole[length : length + 1] == b"\n"
        )  # cut at the end of a line: it is whole
        assert lines == [*range(done), 9]


def test_a_name_that_is_too_long_is_one_line(tmp_path):
    path = tmp_path / ("x" * 300)
    with pytest.raises(SourceError, match=r"^cannot write [^\n]*: File name too long$"):
        JsonLines(path)
    with pytest.raises(SourceError, match=r"^cannot read [^\n]*: File name too long$"):
        list(entries(path))


def test_a_file_that_is_no_log_is_refused_by_its_line(tmp_path):
    path = tmp_path / "log.jsonl"
    for line in ("hello", "{}", "7"):
        path.write_text(f'{{"index": 0}}\n{line}\n{{"index": 1}}\n')
        with pytest.raises(SourceError, match=r"^line 2 of [^\n]*log\.jsonl is not of a log: [^\n]*$"):
            list(entries(path))
    assert list(entries(tmp_path / "none.jsonl")) == []


def test_what_was_written_is_on_the_disk_a_second_later(tmp_path, monkeypatch):
    synced, later = [], threading.Event()
    real = os.fsync

    def fsync(descriptor):
        real(descriptor)
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        later.set()

    monkeypatch.setattr(disk_module, "_INTERVAL", 0.01)
    monkeypatch.setattr(os, "fsync", fsync)
    with DurableFile(tmp_path / "new" / "a") as file:
        assert set(synced) == {str(tmp_path), str(tmp_path / "new")}  # or the name could go with the power
        for data in (b"one", b"two"):
            later.clear()
            synced.clear()
            file.write(data)
            assert later.wait(20)
            assert synced == [str(tmp_path / "new" / "a")]
    assert not [thread for thread in threading.enumerate() if thread.name == "edgecrack a"]
    assert (tmp_path / "new" / "a").read_bytes() == b"onetwo"


@pytest.mark.parametrize("goes_on", [True, False])
def test_a_disk_that_fails_behind_our_back_is_an_error_of_the_next_write_or_the_end(tmp_path, monkeypatch, goes_on):
    failed = threading.Event()

    def fsync(descriptor):
        failed.set()
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(disk_module, "_INTERVAL", 0.01)
    error = pytest.raises(SourceError, match=f"^cannot write {tmp_path / 'a'}: Input/output error$")
    file = DurableFile(tmp_path / "a")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        file.write(b"one")
        assert failed.wait(20)
    deadline = time.monotonic() + 20
    if goes_on:
        with error:
            while time.monotonic() < deadline:
                file.write(b"two")
                time.sleep(0.01)
    with error:
        file.close()


def test_a_time_of_day_without_a_clock_of_ours_is_logged(tmp_path):
    """As of a frame that a program passes on with its own time stamp."""
    frame, detection = seen(0)
    with JsonLines(tmp_path / "log.jsonl") as log:
        log.write(dataclasses.replace(frame, utc=1.7e9), detection)
    (line,) = entries(tmp_path / "log.jsonl")
    assert line["utc"] == "2023-11-14T22:13:20.000Z"
    assert "age" not in line
