"""Files that are added to and that neither a kill nor a power cut undoes."""

from __future__ import annotations

import errno
import os
import threading
from contextlib import suppress
from pathlib import Path

from edgecrack.errors import SourceError
from edgecrack.runtime.closing import Closing

_INTERVAL = 1.0  # seconds of writing that a power cut may undo; what the disk takes to answer comes on top
_NO_DISK = {errno.EINVAL, errno.EROFS}  # what fsync answers for a pipe or a device


class DurableFile(Closing):
    """A file that is added to: a kill loses nothing that was written, a power cut the last second of it.

    A thread of its own hands what was written to the disk, so that a slow card holds nobody up. Any thread may write.
    """

    def __init__(self, path: str | os.PathLike[str], *, anew: bool = False) -> None:
        """Go on with the file at `path`, or begin it `anew`; a folder that is missing is made. Raises SourceError."""
        self.path = Path(path)
        self._lock = threading.Lock()  # guards the file and its size
        self._unsaved = False
        self._error: OSError | None = None
        self._closed = threading.Event()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("wb" if anew else "ab", buffering=0)
            for folder in list(self.path.absolute().parents)[:2]:  # or a power cut could undo their names
                with suppress(PermissionError):
                    _sync_folder(folder)
        except OSError as error:
            raise unwritable(self.path, error) from error
        self._size = os.fstat(self._file.fileno()).st_size
        self._thread = threading.Thread(target=self._save, name=f"edgecrack {self.path.name}", daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> int:
        """Add all of `data` or nothing; its length. Raises SourceError when the disk is full or does not answer."""
        with self._lock:
            if self._file.closed:
                raise SourceError(f"cannot write {self.path}: it is closed")
            try:
                if self._error:
                    raise self._error
                self._add(data)
            except OSError as error:
                raise unwritable(self.path, error) from error
            self._unsaved = True
        return len(data)

    def close(self) -> None:
        """Close the file when all of it is on the disk; a second call does nothing. Raises SourceError."""
        if self._file.closed:
            return
        self._closed.set()
        self._thread.join()
        try:
            if self._error:
                raise self._error  # which the disk tells once only
            _sync(self._file.fileno())
        except OSError as error:
            raise unwritable(self.path, error) from error
        finally:
            self._let_go()

    def _let_go(self) -> None:
        try:
            with self._lock:
                self._file.close()
        except OSError as error:  # some file systems say at the end only that they took nothing
            raise unwritable(self.path, error) from error

    def _add(self, data: bytes) -> None:
        rest, size = memoryview(data), self._size
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
            self._size = size + len(data)
        except BaseException:  # a full disk takes a part first, and Ctrl-C may come in between
            self._size = size
            with suppress(OSError):
                self._file.truncate(size)
            raise

    def _save(self) -> None:
        while not self._closed.wait(_INTERVAL):
            if self._unsaved:
                self._unsaved = False
                try:
                    _sync(self._file.fileno())
                except OSError as error:
                    self._error = error  # raised at the next write or the end: a thread has nobody to tell


def unwritable(path: Path, error: Exception) -> SourceError:
    """The error to raise for `error`, which keeps `path` from being written."""
    return SourceError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}")


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_DISK:
            raise


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)
