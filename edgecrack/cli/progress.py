"""A progress bar on stderr, where that is a terminal; not a verb."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

_Any = TypeVar("_Any")


def tracked(items: Iterable[_Any], count: int, label: str) -> Iterable[_Any]:
    """The `count` items, with a bar that says how many of them were taken."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(items, label, count, console=console, disable=not console.is_terminal)
