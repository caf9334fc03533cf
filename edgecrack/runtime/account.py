"""What became of every frame that a source gave."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from edgecrack.runtime.live import LiveSource

if TYPE_CHECKING:
    from edgecrack.runtime.sources import CountedSource


class Counted(Protocol):
    """What an account is of: a source, or one of those that it is made of."""

    @property
    def name(self) -> str:
        """What it reads."""

    @property
    def read(self) -> int:
        """The frames that came so far."""

    @property
    def dropped(self) -> Counter[str]:
        """How many of them were not handed out, by cause."""


@dataclass(frozen=True)
class Account:
    """Frames by their end: `captured` is the sum of the others.

    Attributes:
        captured: the frames that came.
        processed: those whose detection went to every sink.
        dropped: those that were not handed out, by cause, as `Camera.dropped` names them.
        failed: those that were handed out and did not come through, because the run broke off or a library failed.
        sources: the same of each source, by its name, where there are several; they add up to the whole.
    """

    captured: int
    processed: int
    dropped: dict[str, int]
    failed: int
    sources: dict[str, Account] = field(default_factory=dict)

    @classmethod
    def of(cls, source: CountedSource, processed: Mapping[str, int]) -> Account:
        """The account of `source`, which is at its end or was stopped; `processed` counts what came through by `Frame.source`."""
        total = sum(processed.values())
        if len(source.parts) < 2:
            return cls._of(source, total)
        sources: dict[str, Account] = {}
        left = total
        for part in source.parts:
            # A folder's frames are named by their files, but of what is read in turn the first came through first.
            given = part.read - part.dropped.total()
            count = processed.get(part.name, 0) if isinstance(source, LiveSource) else min(given, left)
            sources[part.name] = cls._of(part, count)
            left -= count
        return replace(cls._of(source, total), sources=sources)

    @classmethod
    def _of(cls, part: Counted, processed: int) -> Account:
        dropped = part.dropped
        return cls(part.read, processed, dict(dropped), part.read - dropped.total() - processed)

    def __str__(self) -> str:
        causes = ", ".join(f"{count} {cause}" for cause, count in self.dropped.items())
        dropped = f"{sum(self.dropped.values())} dropped{f' ({causes})' if causes else ''}"
        whole = f"{self.captured} frames came: {self.processed} processed, {dropped}, {self.failed} failed"
        return "\n".join([whole, *(f"  {name}: {account}" for name, account in self.sources.items())])

    def to_json(self) -> dict[str, object]:
        """What ends the log of a camera."""
        return {"event": "summary", **self._counts()}

    def _counts(self) -> dict[str, object]:
        counts: dict[str, object] = {
            "captured": self.captured,
            "processed": self.processed,
            "dropped": self.dropped,
            "failed": self.failed,
        }
        if self.sources:
            counts["sources"] = {name: account._counts() for name, account in self.sources.items()}
        return counts
