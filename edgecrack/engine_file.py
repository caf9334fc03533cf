"""The record beside an engine, NAME.engine.json: what the plan is and where it runs, readable without TensorRT."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgecrack.errors import EngineError, EngineMismatch, SpecError
from edgecrack.spec import ModelSpec


@dataclass(frozen=True)
class EngineRecord:
    """What `edgecrack build` records about an engine.

    Attributes:
        spec: specification of the model.
        flavour: TensorRT flavour: "tensorrt" or "tensorrt_rtx".
        version: TensorRT version.
        cuda: CUDA version of the driver on the build machine, such as "13.0"; "" without a driver.
        gpu: name of the GPU it was built on; "" for an engine built for named compute capabilities.
        multiprocessors: of that GPU; 0 if there is none, or if an older edgecrack built the engine.
        compute_capabilities: those that it runs on, such as "8.7".
        plan_sha256: SHA-256 of the engine file.
        onnx: path of the ONNX file it was built from, relative to the engine's folder.
        onnx_sha256: SHA-256 of that file.
        precisions: number of convolutions by the type they compute in.
        build_seconds: duration of the build.
    """

    spec: ModelSpec
    flavour: str
    version: str
    cuda: str
    gpu: str
    compute_capabilities: tuple[str, ...]
    plan_sha256: str
    onnx: str
    onnx_sha256: str
    precisions: Mapping[str, int] = field(default_factory=dict)
    build_seconds: float = 0.0
    multiprocessors: int = 0

    def to_json(self) -> str:
        """Serialise to human-readable JSON."""
        values = dataclasses.asdict(self) | {"spec": json.loads(self.spec.to_json())}
        return json.dumps(values, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> EngineRecord:
        """Parse what `to_json` wrote. Raises SpecError for anything else."""
        try:
            values = json.loads(text)
            wrong = [name for name, value in values.items() if name != "spec" and not _is_of_its_type(name, value)]
            if wrong:
                raise SpecError(f"not an engine record: {wrong[0]} cannot be {json.dumps(values[wrong[0]])}")
            spec = ModelSpec.from_json(json.dumps(values.pop("spec")))
            capabilities = tuple(values.pop("compute_capabilities"))
            return cls(spec=spec, compute_capabilities=capabilities, **values)
        except SpecError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise SpecError(f"not an engine record of this version of edgecrack: {error}") from error

    def rebuild_command(self, engine: Path, compute_capability: str = "", device: int = 0) -> str:
        """The command that rebuilds the engine from its ONNX, also for `compute_capability`, or on `device`."""
        command = ["edgecrack", "build", str(self.onnx_beside(engine)), "-o", str(engine)]
        if self.flavour == "tensorrt_rtx":
            command += ["--for", self.names_for(compute_capability)]
        elif device:
            command += ["--device", str(device)]
        return shlex.join(command)

    def onnx_beside(self, engine: Path) -> Path:
        """The path of the ONNX file that `engine`, to which this record belongs, was built from."""
        folder, real = engine.parent, engine.parent.resolve()
        if real != Path(os.path.abspath(folder)):  # noqa: PTH100 (`absolute` keeps ..): through a symbolic link
            folder = real
        return Path(os.path.normpath(folder / self.onnx))

    def names_for(self, compute_capability: str) -> str:
        """The GPUs it was built for plus `compute_capability`, in the form that `--for` takes, such as "sm86,sm89"."""
        wanted = dict.fromkeys((*self.compute_capabilities, *filter(None, [compute_capability])))
        return ",".join(f"sm{name.replace('.', '')}" for name in wanted)


def record_path(engine: str | os.PathLike[str]) -> Path:
    """The path of an engine file's record: beside it, with .json appended."""
    return Path(f"{os.fspath(engine)}.json")


def _is_of_its_type(name: str, value: Any) -> bool:
    """Whether a JSON `value` is valid for the record field `name`; users may edit records."""
    if name == "compute_capabilities":
        return isinstance(value, list) and all(isinstance(e, str) and re.fullmatch(r"\d+\.\d+", e) for e in value)
    if name == "precisions":
        return isinstance(value, dict) and all(type(count) is int for count in value.values())
    if name == "multiprocessors":
        return type(value) is int
    if name == "cuda":
        return isinstance(value, str) and bool(re.fullmatch(r"(\d+\.\d+)?", value))
    if name == "build_seconds":
        return type(value) in (int, float)
    return isinstance(value, str)


def read_record(engine: str | os.PathLike[str]) -> EngineRecord:
    """Read the record of an engine file. Raises EngineMismatch if it is missing or unreadable, with the command that
    rebuilds the engine, from the ONNX of the same name if there is one."""
    path = record_path(engine)
    try:
        return EngineRecord.from_json(path.read_text())
    except OSError as error:
        reason = error.strerror or str(error)
    except (SpecError, UnicodeDecodeError) as error:
        reason = str(error)
    onnx = Path(engine).with_suffix(".onnx")
    command = ["edgecrack", "build", str(onnx) if onnx.is_file() else "MODEL.onnx", "-o", os.fspath(engine)]
    raise EngineMismatch(
        f"cannot read {path}, which says where {engine} runs: {reason}; build the engine again: {shlex.join(command)}"
    )


def read_plan(engine: str | os.PathLike[str], record: EngineRecord, device: int = 0) -> bytes:
    """Read an engine file. Raises EngineError if unreadable, EngineMismatch if its SHA-256 is not the recorded one."""
    try:
        plan = Path(engine).read_bytes()
    except OSError as error:
        raise EngineError(f"cannot read the engine {engine}: {error.strerror or error}") from error
    if hashlib.sha256(plan).hexdigest() != record.plan_sha256:
        raise mismatch(
            engine,
            record,
            "it is not the file that was built: its SHA-256 differs from the one in its record",
            device=device,
        )
    return plan


def mismatch(
    engine: str | os.PathLike[str], record: EngineRecord, reason: str, compute_capability: str = "", device: int = 0
) -> EngineMismatch:
    """Make the error that says why an engine cannot run here, with the command that builds one that can."""
    command = record.rebuild_command(Path(engine), compute_capability, device)
    return EngineMismatch(f"cannot run {engine}: {reason}; build it again: {command}")
