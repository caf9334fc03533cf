"""Parity checks: whether an exported graph still gives the same output as the net."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgecrack.errors import AccuracyError, ExportError, SpecError
from edgecrack.fitting import with_pixels
from edgecrack.metrics import counts, f_score, pool
from edgecrack.onnx_graph import read_onnx
from edgecrack.onnx_session import session
from edgecrack.spec import INPUT, OUTPUT, ModelSpec, threshold_level

Images = NDArray[np.uint8]
Reference = Callable[[Images], Images]


@dataclass(frozen=True)
class Parity:
    """Deviation of an exported model from its reference.

    Attributes:
        spec: spec of the exported model.
        frames: number of frames compared.
        within: fraction of pixels whose probability is off by at most 1/255.
        largest: the largest difference, in 1/255.
        f1: F1 of its mask against the reference's at the threshold, all frames pooled; 1 if both are empty.
        cracks: number of crack pixels in the reference's mask; without any, `f1` says little.
    """

    spec: ModelSpec
    frames: int
    within: float
    largest: int
    f1: float
    cracks: int


@dataclass(frozen=True)
class Bound:
    """Minimum fraction of pixels within 1/255, and minimum mask F1."""

    within: float
    f1: float


# Max-unpooling moves a whole value when two candidates differ only in the last bit, so that rounding does not bound the
# error of a pixel of scnet and cacpnet; where there is little crack, a few such pixels matter in the mask. Reduced
# precision is held to its mask alone: F1 is 0.9 when one pixel in ten of a crack two pixels wide crosses the threshold.
EXACT = Bound(within=1.0, f1=0.999)
UNPOOLED = Bound(within=0.999, f1=0.995)
# Where the graph fits its frames itself, an engine that rounds a scaled pixel the other way changes the net's input by
# one grey level; for thin cracks one mask pixel in a hundred may then differ.
FITTED = Bound(within=0.0, f1=0.99)
REDUCED = {"fp16": Bound(0.0, 0.99), "int8": Bound(0.0, 0.9), "int8-fp16": Bound(0.0, 0.9)}


def bound_of(spec: ModelSpec) -> Bound:
    """The bound that an exported model with this spec must keep against the float32 net."""
    if spec.precision != "fp32":
        return REDUCED[spec.precision]
    if spec.camera:
        return FITTED
    return UNPOOLED if spec.name in ("scnet", "cacpnet") else EXACT


def parity(
    reference: Reference, onnx_path: str | os.PathLike[str], frames: Sequence[Images], threshold: float
) -> Parity:
    """Compare the graph in `onnx_path`, on ONNX Runtime, with `reference` over `frames`.

    `reference` maps uint8 (N, H, W, 3) BGR to uint8 (N, H, W); `frames`, at least one, are uint8 (H, W, 3) BGR of the
    graph's input size; masks are thresholded at `threshold`, in (0, 1]. Raises SpecError for a file that is not ours or
    without frames.
    """
    _, spec = read_onnx(onnx_path)
    if not frames:
        raise SpecError("wanted at least one frame to compare on")
    runner = session(onnx_path)
    level = threshold_level(threshold)
    within, largest, found = 0, 0, []
    for batch in _batches(frames, spec.batch):
        given = np.stack([with_pixels(image, spec.pixels) for image in batch])
        wanted, got = reference(batch), np.asarray(runner.run([OUTPUT], {INPUT: given})[0])
        apart = np.abs(wanted.astype(np.int16) - got)
        within += int(np.count_nonzero(apart <= 1))
        largest = max(largest, int(apart.max()))
        found += [counts(one, true >= level) for one, true in zip(got, wanted, strict=True)]
    pooled = pool(found)
    f1 = float(f_score(pooled)[level])
    return Parity(spec, len(frames), within / pooled.pixels, largest, f1, int(pooled.truth))


def check_half(onnx_path: str | os.PathLike[str], frames: Sequence[Images]) -> None:
    """Check that no float16 value of the graph in `onnx_path` comes near overflow on `frames`, as for `parity`.

    ONNX Runtime computes half precision in float32 on a CPU, so that `parity` misses values that overflow to infinity
    on a GPU. Raises ExportError when a value reaches half of the float16 maximum, since other frames may go further.
    """
    model, spec = read_onnx(onnx_path)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    names = [value.name for value in inferred.value_info if value.type.tensor_type.elem_type == TensorProto.FLOAT16]
    for name in names:
        model.graph.node.append(helper.make_node("Abs", [name], [f"{name}.size"]))
        model.graph.node.append(helper.make_node("ReduceMax", [f"{name}.size"], [f"{name}.peak"], keepdims=0))
        model.graph.output.append(helper.make_tensor_value_info(f"{name}.peak", TensorProto.FLOAT16, []))
    runner, most = session(model.SerializeToString()), float(np.finfo(np.float16).max) / 2
    for batch in _batches(frames, spec.batch):
        given = np.stack([with_pixels(image, spec.pixels) for image in batch])
        for name, peak in zip(names, runner.run([f"{name}.peak" for name in names], {INPUT: given}), strict=True):
            if not peak <= most:
                raise ExportError(
                    f"{name} reaches {float(peak):.3g} on the frames that are compared on, and half precision ends at "
                    f"{2 * most:.0f}; leave --fp16 out"
                )


def enforce(result: Parity) -> None:
    """Raise AccuracyError when `result` is below the bound of its spec."""
    bound = bound_of(result.spec)
    short = [
        f"{name} is {got:.4f}, wanted {wanted}"
        for name, got, wanted in (
            ("the share of pixels within 1/255", result.within, bound.within),
            ("mask F1", result.f1, bound.f1),
        )
        if got < wanted
    ]
    if short:
        int8 = (
            "; give --calib more frames like those it is to see, or train longer"
            if "int8" in result.spec.precision
            else ""
        )
        raise AccuracyError(
            f"{result.spec.name} in {result.spec.precision} does not answer what the net answers on {result.frames} "
            f"frames: {'; '.join(short)}{int8}"
        )


def _batches(frames: Sequence[Images], size: int) -> Iterator[Images]:
    """Batches of `size` frames, the last one padded with its last frame."""
    for start in range(0, len(frames), size):
        images = list(frames[start : start + size])
        yield np.stack(images + images[-1:] * (size - len(images)))
