"""The system's memory, which on a Jetson is the GPU's too."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path


def available_memory(root: Path = Path("/")) -> int:
    """Bytes of memory that a new program can have; 0 where the system does not say."""
    text = ""
    with suppress(OSError):
        text = (root / "proc/meminfo").read_text()
    found = re.search(r"^MemAvailable: *(\d+) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
