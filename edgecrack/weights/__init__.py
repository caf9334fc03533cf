"""The shipped compact checkpoints, their calibration ranges and their cards, by the name of the net."""

from __future__ import annotations

from pathlib import Path

from edgecrack.errors import SpecError

_FOLDER = Path(__file__).parent


def weights_path(name: str) -> Path:
    """The shipped checkpoint of the net `name`, float16 safetensors. SpecError naming the shipped ones otherwise."""
    return _shipped(name, ".safetensors")


def ranges_path(name: str) -> Path:
    """The INT8 calibration ranges measured for that checkpoint on its training frames. SpecError as above."""
    return _shipped(name, ".ranges.json")


def card_path(name: str) -> Path:
    """The card of that checkpoint: data, recipe, scores, licence, as JSON. SpecError as above."""
    return _shipped(name, ".card.json")


def _shipped(name: str, suffix: str) -> Path:
    path = _FOLDER / f"{name}{suffix}"
    if not path.is_file():
        known = sorted(found.name.removesuffix(suffix) for found in _FOLDER.glob(f"*{suffix}"))
        raise SpecError(f"no shipped weights for {name!r}; there are some for {', '.join(known) or 'no net'}")
    return path
