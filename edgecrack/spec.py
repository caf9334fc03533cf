"""What a frame and a model must be: the contract that every artefact carries as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgecrack.errors import FrameError, SpecError

INPUT, OUTPUT = "frames", "probability"  # what a graph takes and gives, by name
METADATA_KEY = "edgecrack"  # of the JSON inside safetensors and ONNX metadata
PRECISIONS = ("fp32", "fp16", "int8", "int8-fp16")
TARGETS = ("tensorrt", "cpu")
PIXELS = {"bgr": 3, "bgrx": 4}  # how a graph takes its pixels -> bytes of one; what stands at x is not read
CAMERA_SIDES = range(32, 16385)  # in pixels; the greatest frame takes 3 GiB as the graph computes on it


@dataclass(frozen=True)
class FrameSpec:
    """The size a net takes, in pixels."""

    height: int
    width: int

    def __post_init__(self) -> None:
        if not all(isinstance(side, int) and side > 0 for side in (self.height, self.width)):
            raise SpecError(f"a size is two positive whole numbers, got {self.width}x{self.height}")

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"

    @classmethod
    def parse(cls, text: str) -> FrameSpec:
        """`512x640` (WIDTHxHEIGHT, as cameras say it) as a FrameSpec; SpecError for anything else."""
        match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text.strip().lower())
        if not match:
            raise SpecError(f"a size is WIDTHxHEIGHT, for example 1024x640; got {text!r}")
        return cls(height=int(match[2]), width=int(match[1]))

    def check(self, image: Any) -> None:
        """Raise FrameError unless `image` is uint8 (height, width, 3), the channels in the order B, G, R."""
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

    Where `pixels` is "bgrx", (H, W, 4) will do as well; its fourth channel is ignored. Grey, 16-bit, float and alpha
    images are refused and not guessed at: the message says how to convert them.
    """
    kind = "uint8 (H, W, 3) BGR" if pixels == "bgr" else "uint8 (H, W, 3) BGR or (H, W, 4) BGRx"
    shape, dtype = getattr(image, "shape", None), str(getattr(image, "dtype", ""))
    if shape is None or not dtype:
        raise FrameError(f"wanted a numpy array, {kind}, got {type(image).__name__}")
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
    """`threshold` as a float in (0, 1]; SpecError otherwise."""
    value = float(threshold) if hasattr(threshold, "__float__") else 0.0  # numpy's floats too, but no text
    if not 0 < value <= 1:
        raise SpecError(f"a threshold is a number above 0 and at most 1, got {threshold!r}")
    return value


def threshold_level(threshold: float) -> int:
    """The smallest uint8 probability that counts as crack: ceil(255 x threshold), 1..255."""
    return max(1, math.ceil(255 * check_threshold(threshold) - 1e-9))  # k / 255 * 255 may come out a little above k


def _checked_scales(scales: Any) -> tuple[float, float]:
    """A tuple, which JSON makes a list. Raises SpecError unless it is two numbers, the first not the greater."""
    try:
        least, most = (float(scale) for scale in scales)
    except (TypeError, ValueError):
        least, most = math.nan, math.nan
    if not 0 < least <= most < math.inf:
        raise SpecError(f"scales are two numbers above 0, the least and the greatest, got {scales!r}")
    return least, most


@dataclass(frozen=True)
class ModelSpec:
    """What a model is, wherever it is stored.

    Attributes:
        name: the net, a key of `edgecrack.models.MODELS`.
        width: its channel multiplier; 1.0 is the paper's, 0.25 is "compact".
        options: the net's switches that differ from their defaults.
        frame: the size the net runs at; for a checkpoint, the size it is exported at by default.
        camera: the size of the frames that the graph takes, fits to `frame` itself and answers for; None where it takes
            frames of the net's size.
        pixels: "bgr", or "bgrx" where the graph takes four bytes a pixel and does not read the fourth.
        batch: frames a call.
        precision: one of `PRECISIONS`.
        target: "tensorrt" (symmetric int8 activations) or "cpu" (unsigned ones); says nothing unless int8.
        threshold: the crack probability from which a pixel is crack, in (0, 1].
        trained_on: the data sets, by name.
        scales: the least and the greatest at which it was shown their frames, 1 being their own size.
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
        # equal specs are to give equal JSON: 1 and 1.0 are the same width
        object.__setattr__(self, "width", float(self.width))
        object.__setattr__(self, "threshold", check_threshold(self.threshold))

    @property
    def input_frame(self) -> FrameSpec:
        """The size of the frames that the graph takes and answers for."""
        return self.camera or self.frame

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """(N, H, W, C) of the frames of one call; the answer has (N, H, W)."""
        return self.batch, self.input_frame.height, self.input_frame.width, PIXELS[self.pixels]

    def to_json(self) -> str:
        """One line of JSON with sorted keys: equal specs give equal bytes."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ModelSpec:
        """The spec that `to_json` wrote. Raises SpecError for anything else; unknown keys are refused by name."""
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
