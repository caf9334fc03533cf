"""Ranges of the convolutions' inputs, measured on calibration frames, and the file that stores them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from edgecrack.calibration.frames import CalibrationFrames
from edgecrack.calibration.placement import quantised_convolutions
from edgecrack.errors import CalibrationError
from edgecrack.files import write_atomic
from edgecrack.fitting import with_pixels
from edgecrack.onnx_graph import read_onnx
from edgecrack.onnx_session import session
from edgecrack.spec import INPUT, FrameSpec, ModelSpec

if TYPE_CHECKING:
    import onnxruntime

VERSION = 1
PERCENTILES = (99.9, 99.99, 99.999)
BINS = 2048
METHODS = ("max", "percentile")
_PIECE = 1 << 28  # most values that one run returns, 1 GiB


@dataclass(frozen=True)
class Range:
    """The range of the input of one convolution.

    Attributes:
        low, high: minimum and maximum, 0 included.
        clips: percentile -> the magnitude within which this percentage of the values lies.
    """

    low: float
    high: float
    clips: Mapping[str, float]

    def limits(self, method: str, percentile: float) -> tuple[float, float]:
        """(low, high): as measured for "max", clipped at the magnitude of `percentile` for "percentile"."""
        if method == "max":
            return self.low, self.high
        clip = self.clips[str(percentile)]
        return max(self.low, -clip), min(self.high, clip)


@dataclass(frozen=True)
class Ranges:
    """The ranges of one net on one set of calibration frames.

    Attributes:
        model: name of the net.
        frame: the size it ran at.
        count: number of frames measured.
        frames_sha256: SHA-256 of their pixels.
        inputs: name of a convolution's weight -> range of its input. Weight names stay the same for any size, batch and
            exporter; the names of activations do not.
    """

    model: str
    frame: FrameSpec
    count: int
    frames_sha256: str
    inputs: Mapping[str, Range] = field(default_factory=dict)

    def to_json(self) -> str:
        """JSON with sorted keys: equal ranges give equal bytes."""
        return json.dumps({"version": VERSION, **asdict(self)}, sort_keys=True, indent=1) + "\n"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the ranges to `path` atomically. Raises SourceError."""
        write_atomic(path, self.to_json())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Ranges:
        """Load the ranges that `save` wrote. Raises CalibrationError if missing, truncated or something else."""
        try:
            values = json.loads(Path(path).read_text())
            version = values.pop("version")
            if version != VERSION:
                raise CalibrationError(f"{path} holds ranges of version {version}, wanted {VERSION}; calibrate anew")
            frame = FrameSpec(**values.pop("frame"))
            inputs = {name: _range(entry) for name, entry in values.pop("inputs").items()}
            return cls(frame=frame, inputs=inputs, **values)
        except CalibrationError:
            raise
        except OSError as error:
            raise CalibrationError(f"cannot read ranges {path}: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise CalibrationError(f"{path} does not hold calibration ranges: it is no text") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CalibrationError(f"{path} does not hold calibration ranges, or is truncated: {error!r}") from error

    def check(self, model: str, weights: Iterable[str]) -> None:
        """Raise CalibrationError unless the ranges are of net `model` and cover `weights`, naming what is missing."""
        if model != self.model:
            raise CalibrationError(
                f"these ranges were measured on {self.model}, the graph is {model}; measure them on it"
            )
        missing = [name for name in weights if name not in self.inputs]
        if missing:
            raise CalibrationError(
                f"these ranges miss {len(missing)} convolutions of this {model}: "
                f"{', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}; measure them on this net"
            )


def measure_ranges(onnx_path: str | os.PathLike[str], frames: CalibrationFrames) -> Ranges:
    """Run the float32 graph over `frames` on ONNX Runtime and measure the input range of each convolution to quantise.

    Memory does not grow with the number of frames. Raises SpecError for a file that is not ours, CalibrationError when
    it is not float32, has another size than the frames, or produces values that are not finite.
    """
    model, spec = read_onnx(onnx_path)
    if spec.precision != "fp32":
        raise CalibrationError(f"ranges are measured on the fp32 graph, {onnx_path} is {spec.precision}")
    if spec.input_frame != frames.frame:
        raise CalibrationError(f"the graph takes {spec.input_frame}, the calibration frames are {frames.frame}")
    readers = {weight: node.input[0] for weight, node in quantised_convolutions(model).items()}
    spans = {name: _Span() for name in readers.values()}
    for names in _pieces(model, list(spans)):
        _measure(model, names, frames, spec, spans)
    inputs = {weight: spans[name].range(weight) for weight, name in readers.items()}
    return Ranges(spec.name, spec.frame, len(frames), frames.sha256, inputs)


class _Span:
    """Minimum, maximum and a histogram of magnitudes, whose bins double in width when a value falls beyond them."""

    def __init__(self) -> None:
        self.low = self.high = self.top = 0.0
        self.finite = True
        self.counts = np.zeros(BINS)

    def add(self, values: NDArray[np.float32]) -> None:
        """Add values, float32 (rows, columns) of any size."""
        self.finite = self.finite and bool(np.isfinite(values.sum(dtype=np.float64)))
        if not self.finite:
            return
        low, high, _, _ = cv2.minMaxLoc(values)
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._reach(max(-low, high))
        if self.top == 0:
            self.counts[0] += values.size
            return
        both = cv2.calcHist([values], [0], None, [2 * BINS], [-self.top, self.top]).ravel()
        self.counts += both[BINS:] + both[BINS - 1 :: -1]

    def range(self, weight: str) -> Range:
        """The measured range. Raises CalibrationError, naming `weight`, if a value was not finite."""
        if not self.finite:
            raise CalibrationError(
                f"the input of {weight} reached values that are not finite; these weights cannot be used"
            )
        reached = np.cumsum(self.counts) / max(1.0, self.counts.sum())
        bins = {p: int(np.searchsorted(reached, p / 100)) + 1 for p in PERCENTILES}
        return Range(self.low, self.high, {str(p): float(self.top * count / BINS) for p, count in bins.items()})

    def _reach(self, reach: float) -> None:
        if self.top == 0:
            self.top = reach * 1.0001  # calcHist excludes the upper end
        while self.top <= reach != 0:
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(1), np.zeros(BINS // 2)])
            self.top *= 2


def _measure(
    model: ModelProto, names: list[str], frames: CalibrationFrames, spec: ModelSpec, spans: Mapping[str, _Span]
) -> None:
    probe = _probe(model, names)
    given = (with_pixels(image, spec.pixels) for image in frames)
    for images in iter(partial(_batch, given, spec.batch), []):
        full = np.stack(images + images[-1:] * (spec.batch - len(images)))
        for name, values in zip(names, probe.run(names, {INPUT: full}), strict=True):
            spans[name].add(values[: len(images)].reshape(-1, values.shape[-1]))


def _batch(images: Iterator[NDArray[np.uint8]], size: int) -> list[NDArray[np.uint8]]:
    return list(islice(images, size))


def _probe(model: ModelProto, names: list[str]) -> onnxruntime.InferenceSession:
    """A session of `model` whose outputs are the tensors `names`."""
    copy = ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    return session(copy.SerializeToString())


def _pieces(model: ModelProto, names: list[str]) -> Iterator[list[str]]:
    """`names` in groups whose tensors fit into memory together."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in inferred.value_info}
    piece: list[str] = []
    size = 0
    for name in names:
        count = int(np.prod(shapes[name]))
        if piece and size + count > _PIECE:
            yield piece
            piece, size = [], 0
        piece.append(name)
        size += count
    if piece:
        yield piece


def _range(entry: dict[str, Any]) -> Range:
    """The range in a JSON entry. Raises whatever a malformed entry causes."""
    clips = {str(p): float(entry["clips"][str(p)]) for p in PERCENTILES}
    found = Range(float(entry["low"]), float(entry["high"]), clips)
    if not (found.low <= 0 <= found.high and np.isfinite([found.low, found.high, *clips.values()]).all()):
        raise ValueError(f"{found} is no range")
    return found
