"""Append-only files that survive a kill or a power cut."""

from __future__ import annotations

import errno
import os
import threading
from contextlib import suppress
from pathlib import Path

from edgecrack.errors import SourceError
from edgecrack.runtime.closing import Closing

_INTERVAL = 1.0  # seconds of writes that a power cut may lose, plus the time of an fsync
_NO_DISK = {errno.EINVAL, errno.EROFS}  # errors of fsync on a pipe or a device


class DurableFile(Closing):
    """An append-only file: a kill loses nothing that was written, a power cut the last second of it.

    A background thread syncs the file, so that a slow card does not block writers. Any thread may write.
    """

    def __init__(self, path: str | os.PathLike[str], *, anew: bool = False) -> None:
        """Append to the file at `path`, or overwrite it if `anew`; a missing folder is created. Raises SourceError."""
        self.path = Path(path)
        self._lock = threading.Lock()  # guards the file and its size
        self._unsaved = False
        self._error: OSError | None = None
        self._closed = threading.Event()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # "wb" does not append: after a write that failed, the next one would leave a hole.
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | (os.O_TRUNC if anew else 0)
            self._file = os.fdopen(os.open(self.path, flags, 0o666), "ab", buffering=0)
            for folder in list(self.path.absolute().parents)[:2]:  # or a power cut could lose their directory entries
                with suppress(PermissionError):
                    _sync_folder(folder)
        except OSError as error:
            raise unwritable(self.path, error) from error
        self._size = os.fstat(self._file.fileno()).st_size
        self._thread = threading.Thread(target=self._save, name=f"edgecrack {self.path.name}", daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> int:
        """Append all of `data` or nothing; return its length. Raises SourceError when the disk is full or fails."""
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
        """Sync and close the file; a second call does nothing. Raises SourceError."""
        if self._file.closed:
            return
        self._closed.set()
        self._thread.join()
        try:
            try:
                if self._error:
                    raise self._error  # fsync reports it only once
                _sync(self._file.fileno())
            finally:
                with self._lock:
                    self._file.close()  # some file systems report a failed write only here
        except OSError as error:
            raise unwritable(self.path, error) from error

    def _add(self, data: bytes) -> None:
        rest, size = memoryview(data), self._size
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
            self._size = size + len(data)
        except BaseException:  # a full disk accepts a part first, and Ctrl-C may interrupt
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
                    self._error = error  # raised at the next write or at close: the thread has no caller


def unwritable(path: Path, error: Exception) -> SourceError:
    """Make the SourceError for `error`, which prevents `path` from being written."""
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
