"""Turn a finished run into shipped weights: `python tools/ship_weights.py runs/scnet --data DIR,DIR`.

Writes edgecrack/weights/NAME.safetensors (float16), NAME.ranges.json (calibration ranges measured on crops of the training
frames) and NAME.card.json. `make results` adds the scores of the stored file to the card.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import edgecrack.weights
from edgecrack.calibration.frames import CalibrationFrames
from edgecrack.calibration.ranges import measure_ranges
from edgecrack.export.graph import onnx_from_model
from edgecrack.files import write_atomic
from edgecrack.metrics import f_score
from edgecrack.models import CrackNet
from edgecrack.models.checkpoint import load_checkpoint, load_tensors, save_checkpoint
from edgecrack.spec import ModelSpec
from edgecrack.training.data import Frames, open_training_sets
from edgecrack.training.validation import best_level, score

WITH_CRACKS, BACKGROUND = 210, 42  # numbers of calibration crops, over all sets
LEG = ("recipe", "steps", "minutes_on_one_core", "best_step")  # what a card records of a run
LICENCE = "Apache-2.0; trained on data under MIT (road_survey), CC0 (uav) and on frames rendered by edgecrack"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument(
        "--further", action="store_true", help="the run was started from the weights that are shipped now"
    )
    parser.add_argument(
        "--averaged", action="store_true", help="ship the mean of the run's weights and those that are shipped now"
    )
    parser.add_argument("--rendered", type=int, default=400)
    parser.add_argument("--folder", type=Path, default=Path(edgecrack.weights.__file__).parent)
    options = parser.parse_args()
    net, spec = load_checkpoint(options.run / "best.safetensors")
    card_file = options.folder / f"{spec.name}.card.json"
    earlier = legs(json.loads(card_file.read_text())) if options.further else []
    if options.averaged:
        average(net, load_checkpoint(options.folder / f"{spec.name}.safetensors")[0])
    with tempfile.TemporaryDirectory(dir=options.folder, prefix=".") as folder:
        write(net, spec, options, earlier, Path(folder))
        for path in sorted(Path(folder).iterdir()):  # weights without their ranges would be quantised with old ones
            path.replace(options.folder / path.name)
            print(options.folder / path.name)


def write(
    net: CrackNet, spec: ModelSpec, options: argparse.Namespace, earlier: list[dict[str, Any]], folder: Path
) -> None:
    """Write weights, ranges and card into `folder`."""
    stored = folder / f"{spec.name}.safetensors"
    save_checkpoint(stored, net, spec, torch.float16)
    net, spec = load_checkpoint(stored)
    sets, held_back = open_training_sets(filter(None, options.data.split(",")), options.rendered)
    # At the frames' own size and at that of the default export, which shrinks them: the shipped threshold is for both.
    found = score(net, held_back)
    found |= {f"{name} at {spec.frame}": pooled for name, pooled in score(net, held_back, frame=spec.frame).items()}
    _, level = best_level(found)
    names = tuple(frames.name for frames in sets)  # an earlier leg may have been trained on more sets than the last
    spec = dataclasses.replace(spec, threshold=level / 255, trained_on=names)
    save_checkpoint(stored, net, spec, torch.float16)
    crops = calibration_crops(sets, spec.frame.height)
    with tempfile.TemporaryDirectory() as scratch:
        onnx = onnx_from_model(net, spec, Path(scratch) / "fp32.onnx")
        ranges = measure_ranges(onnx, CalibrationFrames.from_images(crops, spec.frame))
    ranges.save(folder / f"{spec.name}.ranges.json")
    card = {"name": spec.name, "width": spec.width, "parameters": sum(p.numel() for p in net.parameters())}
    card |= {"trained_on": names, "data": [[frames.name, len(frames)] for frames in sets]}
    card |= training_record(options.run) | {"averaged": options.averaged}
    card |= {"threshold": spec.threshold, "licence": LICENCE}
    card["earlier_legs"] = earlier
    card["held_back_f1_2px"] = {name: round(float(f_score(pooled)[level]), 4) for name, pooled in found.items()}
    card |= {"calibration": f"{len(crops)} crops of the training frames, {WITH_CRACKS} of them with cracks, seed 0"}
    write_atomic(folder / f"{spec.name}.card.json", json.dumps(card, indent=1) + "\n")


@torch.no_grad()
def average(net: CrackNet, other: CrackNet) -> None:
    """Average the weights of `net` with those of `other`, with which it shares its training up to the last leg."""
    theirs = other.state_dict()
    for name, value in net.state_dict().items():
        if value.is_floating_point():
            value.lerp_(theirs[name], 0.5)


def calibration_crops(sets: Sequence[Frames], side: int) -> list[NDArray[np.uint8]]:
    """Crops of the training frames at their own scale, uint8 (side, side, 3), or all of a smaller frame."""
    rng = np.random.default_rng(0)
    found: dict[bool, list[NDArray[np.uint8]]] = {True: [], False: []}
    wanted = {True: WITH_CRACKS, False: BACKGROUND}
    while any(len(found[kind]) < wanted[kind] for kind in found):
        frames = sets[int(rng.integers(len(sets)))]
        frame = frames[int(rng.integers(len(frames)))]
        top, left = (int(rng.integers(max(1, length - side + 1))) for length in frame.image.shape[:2])
        window = np.s_[top : top + side, left : left + side]
        kind = bool(frame.mask is not None and frame.mask[window].any())
        if len(found[kind]) < wanted[kind]:
            found[kind].append(np.ascontiguousarray(frame.image[window]))
    return found[True] + found[False]


def legs(card: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs behind shipped weights, each started from the one before."""
    return [*card.get("earlier_legs", []), {name: card[name] for name in (*LEG, "averaged") if name in card}]


def training_record(run: Path) -> dict[str, object]:
    """The recipe, steps, minutes and best step of a run."""
    _, metadata = load_tensors(run / "last.safetensors")
    state = json.loads(metadata["state"])
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    best = [record for record in log if record["best"]][-1]
    values = json.loads(metadata["recipe"]), state["step"], round(state["seconds"] / 60), best["step"]
    return dict(zip(LEG, values, strict=True))


if __name__ == "__main__":
    main()
