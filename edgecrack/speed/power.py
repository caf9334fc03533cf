"""Power that a drive draws on a Jetson. Written from NVIDIA's documentation; not run on a Jetson yet."""

from __future__ import annotations

import threading
from pathlib import Path
from statistics import fmean

from edgecrack.board import ROOT, power
from edgecrack.runtime.closing import Closing

_PERIOD = 0.2  # seconds


class MeanPower(Closing):
    """Mean power from construction to `close`, if the board has monitors.

    Attributes:
        watts: the mean, after `close`; None without monitors.
    """

    def __init__(self, root: Path = ROOT) -> None:
        self.watts: float | None = None
        self._root, self._samples = root, [total(power(root))]
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        if self._samples != [None]:
            self._thread.start()

    def close(self) -> None:
        """Stop sampling."""
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()
        samples = [watts for watts in self._samples if watts is not None]
        self.watts = fmean(samples) if samples else None

    def _sample(self) -> None:
        while not self._done.wait(_PERIOD):
            self._samples.append(total(power(self._root)))


def total(rails: dict[str, float]) -> float | None:
    """Watts of the whole module: its input rail VDD_IN if that is measured, else the sum of all; None without rails."""
    return rails.get("VDD_IN", sum(rails.values())) if rails else None
