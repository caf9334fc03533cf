"""Atomic file writes: to a temporary file in the same folder, which is then renamed."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgecrack.errors import EdgecrackError, SourceError

# Prefix of temporary files, so that those left by a kill can be recognised.
TEMPORARY = ".edgecrack-"


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`, renamed to `path` if the block succeeds and removed otherwise.

    It keeps the suffix of `path`, since many libraries choose the format by it. A missing folder is created.
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
        temporary.chmod(mode)  # safetensors recreates it with mode 0600, too restrictive for a result
        temporary.replace(path)
    except EdgecrackError:
        raise
    except OSError as error:
        raise SourceError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # the disk is gone, which is reported already
            temporary.unlink(missing_ok=True)


def write_atomic(path: str | os.PathLike[str], data: str | bytes) -> None:
    """Write `data` to `path` atomically. Raises SourceError when it cannot be written."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode(errors="surrogateescape") if isinstance(data, str) else data)
