"""edgecrack info: everything a file knows of itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer


def info(file: Annotated[Path, typer.Argument(help="A checkpoint, an ONNX file, an engine or a range file.")]) -> None:
    """Print what a file says about itself, as JSON."""
    typer.echo(json.dumps({"file": str(file), "bytes": _size(file)} | _describe(file), indent=2))


def _size(file: Path) -> int:
    from edgecrack.errors import SpecError

    if not file.is_file():
        raise SpecError(f"no file {file}")
    return file.stat().st_size


def _describe(file: Path) -> dict[str, Any]:
    from edgecrack.errors import SpecError

    if file.name.endswith(".engine.json"):
        return _record(file)
    describe = {".safetensors": _checkpoint, ".onnx": _onnx, ".engine": _engine, ".json": _ranges}.get(file.suffix)
    if describe is None:
        raise SpecError(f"{file} is no file of edgecrack; wanted .safetensors, .onnx, .engine or .json")
    return describe(file)


def _checkpoint(file: Path) -> dict[str, Any]:
    from edgecrack.errors import SpecError
    from edgecrack.models.checkpoint import load_tensors
    from edgecrack.spec import METADATA_KEY, ModelSpec

    tensors, metadata = load_tensors(file)
    if METADATA_KEY not in metadata:
        raise SpecError(f"{file} has no edgecrack spec inside; wanted a checkpoint written by `edgecrack train`")
    spec = ModelSpec.from_json(metadata[METADATA_KEY])
    kinds = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()})
    parameters = sum(tensor.numel() for tensor in tensors.values())
    return {"kind": "checkpoint", "tensors": len(tensors), "values": parameters, "types": kinds} | _spec(spec)


def _onnx(file: Path) -> dict[str, Any]:
    from collections import Counter

    from edgecrack.errors import EngineError
    from edgecrack.runtime.onnx_metadata import read_spec

    spec = read_spec(file)
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError:  # a device that only runs has no need of it
        return {"kind": "onnx"} | _spec(spec)
    try:
        graph = onnx.load(file, load_external_data=False)
    except DecodeError as error:
        raise EngineError(f"{file} is not an ONNX file, or is truncated") from error
    nodes = Counter(node.op_type for node in graph.graph.node)
    opset = {entry.domain or "onnx": entry.version for entry in graph.opset_import}
    return {"kind": "onnx", "opset": opset, "nodes": dict(nodes.most_common())} | _spec(spec)


def _engine(file: Path) -> dict[str, Any]:
    import hashlib

    from edgecrack.engine_file import read_record

    record = read_record(file)
    whole = hashlib.sha256(file.read_bytes()).hexdigest() == record.plan_sha256
    return {"kind": "engine", "is_what_was_built": whole, **json.loads(record.to_json())}


def _record(file: Path) -> dict[str, Any]:
    from edgecrack.engine_file import read_record

    return {"kind": "engine record", **json.loads(read_record(file.with_suffix("")).to_json())}


def _ranges(file: Path) -> dict[str, Any]:
    from edgecrack.calibration.ranges import Ranges
    from edgecrack.errors import SpecError

    try:
        content = json.loads(file.read_text())
    except ValueError:
        content = {}  # which is explained below
    if not isinstance(content, dict) or (content and "inputs" not in content):
        raise SpecError(f"{file} is neither calibration ranges nor the record of an engine, NAME.engine.json")
    ranges = Ranges.load(file)
    return {
        "kind": "calibration ranges",
        "model": ranges.model,
        "frame": str(ranges.frame),
        "frames": ranges.count,
        "frames_sha256": ranges.frames_sha256,
        "convolutions": len(ranges.inputs),
    }


def _spec(spec: Any) -> dict[str, Any]:
    return {"spec": json.loads(spec.to_json())}
