"""What runs that are gone on with read and write; found through `pythonpath`."""

import json
import re

import av
import cv2
import numpy as np

from edgecrack.runtime import VideoWriter

FRAMES = 240
DAMAGED = 2  # images of the folder


def write_video(tmp_path):
    with VideoWriter(tmp_path / "road.mp4", 25) as writer:
        for index in range(FRAMES):
            writer.write(np.full((48, 64, 3), 200 if index % 50 < 25 else 20, np.uint8))
    return tmp_path / "road.mp4"


def write_folder(tmp_path):
    (tmp_path / "photos" / "more").mkdir(parents=True)
    for index in range(FRAMES // 4):
        place = tmp_path / "photos" / ("more" if index % 3 == 0 else "") / f"{index // 2:03d}.png"
        cv2.imwrite(str(place), np.full((48, 64, 3), 2 * index, np.uint8))
    for name in ("000", "004"):  # of a folder's, its first too: what the log lacks when it goes on
        (tmp_path / "photos" / f"{name}.png").write_bytes(b"junk")
    return tmp_path / "photos"


def lines_of(out):
    """The whole lines of the log, without what differs from run to run."""
    path = out / "log.jsonl"
    data = path.read_bytes() if path.exists() else b""
    lines = [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]
    return [{name: value for name, value in line.items() if name != "speed"} for line in lines]


def masks_of(out):
    """The masks by name: of what a kill left half-written there is none."""
    masks = {str(path.relative_to(out)): path for path in out.glob("masks/**/*.png") if not path.name.startswith(".")}
    return {name: cv2.imread(str(path), cv2.IMREAD_UNCHANGED).tobytes() for name, path in masks.items()}


def pictures_of(out):
    """The names of the overlays, for videos without the numbers of their segments."""
    videos = {re.sub(r"(-\d+)?\.mp4", "", path.name) for path in out.glob("*.mp4")}
    return videos | {str(path.relative_to(out)) for path in out.glob("overlay/**/*.jpg")}


def frames_in(path):
    with av.open(str(path)) as file:
        return sum(1 for _ in file.decode(video=0))


def overlays_of(out):
    """How many frames each overlay has; one that a kill left without any counts for nothing."""
    return [frames_in(path) for path in out.glob("overlay*.mp4") if b"moof" in path.read_bytes()[:4096]]
