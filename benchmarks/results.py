"""Score nets on the labelled data: `make results`.

Each test list is scored at its frames' own size, rounded up to the net's stride, for fp32 and both INT8 flavours. The
table goes to stdout and to results.md, all metrics to results.json, and with --cards some scores also into the nets'
cards. Scores are cached in a folder scores/ beside them, one file per net, flavour and list: a killed run resumes where
it was, and what changed (weights, ranges, frames, versions) is scored again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import Any

from edgecrack.calibration.qdq import int8_from_onnx
from edgecrack.calibration.ranges import Ranges
from edgecrack.dataset import Dataset, open_dataset
from edgecrack.errors import EdgecrackError, SpecError
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
FLAVOURS = {"fp32": None, "int8": "tensorrt", "int8-cpu": "cpu"}  # -> the target of its INT8
COLUMNS = {  # of the table; `best` is at the list's best single threshold, `shipped` at the net's own
    "best_f1": "strict best F1 (ODS)",
    "ois": "OIS",
    "average_precision": "AP",
    "iou": "crack IoU",
    "patch_f1": "patch F1",
    "f1": "strict F1, shipped",
    "best_f1_2px": "2-pixel best F1",
    "f1_2px": "2-pixel F1, shipped",
    "best_f1_5px": "5-pixel best F1",
    "area_ratio": "area marked / labelled, shipped",
    "fired_share": "pixels that fire",
}
CARD = (  # scores stored in the cards
    *COLUMNS,
    *("best_f1_threshold", "best_f1_2px_threshold", "best_f1_5px_threshold", "f1_at_0.5", "area_under_curve"),
    *("iou_frame_mean", "mean_iou", "aiu", "f0.3_frame_mean", "f0.3"),
)
LIBRARIES = ("edgecrack", "numpy", "opencv-python", "openvino", "onnxruntime", "torch")


@dataclass(frozen=True)
class Net:
    """A shipped net, or a user's checkpoint with its ranges, if any, beside it."""

    name: str
    weights: Path
    ranges: Path

    @classmethod
    def of(cls, text: str) -> Net:
        """From a name in `MODELS` or the path of a checkpoint NAME.safetensors, whose ranges are NAME.ranges.json."""
        if text in MODELS:
            return cls(text, weights_path(text), ranges_path(text))
        weights = Path(text)
        if not weights.is_file():
            raise SpecError(f"{text} is no checkpoint, and the nets are {', '.join(MODELS)}")
        return cls(str(weights.with_suffix("")), weights, weights.with_suffix(".ranges.json"))


@dataclass(frozen=True)
class Row:
    """The result of one net in one flavour on one list."""

    model: str
    flavour: str
    dataset: str
    size: str
    report: dict[str, Any]


@dataclass(frozen=True)
class Shelf:
    """Cache of scored rows, one file each; a row is valid as long as its `key` is the same."""

    folder: Path
    fresh: bool

    def path(self, net: Net, flavour: str, dataset: str) -> Path:
        name = net.name.strip("./").replace("/", "-")
        return self.folder / f"{name}.{flavour}.{dataset}.json"

    def find(self, path: Path, key: dict[str, Any]) -> Row | None:
        """The cached row with this key; None if there is none or if `fresh` is set."""
        if self.fresh or not path.is_file():
            return None
        try:
            kept = json.loads(path.read_text())
            return Row(**kept["row"]) if kept["key"] == key else None
        except (ValueError, KeyError, TypeError):  # written by another version
            return None

    def keep(self, path: Path, key: dict[str, Any], row: Row) -> None:
        write_atomic(path, json.dumps({"key": key, "row": asdict(row)}, indent=1) + "\n")


def data_folder() -> Path:
    """The folder of the labelled data: EDGECRACK_DATA, or ../shared/data."""
    return Path(os.environ.get("EDGECRACK_DATA", "../shared/data"))


def rows(options: argparse.Namespace, shelf: Shelf) -> Iterator[Row]:
    """Export and score what is not cached; yields each row as soon as it is known."""
    sets = [open_dataset(data_folder() / name, "test").every(options.every) for name in options.sets.split(",")]
    for net in map(Net.of, options.models.split(",")):
        for dataset in sets:
            yield from _of_set(net, dataset, options, shelf)


def _of_set(net: Net, dataset: Dataset, options: argparse.Namespace, shelf: Shelf) -> Iterator[Row]:
    key = key_of(net, dataset, options)
    flavours = [name for name in options.flavours.split(",") if FLAVOURS[name] is None or net.ranges.is_file()]
    kept = {name: shelf.find(shelf.path(net, name, dataset.name), key) for name in flavours}
    with tempfile.TemporaryDirectory() as folder:
        files = export(net, dataset, [name for name in flavours if not kept[name]], Path(folder))
        for flavour in flavours:
            row = kept[flavour] or _scored(net, flavour, files[flavour], dataset, options)
            if not kept[flavour]:
                shelf.keep(shelf.path(net, flavour, dataset.name), key, row)
            yield row


def _scored(net: Net, flavour: str, model: Path, dataset: Dataset, options: argparse.Namespace) -> Row:
    start = perf_counter()
    with CrackDetector(model, backend=options.backend) as detector:
        found = evaluate(detector, dataset, draws=options.draws)
        row = Row(net.name, flavour, dataset.name, str(detector.spec.frame), found.to_json())
    print(f"{net.name} {flavour} {dataset.name}: {perf_counter() - start:.0f} s", file=sys.stderr)
    return row


def key_of(net: Net, dataset: Dataset, options: argparse.Namespace) -> dict[str, Any]:
    """Everything that a row depends on except the code; use --fresh when that changed."""
    frames = [(path.name, path.stat().st_size) for path in (*dataset.images, *(dataset.masks or ()))]
    return {
        "weights": _sha256(net.weights.read_bytes()),
        "ranges": _sha256(net.ranges.read_bytes()) if net.ranges.is_file() else "",
        "frames": _sha256(repr(frames).encode()),
        "backend": options.backend,
        "draws": options.draws,
        "versions": {name: _version(name) for name in LIBRARIES},
    }


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""


def export(net: Net, dataset: Dataset, flavours: list[str], folder: Path) -> dict[str, Path]:
    """Export the net in these flavours at the size of the data set's frames."""
    if not flavours:
        return {}
    model, spec = load_checkpoint(net.weights)
    spec = replace(spec, frame=own_size(dataset, model.stride))
    files = {"fp32": onnx_from_model(model, spec, folder / "fp32.onnx")}
    for flavour in flavours:
        if target := FLAVOURS[flavour]:
            ranges = Ranges.load(net.ranges)
            files[flavour] = int8_from_onnx(files["fp32"], ranges, folder / f"{flavour}.onnx", target=target)
    return files


def own_size(dataset: Dataset, stride: int) -> FrameSpec:
    """The largest frame's size, rounded up to the stride."""
    shapes = [read_image(path).shape for path in dataset.images]
    height, width = (math.ceil(max(shape[axis] for shape in shapes) / stride) * stride for axis in (0, 1))
    return FrameSpec(height, width)


HEAD = f"| net | flavour | test list | frames | at | {' | '.join(COLUMNS.values())} |\n{'|---' * (5 + len(COLUMNS))}|"


def line(row: Row) -> str:
    """A row as a line of the table."""
    scores = row.report["scores"]
    cells = [f"{scores[name]:.4f}" if name in scores else "" for name in COLUMNS]
    return (
        f"| {row.model} | {row.flavour} | {row.dataset} | {row.report['frames']} | {row.size} | {' | '.join(cells)} |"
    )


def write_cards(found: list[Row]) -> None:
    """Write the scores into the card of each shipped net; those of other lists and flavours stay."""
    for name in {row.model for row in found} & set(MODELS):
        card = json.loads(card_path(name).read_text())
        for row in found:
            if row.model == name:
                scores = {key: row.report["scores"][key] for key in CARD if key in row.report["scores"]}
                lists = card.setdefault("scores", {})  # a net that has just been shipped has none
                lists.setdefault(row.dataset, {})[row.flavour] = {"frames": row.report["frames"], **scores}
        write_atomic(card_path(name), json.dumps(card, indent=1) + "\n")


def options_of(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(MODELS), help="shipped nets, or checkpoints NAME.safetensors")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--flavours", default=",".join(FLAVOURS), help="int8 is for TensorRT, and slow without it")
    parser.add_argument("--every", type=int, default=1, help="score every N-th frame only")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--draws", type=int, default=1000, help="of frames, for the intervals in results.json")
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--fresh", action="store_true", help="score anew what was scored before")
    parser.add_argument("--cards", action="store_true", help="write the scores into the shipped cards")
    options = parser.parse_args(arguments)
    unknown = set(options.flavours.split(",")) - set(FLAVOURS)
    if unknown or options.every < 1:
        parser.error(f"flavours are {', '.join(FLAVOURS)}, and --every is at least 1")
    if options.cards and options.every > 1:
        parser.error("cards hold the scores of whole lists: --cards goes without --every")
    if not data_folder().is_dir():
        raise SystemExit(f"no labelled data in {data_folder()}; set EDGECRACK_DATA to a folder with {', '.join(SETS)}")
    return options


def main(arguments: list[str] | None = None) -> None:
    options = options_of(arguments)
    print(HEAD, flush=True)
    found = []
    try:
        for row in rows(options, Shelf(options.out / "scores", options.fresh)):
            found.append(row)
            print(line(row), flush=True)
    except EdgecrackError as error:
        raise SystemExit(f"{error}; what was scored is kept, the same command goes on") from error
    write_atomic(options.out / "results.md", "\n".join([HEAD, *map(line, found)]) + "\n")
    write_atomic(options.out / "results.json", json.dumps([vars(row) for row in found], indent=1) + "\n")
    if options.cards:
        write_cards(found)


if __name__ == "__main__":
    main()
