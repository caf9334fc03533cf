"""System memory, which on a Jetson is shared with the GPU."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path


def available_memory(root: Path = Path("/")) -> int:
    """Memory available to a new program, in bytes; 0 if the system does not report it."""
    text = ""
    with suppress(OSError):
        text = (root / "proc/meminfo").read_text()
    found = re.search(r"^MemAvailable: *(\d+) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
