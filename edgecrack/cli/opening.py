"""A model as `run` and `evaluate` open it; not a verb."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edgecrack.errors import EngineMismatch

if TYPE_CHECKING:
    from edgecrack.engine_file import EngineRecord
    from edgecrack.runtime import CrackDetector

BACKEND = "auto, openvino, onnxruntime or tensorrt."
DEVICE = "GPU that an engine runs on, counted from 0."
REBUILD = "If an engine does not run on this machine, rebuild it from its ONNX file and continue."
TILE = (
    "How to process frames larger than the model's input: fit (scale them), tile (cut them into overlapping tiles, not "
    "scaled), or auto (tile if scaling would shrink them below the scales the model was trained at)."
)


def opened(
    model: Path,
    *,
    threshold: float | None,
    backend: str,
    rebuild: bool,
    device: int,
    tile: str,
    roi: str | None = None,
    hint: str = "latency",
) -> CrackDetector:
    """The detector; an engine of another machine is built anew first if `rebuild`, else raised as EngineMismatch."""
    from functools import partial

    from edgecrack.runtime import CrackDetector

    if tile == "auto":
        _tell_choice()
    detector = partial(
        CrackDetector, model, threshold=threshold, backend=backend, device=device, hint=hint, tile=tile, roi=roi
    )
    try:
        return detector()
    except EngineMismatch as mismatch:
        if not rebuild:
            raise
        _rebuild(model, mismatch, device)
    return detector()


def _tell_choice() -> None:
    """Have it said on stderr which way frames are shown to the model."""
    import logging

    logging.basicConfig(format="%(name)s: %(message)s")
    logging.getLogger("edgecrack.tiling").setLevel(logging.INFO)


def _rebuild(engine: Path, mismatch: EngineMismatch, device: int) -> None:
    """With the flavour of TensorRT that built it before; an engine for named GPUs is built for this one too."""
    import hashlib

    from edgecrack.cli.build import built, chosen
    from edgecrack.cuda_probe import probe
    from edgecrack.engine_file import read_record

    try:
        record: EngineRecord | None = read_record(engine)
    except EngineMismatch:  # what it was is lost: the ONNX of its name, for this GPU
        record = None
    onnx = record.onnx_beside(engine) if record else engine.with_suffix(".onnx")
    names = None
    if record and record.flavour == "tensorrt_rtx":
        names = record.names_for(probe(device).compute_capability)
    if not onnx.is_file():
        raise EngineMismatch(f"{mismatch}; {onnx} is not there") from mismatch
    typer.echo(f"building again: {mismatch}", err=True)
    if record and hashlib.sha256(onnx.read_bytes()).hexdigest() != record.onnx_sha256:
        typer.echo(f"{onnx} has changed since the engine was built: the new one is of what is there now", err=True)
    built(onnx, engine, chosen(names, device), device=device)
