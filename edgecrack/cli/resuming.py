"""Where a run begins: at the first frame, or after the last one that the log of a killed run has; not a verb."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from edgecrack.cli.outputs import LOG

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

    from edgecrack.runtime import CrackDetector, Event, SourceOptions
    from edgecrack.runtime.sources import CountedSource

_log = logging.getLogger("edgecrack")
_RECORD = "run.json"
_FOLDERS = ("overlay", "masks", "evidence")  # of a run's results, in `out`


class LoggedImage(NamedTuple):
    """An image file in a log."""

    name: str
    crack_share: float  # not rounded, as in a run


@dataclass(frozen=True)
class Beginning:
    """Where a run begins, and what it is.

    Attributes:
        out: the folder of the results.
        record: what the run is: another with the same record can go on with it. It is kept in run.json.
        is_resumed: whether there is a log that is gone on with.
        done: how many of the sources are done with.
        first: the number of the first frame to come, of the first source that is not, or of the cameras.
        images: of each source up to that one, the image files that the log has, by their numbers.
        has_images: whether the sources of a log of files have images among them, so that no overlay is a video.
        read: bytes of the log that is gone on with, when it was read.
    """

    out: Path
    record: Mapping[str, Any]
    is_resumed: bool = False
    done: int = 0
    first: int = 0
    images: Sequence[Mapping[int, LoggedImage]] = field(default=())
    has_images: bool = False
    read: int = 0

    @classmethod
    def of(cls, out: Path, record: Mapping[str, Any], *, resume: bool) -> Beginning:
        """Where the run that `record` is of begins in `out`: after the log that is there with `resume`, else at 0.

        Raises SpecError for a log that is there without `resume`, as the results of two runs would be mixed, and with it for
        one of another run; SourceError for a log that cannot be read.
        """
        from edgecrack.errors import SourceError, SpecError

        log = out / LOG
        try:
            read = log.stat().st_size if log.is_file() else 0
        except OSError as error:  # a folder of somebody else, a name that is too long
            raise SourceError(f"cannot write into {out}: {error.strerror or error}") from error
        if not read:
            return cls(out, record)
        if not resume:
            raise SpecError(f"{log} is of a run before: give --resume to go on with it, or another --out")
        _check_same(log, _read(out / _RECORD), record)
        if record["live"]:
            return cls(out, record, True, first=_next_number(log), read=read)
        return _after(log, cls(out, record, True, read=read))

    def check_log(self) -> None:
        """Raise SourceError where the log has grown since it was read: its last frames would come twice."""
        from edgecrack.errors import SourceError

        log = self.out / LOG
        if self.is_resumed and (log.stat().st_size if log.is_file() else 0) != self.read:
            raise SourceError(f"another run wrote into {self.out} until now; give the same command again")

    def settle(self) -> None:
        """Keep the record, unless a log is gone on with; remove what a kill left half-written.

        Raises SourceError.
        """
        import json
        from itertools import chain

        from edgecrack.errors import SourceError
        from edgecrack.files import TEMPORARY, write_atomic

        try:
            ours = [self.out.glob(f"{TEMPORARY}*"), *((self.out / each).rglob(f"{TEMPORARY}*") for each in _FOLDERS)]
            for left in chain(*ours):  # and no more: other runs may write into folders beside them
                left.unlink()
        except OSError as error:
            raise SourceError(f"cannot write into {self.out}: {error.strerror or error}") from error
        if not self.is_resumed:
            write_atomic(self.out / _RECORD, json.dumps(self.record, indent=1) + "\n")

    def open_source(self, stack: ExitStack, sources: Sequence[str], options: SourceOptions) -> CountedSource:
        """What is left of `sources`; `stack` closes it. Raises SourceError, SpecError for images that are others now."""
        from dataclasses import replace

        from edgecrack.runtime import open_source

        if not self.first:
            return stack.enter_context(open_source(sources[self.done :], options))
        firsts = [self.first, *[self.first if self.record["live"] else 0] * len(sources)]
        left = [
            stack.enter_context(open_source(source, replace(options, first=first)))
            for source, first in zip(sources[self.done :], firsts, strict=False)
        ]
        _check_images(left[0], self)
        return stack.enter_context(open_source(left))

    def names(self, road: CountedSource) -> list[str]:
        """What the frames of each source are named by, also of those that are done with."""
        if self.record["live"]:
            return [part.name for part in road.parts]
        return [str(Path(source)) for source in self.record["sources"]]

    def tell(self, name: str, listen: Callable[[Event], None]) -> None:
        """Log, for cameras, from which frame number on the run was resumed."""
        import time

        from edgecrack.runtime import Event

        if self.is_resumed:
            listen(Event("resumed", name, time.time(), {"first": self.first}))


def record_of(
    model: Path, detector: CrackDetector, sources: Sequence[str], options: SourceOptions, finds: float | None = None
) -> dict[str, Any]:
    """What a run is, without passwords: with the same model on the same sources it gives the same frames the same lines.

    `finds` is the least share of crack where only finds are written: it decides how images are named.
    """
    from edgecrack.runtime.address import redacted, scheme_of

    return {
        "sources": [redacted(source) if scheme_of(source) else source for source in sources],
        "bytes": [_bytes_of(source) for source in sources],
        "live": any(scheme_of(source) for source in sources),
        "model": detector.spec.name,
        "sha256": _hash_of(model),
        "threshold": detector.threshold,
        "tile": detector.tile,
        "roi": detector.roi,
        "finds": finds,
        **{name: getattr(options, name) for name in ("flip", "loop", "start", "end", "every")},
    }


def _bytes_of(source: str) -> int | None:
    """The size of a file; None for another source, and for one that cannot be read, which is said when it is opened."""
    path = Path(source)
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:  # a pipeline may be too long for a name
        return None


def _hash_of(path: Path) -> str:
    import hashlib

    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def _read(path: Path) -> dict[str, Any] | None:
    import json

    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def _check_same(log: Path, before: Mapping[str, Any] | None, record: Mapping[str, Any]) -> None:
    from edgecrack.errors import SpecError

    if before is None:
        raise SpecError(f"{log} has no readable {_RECORD} beside it, which says what it is of; give another --out")
    for name, value in {**dict.fromkeys(before), **record}.items():
        if before.get(name) != value:
            raise SpecError(
                f"{log} is of another run: {name} was {_shown(before.get(name))} and is {_shown(value)}; "
                "give the same again, or another --out"
            )


def _shown(value: object) -> str:
    """`value` for a message; a source may be a mistyped URL, with a password."""
    from edgecrack.runtime.address import redacted_path

    return repr(
        [redacted_path(each) if isinstance(each, str) else each for each in value] if isinstance(value, list) else value
    )


def _next_number(log: Path) -> int:
    """One more than the highest number that a frame of a camera has, in the log or in the names of its pictures.

    Pictures reach the disk at once, the log a second later: a power cut leaves pictures that have no line.
    """
    from edgecrack.runtime.log import entries

    pictures = (path.stem for kind in _FOLDERS for path in (log.parent / kind).rglob("*"))
    numbers = [int(stem) for stem in pictures if stem.isdecimal()]
    return 1 + max((*numbers, *(entry.get("index", entry.get("last", -1)) for entry in entries(log))), default=-1)


def _after(log: Path, beginning: Beginning) -> Beginning:
    """Where to go on after the frames of files in `log`, of which each has its line, in order; damaged images have none."""
    from dataclasses import replace

    from edgecrack.errors import SpecError
    from edgecrack.images import is_image_name
    from edgecrack.runtime.log import entries

    every, sources = beginning.record["every"], [_names_of(source) for source in beginning.record["sources"]]
    names, has_images = [each for each, _ in sources], any(are_images for _, are_images in sources)
    expected, images = 0, [dict[int, LoggedImage]()]
    for entry in entries(log):
        if entry.get("event") == "left out":
            _log.warning(
                "%s was left out of the run before; what it lacks since then is not made up for", entry["source"]
            )
        if "event" in entry:
            continue
        try:
            index, name = entry["index"], entry["source"]
            share = entry["crack_pixels"] / (entry["height"] * entry["width"])
        except KeyError as missing:
            raise SpecError(f"{log} has a frame without its {missing}: it was changed; give another --out") from missing
        while len(images) < len(names) and (name not in names[len(images) - 1] or index < expected):
            expected = 0
            images.append({})
        is_image = is_image_name(name)
        if name not in names[len(images) - 1]:
            raise SpecError(f"{log} has {name}, which is not there now; give another --out")
        if index < expected or (index > expected and not is_image):
            raise SpecError(f"{log} has frame {index} where {expected} was to come: it was changed; give another --out")
        expected = index + every
        if is_image:
            images[-1][index] = LoggedImage(name, share)
    return replace(beginning, done=len(images) - 1, first=expected, images=images, has_images=has_images)


def _names_of(source: str) -> tuple[set[str], bool]:
    """What the frames of a file, folder or pattern are named by, and whether they are images. Raises SourceError."""
    from edgecrack.runtime import open_source
    from edgecrack.runtime.in_order import ImageSource

    with open_source(source) as files:
        if isinstance(files, ImageSource):
            return set(map(str, files.paths)), True
        return {files.name}, False


def _check_images(source: CountedSource, beginning: Beginning) -> None:
    """Raise SpecError unless the images of the log are those that are there, and those that it lacks are damaged."""
    from edgecrack.errors import SpecError
    from edgecrack.runtime.in_order import ImageSource

    if not isinstance(source, ImageSource):
        return
    lacking = set()
    for number in range(0, beginning.first, beginning.record["every"]):
        image, path = beginning.images[-1].get(number), source.paths[number % len(source.paths)]
        if image is None:
            lacking.add(path)
        elif image.name != str(path):
            raise SpecError(f"image {number} of {source.name} was {image.name} and is {path} now; give another --out")
    for path in sorted(lacking):
        if not _is_damaged(path):
            raise SpecError(f"the log of {source.name} has no {path}: one of them was changed; give another --out")


def _is_damaged(path: Path) -> bool:
    from edgecrack.images import UNUSABLE, read_image

    try:
        read_image(path)
    except UNUSABLE:
        return True
    return False
