"""Third-party weights that users supply, since they have their own licences: HED and VGG-16."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from edgecrack.errors import SpecError
from edgecrack.models.blocks import CrackNet
from edgecrack.models.checkpoint import load_tensors
from edgecrack.models.hed import HED
from edgecrack.models.scnet import SCNet
from edgecrack.spec import ModelSpec

# The public PyTorch port's names -> ours. Its blocks after the first start with a pooling layer, so that their
# convolutions have the indices 1, 3, 5.
_PARTS = ("One", "Two", "Thr", "Fou", "Fiv")


def load_hed(path: str | os.PathLike[str]) -> HED:
    """Load HED from a safetensors file with our tensor names or those of the public PyTorch port.

    Raises SpecError when it holds no HED, naming the first missing weight or pointing to how to convert a torch file.
    """
    tensors = _tensors(path)
    hed = HED()
    wanted = hed.state_dict()
    found = {_our_name(name): value for name, value in tensors.items()}
    for name, value in wanted.items():
        if name not in found or found[name].shape != value.shape:
            raise SpecError(f"{path} does not hold the weights of HED: {name} is missing or of another shape")
    hed.load_state_dict({name: found[name].float() for name in wanted})
    return hed.eval().requires_grad_(False)


def needs_hed(spec: ModelSpec) -> bool:
    """Whether the net that `spec` describes takes HED's edges as input."""
    return spec.options.get("prior") == "hed"


def with_hed(net: CrackNet, spec: ModelSpec, path: str | os.PathLike[str] | None) -> ModelSpec:
    """Attach HED from `path` to a net that needs it; returns the spec with the hash of that file.

    Raises SpecError when a net that needs HED gets none, when one that does not gets one, and when the file is not the
    one that the net was trained with.
    """
    if not (isinstance(net, SCNet) and needs_hed(spec)):
        if path:
            raise SpecError(
                f"HED is for SCNet with prior=hed; this is {spec.name} with {dict(spec.options) or 'no switches'}"
            )
        return spec
    if path is None:
        raise SpecError(
            "this SCNet looks at HED's edges: give --hed FILE with HED's weights, or train it with --set prior=cheap or "
            "--set prior=none"
        )
    net.attach_prior(load_hed(path))
    found = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    if spec.hashes.get("hed", found) != found:
        raise SpecError(f"this SCNet was trained with another file of HED's weights than {path}: their hashes differ")
    return replace(spec, hashes={**spec.hashes, "hed": found})


def start_from_vgg(net: nn.Module, path: str | os.PathLike[str]) -> None:
    """Copy the 13 convolutions of a VGG-16, under torchvision's names, into the encoder of `net`.

    Raises SpecError unless the net has an encoder of that shape: SCNet and CACPNet at width 1. Biases that the net
    lacks are skipped; in a first layer that also takes an edge prior, the weights of that channel become 0.
    """
    tensors = _tensors(path)
    order = sorted(
        (name for name in tensors if re.fullmatch(r"features\.\d+\.weight", name)),
        key=lambda name: int(name.split(".")[1]),
    )
    encoder = getattr(net, "encoder", None)
    convolutions = [m for m in encoder.modules() if isinstance(m, nn.Conv2d)] if isinstance(encoder, nn.Module) else []
    if len(order) != 13 or len(convolutions) != 13:
        got = f"{len(order)} and {len(convolutions)}"
        raise SpecError(f"wanted 13 convolutions of a VGG-16 in {path} and in the encoder, got {got}")
    for name, convolution in zip(order, convolutions, strict=True):
        _copy(tensors, name, convolution)


def _copy(tensors: Mapping[str, Tensor], name: str, convolution: nn.Conv2d) -> None:
    weight, own = tensors[name].float(), convolution.weight
    if weight.shape[0] != own.shape[0] or weight.shape[2:] != own.shape[2:] or weight.shape[1] > own.shape[1]:
        raise SpecError(
            f"{name} is {tuple(weight.shape)}, the encoder has {tuple(own.shape)}; VGG-16 fits nets of width 1"
        )
    with torch.no_grad():
        own.zero_()
        own[:, : weight.shape[1]] = weight
        bias = tensors.get(name.replace(".weight", ".bias"))
        if convolution.bias is not None and bias is not None:
            convolution.bias.copy_(bias)


def _tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    try:
        return load_tensors(path)[0]
    except SpecError as error:
        if not Path(path).is_file():
            raise
        raise SpecError(f"{error}; docs/training.md says how one is made of a file of torch") from error


def _our_name(name: str) -> str:
    """Map `moduleVggTwo.1.weight` (in some files `net...`) to `blocks.1.0.weight` and so on; our own names stay."""
    match = re.fullmatch(r"(?:module|net)(Vgg|Score|Combine)([A-Z][a-z]{2})?\.(.+)", name)
    if not match:
        return name
    kind, part, rest = match.groups()
    if kind == "Combine":
        return f"fuse.{rest.removeprefix('0.')}"
    level = _PARTS.index(part) if part in _PARTS else -1
    if kind == "Score":
        return f"sides.{level}.{rest}"
    place, _, end = rest.partition(".")
    return f"blocks.{level}.{int(place) - (level > 0)}.{end}"
