"""Checkpoint files: safetensors whose metadata holds the ModelSpec. No pickle."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from edgecrack.errors import SpecError
from edgecrack.files import atomic_path
from edgecrack.models import CrackNet, build_model
from edgecrack.spec import METADATA_KEY, ModelSpec


def save_checkpoint(
    path: str | os.PathLike[str],
    net: CrackNet,
    spec: ModelSpec,
    dtype: torch.dtype = torch.float32,
    about: Mapping[str, str] | None = None,
) -> None:
    """Atomically write the weights of `net` as `dtype`, with `spec` and `about` in the metadata.

    Raises SpecError when a weight is not finite, SourceError when the file cannot be written.
    """
    # num_batches_tracked counts training steps and says nothing about the net
    state = {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    tensors = {key: value.detach().cpu().to(dtype).contiguous() for key, value in state.items()}
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise SpecError(f"a weight of this {spec.name} is not finite in {dtype}; it cannot be stored so")
    save_tensors(path, tensors, {**(about or {}), METADATA_KEY: spec.to_json()})


def load_checkpoint(path: str | os.PathLike[str]) -> tuple[CrackNet, ModelSpec]:
    """Load a net, in float32 and evaluation mode, and its spec.

    Raises SpecError when `path` is missing, truncated, not an edgecrack checkpoint, or holds weights of another net.
    """
    tensors, metadata = load_tensors(path)
    spec = _spec(path, metadata)
    net = build_model(spec)
    wanted = {k: v.shape for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    for key in [*wanted, *tensors]:
        if wanted.get(key) != getattr(tensors.get(key), "shape", None):
            raise SpecError(f"{path} does not hold the weights of {spec.name} at width {spec.width}: {key!r} differs")
    net.load_state_dict({key: value.float() for key, value in tensors.items()}, strict=False)
    return net.eval(), spec


def load_spec(path: str | os.PathLike[str]) -> ModelSpec:
    """The spec stored in a checkpoint or an unfinished run. Raises SpecError as `load_checkpoint` does."""
    return _spec(path, load_tensors(path)[1])


def _spec(path: str | os.PathLike[str], metadata: Mapping[str, str]) -> ModelSpec:
    if METADATA_KEY not in metadata:
        raise SpecError(f"{path} has no edgecrack spec inside; wanted a checkpoint written by `edgecrack train`")
    try:
        return ModelSpec.from_json(metadata[METADATA_KEY])
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from error


def save_tensors(path: str | os.PathLike[str], tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file atomically. Raises SourceError."""
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:
            raise OSError(str(error)) from error


def load_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Load the tensors and metadata of a safetensors file. Raises SpecError when it cannot be read."""
    if not Path(path).is_file():
        raise SpecError(f"no weights {path}")
    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise SpecError(f"{path} is not a safetensors file, or is truncated: {error}") from error
