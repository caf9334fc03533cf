"""The final account of a run: how many frames were processed, dropped or failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from edgecrack.runtime.live import LiveSource

if TYPE_CHECKING:
    from edgecrack.runtime.sources import CountedSource


class Counted(Protocol):
    """A source that counts its frames, or one part of it."""

    @property
    def name(self) -> str:
        """The name of what it reads."""

    @property
    def read(self) -> int:
        """The number of frames received so far."""

    @property
    def dropped(self) -> Counter[str]:
        """The number of received frames that were not handed out, by cause."""


@dataclass(frozen=True)
class Account:
    """Frame counts by outcome: `captured` is the sum of the others.

    Attributes:
        captured: frames received.
        processed: frames whose detection was passed to every sink.
        dropped: frames that were not handed out, by cause, as named by `Camera.dropped`.
        failed: frames that were handed out but not completed, because the run was aborted or a library failed.
        sources: the account of each source by name, if there are several; they add up to the total.
    """

    captured: int
    processed: int
    dropped: dict[str, int]
    failed: int
    sources: dict[str, Account] = field(default_factory=dict)

    @classmethod
    def of(cls, source: CountedSource, processed: Mapping[str, int]) -> Account:
        """The account of `source`, which has ended or was stopped; `processed` counts its frames by `Frame.source`."""
        total = sum(processed.values())
        if len(source.parts) < 2:
            return cls._of(source, total)
        sources: dict[str, Account] = {}
        left = total
        for part in source.parts:
            # A folder's frames are named after their files, but sources read in sequence are processed in order.
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
        """The entry that ends a log."""
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
