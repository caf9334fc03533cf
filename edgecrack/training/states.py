"""The training state in last.safetensors, and what must match for a run to be resumed from it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import edgecrack
from edgecrack.errors import SpecError
from edgecrack.models.checkpoint import load_tensors, save_tensors
from edgecrack.spec import METADATA_KEY, ModelSpec
from edgecrack.training.recipes import Recipe

LAST = "last.safetensors"
FORMAT = "2"  # of last.safetensors: 1 had a fixed optimiser and schedule, and no number

Parts = Mapping[str, Mapping[str, Tensor]]  # "net", "optimiser", "average", "objective": their tensors by name


def identity(spec: ModelSpec, recipe: Recipe, data: list[list[Any]], teacher: str = "") -> dict[str, str]:
    """What must match for one run to resume another: net, recipe, sets ([name, frames] each), teacher `fingerprint`."""
    return {METADATA_KEY: spec.to_json(), "recipe": recipe.to_json(), "data": json.dumps(data), "teacher": teacher}


def fingerprint(net: nn.Module) -> str:
    """A hash of the weights."""
    digest = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def save_state(path: Path, parts: Parts, progress: Mapping[str, Any], run: Mapping[str, str]) -> None:
    """Write the state atomically: a previous file stays until then. Raises SourceError."""
    tensors = {f"{part}.{name}": value.detach() for part, named in parts.items() for name, value in named.items()}
    contiguous = {name: value.cpu().contiguous() for name, value in tensors.items()}
    about = {"format": FORMAT, "version": edgecrack.__version__, "state": json.dumps(progress)}
    save_tensors(path, contiguous, {**run, **about})


def load_state(path: Path, run: Mapping[str, str]) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Load the parts and the progress that `save_state` wrote for the same `run`.

    Raises SpecError when they are of another run, saying what differs, or of an old format, naming the version.
    """
    tensors, metadata = load_tensors(path)
    if metadata.get("format") != FORMAT:
        written = metadata.get("version", "an older version")
        raise SpecError(
            f"{path} was written by edgecrack {written} in form {metadata.get('format', '1')}, this is "
            f"{edgecrack.__version__} with form {FORMAT}; start a new run --from its best.safetensors"
        )
    different = "; ".join(
        filter(None, (_difference(key, metadata.get(key, ""), wanted) for key, wanted in run.items()))
    )
    if different:
        raise SpecError(
            f"{path} is a run of another net, data or recipe ({different}); give the same options, or another folder, "
            "where --from starts from this run's net"
        )
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        part, _, name = key.partition(".")
        parts.setdefault(part, {})[name] = value
    return parts, json.loads(metadata["state"])


def stored_recipe(path: str | os.PathLike[str]) -> Recipe | None:
    """The recipe stored in a checkpoint, or None if there is none, as in the shipped ones. Raises SpecError."""
    _, metadata = load_tensors(path)
    return Recipe.from_json(metadata["recipe"]) if "recipe" in metadata else None


def _difference(key: str, there: str, wanted: str) -> str:
    """Describe the difference between two JSON texts of a run; empty if there is none."""
    if there == wanted:
        return ""
    if key == "teacher":
        return f"its teacher is {there or 'none'}, wanted {wanted or 'none'}"
    try:
        old, new = json.loads(there), json.loads(wanted)
    except ValueError:
        return f"its {key} cannot be read"
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return f"its {key} is {old}, wanted {new}"
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return ", ".join(f"its {name} is {old.get(name)}, wanted {new.get(name)}" for name in names)
