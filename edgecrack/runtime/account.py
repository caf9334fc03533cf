"""What became of every frame that a source gave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgecrack.runtime.sources import CountedSource


@dataclass(frozen=True)
class Account:
    """Frames by their end: `captured` is the sum of the others.

    Attributes:
        captured: the frames that came.
        processed: those whose detection went to every sink.
        dropped: those that were not handed out, by cause, as `LiveSource.dropped` names them.
        failed: those that were handed out and did not come through, because the run broke off or a library failed.
    """

    captured: int
    processed: int
    dropped: dict[str, int]
    failed: int

    @classmethod
    def of(cls, source: CountedSource, processed: int) -> Account:
        """The account of `source`, which is at its end or was stopped, of which `processed` frames came through."""
        dropped = dict(source.dropped)
        return cls(source.read, processed, dropped, source.read - sum(dropped.values()) - processed)

    def __str__(self) -> str:
        causes = ", ".join(f"{count} {cause}" for cause, count in self.dropped.items())
        dropped = f"{sum(self.dropped.values())} dropped{f' ({causes})' if causes else ''}"
        return f"{self.captured} frames came: {self.processed} processed, {dropped}, {self.failed} failed"

    def to_json(self) -> dict[str, object]:
        """What ends the log of a camera."""
        return {
            "event": "summary",
            "captured": self.captured,
            "processed": self.processed,
            "dropped": self.dropped,
            "failed": self.failed,
        }
