"""Video recording: numbered segments, one series per source, within a limit on disk space."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from edgecrack.errors import SourceError
from edgecrack.images import is_image_name
from edgecrack.runtime.address import redacted, scheme_of
from edgecrack.runtime.camera import Event
from edgecrack.runtime.closing import Closing
from edgecrack.runtime.detection import Detection
from edgecrack.runtime.disk import unwritable
from edgecrack.runtime.frame import Frame
from edgecrack.runtime.video import VideoWriter, check_rate, mend_video, require_av

_ROUNDING = 1e-4  # seconds; largest rounding error of summed frame times
_INTERVAL = 1.0  # seconds between two checks of the disk space used
_RARELY = 20  # checks are at least this many times their own duration apart
_RESERVE = 256e6  # bytes kept free for the log on a large disk: about eight hours at 30 frames per second


class Labels:
    """Labels for the file names of each source: empty for a single source, else its name made safe for a file name."""

    def __init__(self, sources: Sequence[str] = ()) -> None:
        """`sources` lists the names of all sources, if known beforehand."""
        self._labels: dict[str, str] = {}
        if len(sources) > 1:
            for source in sources:
                self._labels[source] = self._label(source)

    def of(self, frame: Frame) -> str:
        """The label for the source of `frame`; images share the empty label, as each is its own source."""
        if is_image(frame):
            return ""
        if frame.source not in self._labels:
            self._labels[frame.source] = self._label(frame.source) if self._labels else ""
        return self._labels[frame.source]

    def _label(self, source: str) -> str:
        name = redacted(source) if scheme_of(source) else Path(source).stem
        plain = label = re.sub(r"[^\w.-]+", "-", name).strip("-.")[:64] or "source"
        number = 1
        while any(_collide(label, other) for other in self._labels.values()):
            number += 1
            label = f"{plain}_{number}"
        return label


def _collide(one: str, other: str) -> bool:
    """Whether two labels are equal, or a numbered file of one would be named like the first file of the other."""
    return one == other or any(re.fullmatch(re.escape(a) + r"-\d+", b) for a, b in ((one, other), (other, one)))


def is_image(frame: Frame) -> bool:
    """Whether `frame` is a single image file, not one of many frames of its source."""
    return frame.monotonic is None and is_image_name(frame.source)


class Clock:
    """Presentation times for the frames of a source: spaced as they were captured, starting at 0.

    Frames without a timestamp follow each other at the frame rate, and so does one whose timestamp is before the
    previous one, as when a file is repeated.
    """

    def __init__(self, rate: float) -> None:
        """`rate` in frames per second."""
        self._pace = 1 / rate
        self._now: float | None = None
        self._captured: float | None = None  # of the last frame

    def of(self, frame: Frame) -> float:
        """Seconds from the first frame to this one; call it once per frame."""
        before, self._captured = self._captured, frame.captured_at
        passed = self._pace
        if before is not None and frame.captured_at is not None and frame.captured_at >= before:
            passed = frame.captured_at - before
        self._now = 0.0 if self._now is None else self._now + passed
        return self._now


class Room:
    """Limits the disk space of videos and images so that the log can always be written.

    With `most`, the oldest files are deleted to stay within it, but never one that is being written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        most: float | None = None,
        patterns: Sequence[str] = (),
        tell: Callable[[Event], None] | None = None,
    ) -> None:
        """Allow `most` bytes for files in `folder` that match `patterns`; `tell` gets an Event for each deletion."""
        self._folder = folder
        self._most = most
        self._patterns = patterns
        self._tell = tell
        self._due = 0.0  # when the next check is due
        self._in_use: set[Path] = set()
        self._ages: dict[Path, int] = {}  # rank by order of appearance: the clock may be set back between runs

    def take(self, path: Path) -> None:
        """Make room for `path`, which is being written until `let_go`. Raises what `keep` does."""
        self._in_use.add(path)
        self._due = 0.0
        self.keep()

    def let_go(self, path: Path) -> None:
        """Declare `path` complete: it may now be deleted when it is the oldest."""
        self._in_use.discard(path)

    def keep(self) -> None:
        """Delete the oldest files until the rest fits; call it for every frame, it checks once a second.

        It checks less often where a check is slow, as with thousands of files. Raises SourceError when there is no
        room, or a file cannot be deleted.
        """
        begun = time.monotonic()
        if begun < self._due:
            return
        try:
            self._look()
        finally:
            now = time.monotonic()
            self._due = now + max(_INTERVAL, _RARELY * (now - begun))

    def _look(self) -> None:
        try:
            disk = shutil.disk_usage(self._folder)
            reserve, free = min(_RESERVE, disk.total / 10), float(disk.free)
            if self._most is not None:
                free += self._delete(self._most, reserve - free)
        except OSError as error:
            raise SourceError(f"cannot make room in {self._folder}: {error.strerror or error}") from error
        if free < reserve:
            left = f"{free / 1e6:.1f} MB of the disk are left, and the log needs them"
            raise SourceError(f"cannot write into {self._folder}: {left}")

    def _delete(self, most: float, lacking: float) -> int:
        """Delete the oldest files until they fit in `most` and `lacking` bytes are freed; returns the bytes freed."""
        sizes = self._sizes()
        lacking = max(lacking, sum(sizes.values()) - most)
        freed = 0
        for path in sorted(sizes.keys() - self._in_use, key=self._ages.__getitem__):
            if freed >= lacking:
                break
            path.unlink(missing_ok=True)
            freed += sizes[path]
            if self._tell:
                self._tell(Event("deleted", str(path), time.time()))
        return freed

    def _sizes(self) -> dict[Path, int]:
        """The size of each file in bytes; files not seen before are ranked after the others."""
        found: dict[Path, os.stat_result] = {}
        for path in (path for pattern in self._patterns for path in self._folder.glob(pattern)):
            with suppress(FileNotFoundError):  # deleted meanwhile, for example by the crew
                found[path] = path.stat()
        age = max(self._ages.values(), default=0)
        new = sorted(found.keys() - self._ages.keys(), key=lambda path: found[path].st_mtime_ns)
        self._ages = {path: old for path, old in self._ages.items() if path in found}
        self._ages |= {path: age + place for place, path in enumerate(new, 1)}
        return {path: stat.st_size for path, stat in found.items()}


class OverlayVideo(Closing):
    """Videos of the frames with their cracks drawn on them; see `VideoWriter` for the format.

    Frames with timestamps keep their original spacing. When the frame size changes or a segment is full, a new file is
    started: NAME-2.mp4, NAME-3.mp4 ... With several sources, each has its own files: NAME-SOURCE.mp4,
    NAME-SOURCE-2.mp4 ...
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        rate: float,
        *,
        segment: float | None = None,
        sources: Sequence[str] = (),
        resume: bool = False,
        room: Room | None = None,
    ) -> None:
        """`rate` in frames per second, `segment` in seconds; `sources` lists all names if there are several.

        With `resume`, existing files are kept and numbering continues after them. `room` limits the total size of the
        files. Raises MissingDependency, SourceError or SpecError.
        """
        check_rate(rate)
        require_av()
        self.path = Path(path)
        self._rate, self._segment, self._resume, self._room = rate, segment, resume, room
        self._labels = Labels(sources)
        self._series: dict[str, _Series] = {}
        self._closed = False
        make_folder(self.path.parent)

    def write(self, frame: Frame, detection: Detection) -> None:
        """Add one frame. Raises SourceError when it cannot be written."""
        if self._closed:  # another file of the same name would take the place of the finished one
            raise SourceError(f"cannot write {self.path}: it is closed")
        label = self._labels.of(frame)
        if label not in self._series:
            if frame.monotonic is None:  # files are read one after the other: earlier ones have ended
                self._finish()
            path = self.path.with_stem(f"{self.path.stem}-{label}") if label else self.path
            last = last_of(path) if self._resume else 0
            self._series[label] = _Series(path, self._rate, self._segment, self._room, last)
        self._series[label].write(frame, detection)

    def close(self) -> None:
        """Finalise the files; a second call does nothing. Raises SourceError."""
        self._closed = True
        self._finish()

    def _finish(self) -> None:
        with ExitStack() as all_of_them:
            for series in self._series.values():
                all_of_them.callback(series.close)


class _Series(Closing):
    """The numbered videos of one source."""

    def __init__(self, path: Path, rate: float, segment: float | None, room: Room | None, last: int) -> None:
        self._path, self._rate, self._segment, self._room = path, rate, segment, room
        self._number = last
        self._video: VideoWriter | None = None
        self._size: tuple[int, ...] = ()
        self._begun = 0.0  # time of the first frame of this file
        self._clock = Clock(rate)

    def write(self, frame: Frame, detection: Detection) -> None:
        image, now = detection.plot(frame.image), self._clock.of(frame)
        is_full = self._segment is not None and now - self._begun >= self._segment - _ROUNDING
        if self._video is None or image.shape != self._size or is_full:
            self._begin_next(now, image.shape)
        assert self._video is not None  # noqa: S101 (for the type checker)
        self._video.write(image, now)
        if self._room:
            self._room.keep()

    def _begin_next(self, now: float, size: tuple[int, ...]) -> None:
        self.close()
        self._number += 1
        path = numbered(self._path, self._number)
        if self._room:
            self._room.take(path)
        self._video, self._begun, self._size = VideoWriter(path, self._rate), now, size

    def close(self) -> None:
        video, self._video = self._video, None
        if video is None:
            return
        if self._room:
            self._room.let_go(video.path)
        video.close()


def numbered(path: Path, number: int) -> Path:
    """NAME.mp4 for 1, NAME-2.mp4 for 2 ..."""
    return path if number == 1 else path.with_stem(f"{path.stem}-{number}")


def last_of(path: Path) -> int:
    """The highest number among the existing videos of this name; 0 if there are none.

    An incomplete end of the last one, left by a power cut, is cut off; one without a frame is deleted. Raises
    SourceError.
    """
    pattern = re.compile(rf"{re.escape(path.stem)}(?:-(\d+))?{re.escape(path.suffix)}")
    try:
        matches = ((file, pattern.fullmatch(file.name)) for file in path.parent.iterdir())
        found = {int(match[1] or 1): file for file, match in matches if match}
        while found:
            last = max(found)
            if mend_video(found[last]):
                return last
            found.pop(last).unlink()
    except OSError as error:
        raise SourceError(f"cannot go on in {path.parent}: {error.strerror or error}") from error
    return 0


def make_folder(folder: Path) -> None:
    """Create `folder` if it does not exist. Raises SourceError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error
