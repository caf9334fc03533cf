"""Lines of the page that `make gpu-check` prints, each with a verdict."""

from __future__ import annotations

from collections.abc import Callable

VERDICTS = {"pass": "passed", "FAIL": "failed", "not run": "not run"}


class Page:
    """A part of the page: lines with a verdict each."""

    def __init__(self, title: str) -> None:
        self.failed = 0
        print(f"\n{title}", flush=True)

    def check(self, name: str, work: Callable[[], str]) -> None:
        """Print what `work` returns; an exception is a failure."""
        try:
            verdict, text = "pass", work()
        except Exception as error:  # the page must be complete
            verdict, text = "FAIL", f"{type(error).__name__}: {error}"
            self.failed += 1
        self.print(verdict, name, text)

    def print(self, verdict: str, name: str, text: str) -> None:
        print(f"{verdict:<8} {name:<28} {text}", flush=True)


def expect(holds: bool, text: str) -> str:
    """Return `text`; raises AssertionError with it unless `holds`."""
    if not holds:
        raise AssertionError(text)
    return text
