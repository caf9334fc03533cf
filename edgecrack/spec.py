"""Frame and model specifications: the contract that every artefact carries as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgecrack.errors import FrameError, SpecError

INPUT, OUTPUT = "frames", "probability"  # names of a graph's input and output
METADATA_KEY = "edgecrack"  # key of the JSON in safetensors and ONNX metadata
PRECISIONS = ("fp32", "fp16", "int8", "int8-fp16")
TARGETS = ("tensorrt", "cpu")
PIXELS = {"bgr": 3, "bgrx": 4}  # pixel format of the input -> bytes per pixel; x is ignored
CAMERA_SIDES = range(32, 16385)  # in pixels; the largest frame takes 3 GiB inside the graph


@dataclass(frozen=True)
class FrameSpec:
    """A frame size in pixels."""

    height: int
    width: int

    def __post_init__(self) -> None:
        if not all(isinstance(side, int) and side > 0 for side in (self.height, self.width)):
            raise SpecError(f"a size is two positive whole numbers, got {self.width}x{self.height}")

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"

    @classmethod
    def parse(cls, text: str) -> FrameSpec:
        """Parse `512x640` (WIDTHxHEIGHT, as for cameras). Raises SpecError for anything else."""
        match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text.strip().lower())
        if not match:
            raise SpecError(f"a size is WIDTHxHEIGHT, for example 1024x640; got {text!r}")
        return cls(height=int(match[2]), width=int(match[1]))

    def check(self, image: Any) -> None:
        """Raise FrameError unless `image` is uint8 (height, width, 3) in BGR order."""
        check_frame(image)
        if tuple(image.shape[:2]) != (self.height, self.width):
            raise FrameError(f"wanted a frame of {self}, got {image.shape[1]}x{image.shape[0]}")

    def check_stride(self, stride: int) -> None:
        """Raise SpecError, naming the nearest size that works, unless both sides are multiples of `stride`."""
        if self.height % stride or self.width % stride:
            near = FrameSpec(*(max(stride, round(side / stride) * stride) for side in (self.height, self.width)))
            raise SpecError(f"this net takes multiples of {stride}, got {self}; the nearest is {near}")


def check_frame(image: Any, pixels: str = "bgr") -> None:
    """Raise FrameError unless `image` is a non-empty numpy array, uint8 (H, W, 3), BGR.

    With `pixels` "bgrx", (H, W, 4) is accepted too; its fourth channel is ignored. Greyscale, 16-bit, float and alpha
    images are rejected rather than guessed at: the message says how to convert them.
    """
    kind = "uint8 (H, W, 3) BGR" if pixels == "bgr" else "uint8 (H, W, 3) BGR or (H, W, 4) BGRx"
    shape: Any = getattr(image, "shape", None)
    dtype = str(getattr(image, "dtype", ""))
    if not any((kind.__module__, kind.__name__) == ("numpy", "ndarray") for kind in type(image).__mro__):
        hint = "; cv2.imread gives None for a file that it cannot read" if image is None else ""
        raise FrameError(f"wanted a numpy array, {kind}, got {type(image).__name__}{hint}")
    got = f"{dtype} {tuple(shape)}"
    wanted = f"wanted a frame {kind}"
    if 0 in shape or not shape:
        raise FrameError(f"{wanted}, got an empty array, {got}")
    if len(shape) == 2 or (len(shape) == 3 and shape[2] == 1):
        raise FrameError(f"{wanted}, got a grey image, {got}; convert it: cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)")
    if len(shape) == 3 and shape[2] == 4 and pixels == "bgr":
        raise FrameError(f"{wanted}, got an image with alpha, {got}; drop it: image[:, :, :3]")
    if len(shape) != 3 or shape[2] not in (3, PIXELS[pixels]):
        raise FrameError(f"{wanted}, got {got}")
    if dtype != "uint8":
        raise FrameError(f"{wanted}, got {got}; scale it to 0..255 and convert it: image.astype(numpy.uint8)")


def check_threshold(threshold: float) -> float:
    """Return `threshold` as a float. Raises SpecError unless it is in (0, 1]."""
    value = float(threshold) if hasattr(threshold, "__float__") else 0.0  # accepts numpy floats, but no strings
    if not 0 < value <= 1:
        raise SpecError(f"a threshold is a number above 0 and at most 1, got {threshold!r}")
    return value


def threshold_level(threshold: float) -> int:
    """The smallest uint8 probability that counts as crack: ceil(255 x threshold), 1..255."""
    return max(1, math.ceil(255 * check_threshold(threshold) - 1e-9))  # k / 255 * 255 may be slightly above k


def _checked_scales(scales: Any) -> tuple[float, float]:
    """Return `scales` as a tuple, as JSON has only lists. Raises SpecError unless 0 < least <= greatest."""
    try:
        least, most = (float(scale) for scale in scales)
    except (TypeError, ValueError):
        least, most = math.nan, math.nan
    if not 0 < least <= most < math.inf:
        raise SpecError(f"scales are two numbers above 0, the least and the greatest, got {scales!r}")
    return least, most


@dataclass(frozen=True)
class ModelSpec:
    """The specification of a model, independent of how it is stored.

    Attributes:
        name: the net, a key of `edgecrack.models.MODELS`.
        width: channel multiplier; 1.0 is the paper's, 0.25 is "compact".
        options: the net's options that differ from their defaults.
        frame: the size the net runs at; for a checkpoint, the default size for export.
        camera: the input and output size of a graph that resizes frames to `frame` itself; None for a graph whose input
            has the net's size.
        pixels: "bgr", or "bgrx" if the graph takes four bytes per pixel and ignores the fourth.
        batch: frames per call.
        precision: one of `PRECISIONS`.
        target: "tensorrt" (symmetric int8 activations) or "cpu" (unsigned ones); only meaningful for int8.
        threshold: the lowest probability at which a pixel counts as crack, in (0, 1].
        trained_on: names of the training data sets.
        scales: the smallest and largest scale of their frames in training, 1 being the original size.
        scores: test list -> metric -> value in 0..1.
        versions: library -> version that wrote the artefact.
        hashes: part -> SHA-256, for example of the weights.
    """

    name: str
    width: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)
    frame: FrameSpec = FrameSpec(512, 512)
    camera: FrameSpec | None = None
    pixels: str = "bgr"
    batch: int = 1
    precision: str = "fp32"
    target: str = "tensorrt"
    threshold: float = 0.5
    trained_on: tuple[str, ...] = ()
    scales: tuple[float, float] = (0.3, 3.0)
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise SpecError(f"a precision is one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        if self.target not in TARGETS:
            raise SpecError(f"a target is one of {', '.join(TARGETS)}, got {self.target!r}")
        if self.pixels not in PIXELS:
            raise SpecError(f"pixels are one of {', '.join(PIXELS)}, got {self.pixels!r}")
        if self.camera and not {self.camera.height, self.camera.width}.issubset(CAMERA_SIDES):
            least, most = CAMERA_SIDES[0], CAMERA_SIDES[-1]
            raise SpecError(f"a camera's frame has {least} to {most} pixels a side, got {self.camera}")
        if not isinstance(self.batch, int) or self.batch < 1:
            raise SpecError(f"a batch is a whole number from 1, got {self.batch!r}")
        if not 0 < self.width <= 4:
            raise SpecError(f"a width is a multiplier above 0 and at most 4, got {self.width!r}")
        object.__setattr__(self, "scales", _checked_scales(self.scales))
        # equal specs must give equal JSON: 1 and 1.0 are the same width
        object.__setattr__(self, "width", float(self.width))
        object.__setattr__(self, "threshold", check_threshold(self.threshold))

    @property
    def input_frame(self) -> FrameSpec:
        """The input and output size of the graph."""
        return self.camera or self.frame

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """The input shape of one call, (N, H, W, C); the output is (N, H, W)."""
        return self.batch, self.input_frame.height, self.input_frame.width, PIXELS[self.pixels]

    def to_json(self) -> str:
        """Serialise to one line of JSON with sorted keys: equal specs give equal bytes."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ModelSpec:
        """Parse what `to_json` wrote. Raises SpecError for anything else; unknown keys are rejected by name."""
        try:
            values = json.loads(text)
            frame, camera = FrameSpec(**values.pop("frame")), values.pop("camera", None)
            trained_on = tuple(values.pop("trained_on", ()))
            return cls(
                frame=frame, camera=None if camera is None else FrameSpec(**camera), trained_on=trained_on, **values
            )
        except SpecError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise SpecError(f"not a model spec of this version of edgecrack: {error}") from error
