"""Sources of frames: files, cameras, and any Python iterable of frames."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast, overload, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edgecrack.errors import FrameError, SourceError, SpecError
from edgecrack.images import IMAGE_SUFFIXES, is_image_name, list_images
from edgecrack.runtime.account import Counted
from edgecrack.runtime.address import redacted_path, scheme_of, trimmed
from edgecrack.runtime.connections import SCHEMES, camera_described, device_of, open_camera
from edgecrack.runtime.frame import Frame
from edgecrack.runtime.in_order import ImageSource, IterableSource, PipeSource, VideoSource
from edgecrack.runtime.options import SourceOptions
from edgecrack.runtime.several import together

if TYPE_CHECKING:
    from typing_extensions import Self

_DEFAULT = SourceOptions()


@runtime_checkable
class Source(Protocol):
    """Frames that are read once, in order, as from an open file; leaving the `with` block closes it."""

    @property
    def name(self) -> str:
        """The name of what it reads."""

    @property
    def rate(self) -> float | None:
        """Frames per second, or None where that is unknown."""

    @property
    def count(self) -> int | None:
        """The number of frames, or None where that is unknown."""

    def __iter__(self) -> Iterator[Frame]: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...


@runtime_checkable
class CountedSource(Source, Protocol):
    """A source opened by name, or several joined; it counts its frames and can be stopped."""

    @property
    def read(self) -> int:
        """The number of frames received so far; for files only those that `SourceOptions.every` selects."""

    @property
    def dropped(self) -> Counter[str]:
        """The number of received frames that were not handed out, by cause."""

    @property
    def parts(self) -> Sequence[Counted]:
        """Its parts: cameras, or the files that are read one after the other; empty for a single file."""

    def stop(self) -> None:
        """End the iteration at the next frame; does not wait. May be called from any thread or a signal handler."""

    def close(self) -> None:
        """Release the files or cameras; a second call does nothing."""


Named: TypeAlias = "str | os.PathLike[str] | int | CountedSource"
AnySource: TypeAlias = "Named | Source | Sequence[Named] | Iterable[NDArray[Any] | Frame]"
_NAMED = (str, os.PathLike, int, CountedSource)


@overload
def open_source(source: Named | Sequence[Named], options: SourceOptions = ...) -> CountedSource: ...
@overload
def open_source(source: AnySource, options: SourceOptions = ...) -> Source: ...
def open_source(source: AnySource, options: SourceOptions = _DEFAULT) -> Source:
    """Open a file, a camera, several of either, or a Python iterable as a source of frames.

    `source` is an image file, a folder of images, a glob pattern or a video file; a camera: `0`, or that as a number, or
    `/dev/video0`, `rtsp://`, `http://` (MJPEG), `udp://`, `rtmp://`, `srt://`, `csi://0`, `gst:PIPELINE`, `raw:1920x1080@30` (BGR
    bytes on standard input; without `@30` the writer is made to wait and no frame is dropped); or an iterable that
    yields frames as uint8 (H, W, 3) BGR, or as `Frame` where they have timestamps. An open Source is returned as it is.

    A list or tuple of strings is several sources: files, read one after the other, or cameras, read simultaneously. For
    cameras with different options, pass a list of sources that `open_source` returned.

    Files and iterables yield every frame, in order; cameras yield the newest, see `LiveSource`.
    Raises SourceError, naming the source without passwords, when it does not exist or cannot be read; FrameError for a
    single array, SpecError for an option that the source does not support and for cameras and files in one list,
    MissingDependency.
    """
    if isinstance(source, Source):
        if options != _DEFAULT:
            raise SpecError(f"{source.name} is open already; give the options where it is opened")
        return source
    if isinstance(source, int):  # as OpenCV names cameras
        source = str(source)
    if isinstance(source, np.ndarray) and source.ndim < 4:
        raise FrameError("wanted a source of frames, got one array; put it in a list: [frame]")
    if isinstance(source, (str, os.PathLike)):
        return _open_named(os.fspath(source), options)
    if isinstance(source, (list, tuple)) and source and all(isinstance(part, _NAMED) for part in source):
        return _open_several(source, options)
    if isinstance(source, (list, tuple)) and any(isinstance(part, Source) for part in source):
        raise SpecError("several sources are given by name, or as open_source returns them; a Source of your own alone")
    if not isinstance(source, Iterable):
        raise SourceError(f"wanted a source by its name, or frames, got {type(source).__name__}")
    options.check("an iterable of frames", {"flip"})
    return IterableSource(cast("Iterable[NDArray[np.uint8] | Frame]", source), options)


def _open_several(sources: Sequence[Named], options: SourceOptions) -> CountedSource:
    if len(sources) == 1:
        return open_source(sources[0], options)
    if options.loop:
        raise SpecError("several sources are read once, not in a loop")
    check_different(sources)
    with ExitStack() as opened:
        parts = [opened.enter_context(open_source(source, options)) for source in sources]
        for part in parts:
            if isinstance(part, VideoSource):
                part.rest()
        joined = together(parts)
        opened.pop_all()
    return joined


def check_different(sources: Sequence[Named]) -> None:
    """Raise SpecError if one of `sources` is given twice, however it is written."""
    for source, count in Counter(map(_place, sources)).items():
        if count > 1:
            raise SpecError(f"wanted several sources, got one twice: {redacted_path(source)}")


def _place(source: Named) -> str:
    """A canonical name for a source, however its path is written."""
    text = str(source)
    if isinstance(source, CountedSource):
        return text
    scheme = scheme_of(text)
    if scheme in ("", "v4l2"):
        return os.path.realpath(device_of(text) if scheme else text)
    return "standard input" if scheme == "raw" else text


def _open_named(source: str, options: SourceOptions) -> CountedSource:
    source = trimmed(source)
    scheme = scheme_of(source)
    if not scheme:
        try:
            return _open_files(source, options)
        except SourceError:
            raise
        except OSError as error:  # a folder without read permission, a name that is too long
            raise SourceError(f"cannot read {redacted_path(source)}: {error.strerror or error}") from error
    if scheme not in SCHEMES:
        raise SourceError(
            f"cannot read {scheme}:// sources; wanted a file, folder or pattern, or one of {', '.join(sorted(SCHEMES))}"
        )
    if scheme == "raw" and "@" not in source:
        options.check("raw without a rate", {"flip"})
        return PipeSource(source, options)
    return open_camera(source, options)


def described(source: str, options: SourceOptions = _DEFAULT) -> str:
    """Describe how `source` would be read, without passwords: a command to test its GStreamer pipeline, else a phrase.

    Does not connect to a camera; for files it raises what `open_source` raises.
    """
    source = trimmed(source)
    if scheme_of(source) in SCHEMES:
        return camera_described(source, options)
    with _open_named(source, options) as files:
        return f"{files.name} through OpenCV" + (f", {files.count} frames" if files.count else "")


def _open_files(text: str, options: SourceOptions) -> CountedSource:
    if not text:
        raise SourceError('the source is empty; wanted a file, folder, pattern or camera ("." is this folder)')
    path = Path(text)
    if path.is_file() and not is_image_name(path):
        options.check("a video file", {"flip", "loop", "start", "end"})
        return VideoSource(path, options)
    options.check("a source of images", {"flip", "loop"})
    if path.is_dir():
        return ImageSource(text, list_images(path), options)
    if path.is_file():
        return ImageSource(text, [path], options)
    if not glob.has_magic(text):
        raise SourceError(f"no file or folder {redacted_path(text)}")
    matches = glob.glob(text, recursive=True)  # noqa: PTH207 (the pattern may begin at the root)
    found = sorted(match for match in map(Path, matches) if is_image_name(match) and match.is_file())
    if not found:
        wanted = f"wanted one of {', '.join(sorted(IMAGE_SUFFIXES))}; videos are given one by one, each as a source"
        raise SourceError(f"no image matches {redacted_path(text)}; {wanted}")
    return ImageSource(text, found, options)
