"""Score every shipped net on the labelled data: `make results`.

Each test list is scored at its frames' own size, rounded up to the net's stride, for fp32 and both INT8 flavours. The table
goes to stdout and to results.md, all metrics to results.json, the scores also into the nets' cards with --cards.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgecrack.calibration.qdq import int8_from_onnx
from edgecrack.calibration.ranges import Ranges
from edgecrack.dataset import Dataset, open_dataset
from edgecrack.evaluation import evaluate
from edgecrack.export.graph import onnx_from_model
from edgecrack.files import write_atomic
from edgecrack.images import read_image
from edgecrack.models import MODELS
from edgecrack.models.checkpoint import load_checkpoint
from edgecrack.runtime import CrackDetector
from edgecrack.spec import FrameSpec
from edgecrack.weights import card_path, ranges_path, weights_path

SETS = ("road_survey", "uav", "cfd", "negatives_concrete", "negatives_road")
FLAVOURS = ("fp32", "int8", "int8-cpu")


@dataclass(frozen=True)
class Row:
    """One net in one flavour on one list."""

    model: str
    flavour: str
    dataset: str
    size: str
    report: dict[str, Any]


def data_folder() -> Path:
    """Where the labelled data are: EDGECRACK_DATA, or ../shared/data."""
    return Path(os.environ.get("EDGECRACK_DATA", "../shared/data"))


def rows(models: list[str], sets: list[str], every: int, backend: str) -> Iterator[Row]:
    """Export and score; a row as soon as it is known."""
    for name in models:
        for dataset in (open_dataset(data_folder() / folder, "test").every(every) for folder in sets):
            with tempfile.TemporaryDirectory() as folder:
                for flavour, path in export(name, dataset, Path(folder)).items():
                    with CrackDetector(path, backend=backend) as detector:
                        report = evaluate(detector, dataset).to_json()
                        yield Row(name, flavour, dataset.name, str(detector.spec.frame), report)


def export(name: str, dataset: Dataset, folder: Path) -> dict[str, Path]:
    """The three flavours of the shipped net at the size of the data set's frames."""
    net, spec = load_checkpoint(weights_path(name))
    spec = replace(spec, frame=own_size(dataset, net.stride))
    fp32 = onnx_from_model(net, spec, folder / "fp32.onnx")
    ranges = Ranges.load(ranges_path(name))
    return {
        "fp32": fp32,
        "int8": int8_from_onnx(fp32, ranges, folder / "int8.onnx", target="tensorrt"),
        "int8-cpu": int8_from_onnx(fp32, ranges, folder / "int8-cpu.onnx", target="cpu"),
    }


def own_size(dataset: Dataset, stride: int) -> FrameSpec:
    """The largest frame's size, rounded up to the stride."""
    shapes = [read_image(path).shape for path in dataset.images]
    height, width = (math.ceil(max(shape[axis] for shape in shapes) / stride) * stride for axis in (0, 1))
    return FrameSpec(height, width)


HEAD = (
    "| net | flavour | test list | frames | at | strict best F1 | strict F1 | 2-pixel best F1 | 2-pixel F1 | pixels that fire |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


def line(row: Row) -> str:
    """A row of the table; `best` is at the best single threshold for the list, the other at the shipped one."""
    scores = row.report["scores"]
    names = ("best_f1", "f1", "best_f1_2px", "f1_2px", "fired_share")
    cells = [f"{scores[name]:.4f}" if name in scores else "" for name in names]
    return (
        f"| {row.model} | {row.flavour} | {row.dataset} | {row.report['frames']} | {row.size} | {' | '.join(cells)} |"
    )


def write_cards(found: list[Row]) -> None:
    """Put the scores into the card of each net."""
    for name in {row.model for row in found}:
        card = json.loads(card_path(name).read_text())
        card["scores"] = {
            dataset: {
                row.flavour: {"frames": row.report["frames"], **row.report["scores"]}
                for row in found
                if (row.model, row.dataset) == (name, dataset)
            }
            for dataset in dict.fromkeys(row.dataset for row in found)
        }
        write_atomic(card_path(name), json.dumps(card, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--every", type=int, default=1, help="score every N-th frame only")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--cards", action="store_true", help="write the scores into the shipped cards")
    options = parser.parse_args()
    if not data_folder().is_dir():
        raise SystemExit(f"no labelled data in {data_folder()}; set EDGECRACK_DATA to a folder with {', '.join(SETS)}")
    print(HEAD, flush=True)
    found = []
    for row in rows(options.models.split(","), options.sets.split(","), options.every, options.backend):
        found.append(row)
        print(line(row), flush=True)
    write_atomic(options.out / "results.md", "\n".join([HEAD, *map(line, found)]) + "\n")
    write_atomic(options.out / "results.json", json.dumps([vars(row) for row in found], indent=1) + "\n")
    if options.cards:
        write_cards(found)


if __name__ == "__main__":
    main()
