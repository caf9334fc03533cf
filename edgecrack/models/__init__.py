"""The network architectures, by name, and their checkpoint files."""

from __future__ import annotations

import numpy as np  # noqa: F401 (first: torch imports it from C, and would swallow a Ctrl-C)

from edgecrack.errors import SpecError
from edgecrack.models.aelf_unet import AELFUNet
from edgecrack.models.blocks import CrackNet, rgb_from_frames
from edgecrack.models.cacpnet import CACPNet
from edgecrack.models.hed import HED
from edgecrack.models.msfnet import MSFNet
from edgecrack.models.scnet import SCNet
from edgecrack.spec import ModelSpec

__all__ = [
    "HED",
    "MODELS",
    "AELFUNet",
    "CACPNet",
    "CrackNet",
    "MSFNet",
    "SCNet",
    "build_model",
    "model_class",
    "rgb_from_frames",
]

MODELS: dict[str, type[CrackNet]] = {
    "aelf-unet": AELFUNet,
    "cacpnet": CACPNet,
    "msfnet": MSFNet,
    "scnet": SCNet,
}


def model_class(name: str) -> type[CrackNet]:
    """The class of the net called `name`. Raises SpecError, listing the known names, for any other."""
    if name not in MODELS:
        raise SpecError(f"no model {name!r}; the models are {', '.join(MODELS)}")
    return MODELS[name]


def build_model(spec: ModelSpec) -> CrackNet:
    """Build the net that `spec` describes, newly initialised. Raises SpecError for an unknown name or switch."""
    try:
        return model_class(spec.name)(spec.width, **spec.options)
    except TypeError as error:
        raise SpecError(f"{spec.name} has no such switch: {error}") from error
