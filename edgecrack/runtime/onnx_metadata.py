"""Reads the spec in an ONNX file without any ONNX library.

It serves every backend, detects truncated files and those that are not ONNX, and skips the weights.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from edgecrack.errors import EngineError, SpecError
from edgecrack.spec import METADATA_KEY, ModelSpec

_METADATA_PROPS = 14  # field number in ModelProto; each entry is a message {1: key, 2: value}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def read_spec(path: str | os.PathLike[str]) -> ModelSpec:
    """Read the ModelSpec in the metadata of the ONNX file at `path`.

    Raises EngineError when the file is missing, truncated, not ONNX or not written by edgecrack.
    """
    try:
        with Path(path).open("rb") as file:
            entries = [
                dict(_byte_fields(io.BytesIO(entry), len(entry)))
                for field, entry in _byte_fields(file, os.fstat(file.fileno()).st_size, only=_METADATA_PROPS)
            ]
        metadata = {entry.get(1, b"").decode(): entry.get(2, b"").decode() for entry in entries}
    except OSError as error:
        raise EngineError(f"cannot read the model {path}: {error.strerror or error}") from error
    except ValueError as error:
        hint = "; export that checkpoint: edgecrack export --weights" if Path(path).suffix == ".safetensors" else ""
        raise EngineError(f"{path} is not an ONNX file, or is truncated: {error}{hint}") from error
    if METADATA_KEY not in metadata:
        raise EngineError(
            f"{path} is not an edgecrack model; wanted an ONNX written by `edgecrack export`, "
            f"this one carries no {METADATA_KEY!r} in its metadata"
        )
    try:
        return ModelSpec.from_json(metadata[METADATA_KEY])
    except SpecError as error:
        raise EngineError(f"cannot use the model {path}: {error}") from error


def _byte_fields(file: BinaryIO, size: int, only: int | None = None) -> Iterator[tuple[int, bytes]]:
    """Yield number and content of a protobuf message's length-delimited fields. Raises ValueError for other data."""
    while file.tell() < size:
        field, kind = divmod(_varint(file), 8)
        if kind == _VARINT:
            _varint(file)
            continue
        length = _varint(file) if kind == _BYTES else {_FIXED64: 8, _FIXED32: 4}.get(kind)
        if length is None or field == 0:
            raise ValueError("it is no protobuf message")
        if length > size - file.tell():
            raise ValueError(f"a part of {length} bytes has only {size - file.tell()}")
        if kind == _BYTES and only in (None, field):
            yield field, file.read(length)
        else:
            file.seek(length, os.SEEK_CUR)


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise ValueError("it ends within a number")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("it is no protobuf message")
