"""Files that are whole or not there: written beside their place, then renamed into it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgecrack.errors import EdgecrackError, SourceError

# What the names of temporary files begin with, so that what a kill left can be told from others' files.
TEMPORARY = ".edgecrack-"


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path in the folder of `path`, renamed to it when the block ends well and removed otherwise.

    The name keeps the suffix of `path`, since many libraries choose the format by it. A folder that is missing is made.
    Raises SourceError when the folder cannot be written or the disk is full.
    """
    path = Path(path)
    temporary = path.parent / f"{TEMPORARY}{secrets.token_hex(4)}{path.suffix}"
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is there and is not a file")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode
    except OSError as error:
        raise SourceError(f"cannot write {path}: {error.strerror or error}") from error
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # or a power cut could leave an empty file under the new name
        temporary.chmod(mode)  # safetensors makes it anew as 0600, too private for a result
        temporary.replace(path)
    except EdgecrackError:
        raise
    except OSError as error:
        raise SourceError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # of a disk that is gone: that is said already
            temporary.unlink(missing_ok=True)


def write_atomic(path: str | os.PathLike[str], data: str | bytes) -> None:
    """Write `data` to `path`, whole or not at all; SourceError when it cannot be."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)
