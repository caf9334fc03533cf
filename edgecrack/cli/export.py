"""`edgecrack export`: a net as ONNX, in the precision asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecrack.cli.build import FOR, built, chosen

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgecrack.calibration.ranges import Ranges
    from edgecrack.models import CrackNet
    from edgecrack.spec import ModelSpec

PARITY_FRAMES = 8


def export(
    model: Annotated[str, typer.Option(help="aelf-unet, cacpnet, msfnet or scnet.")],
    weights: Annotated[
        Path | None, typer.Option(help="Checkpoint from `edgecrack train`.  [default: the shipped one]")
    ] = None,
    hed: Annotated[Path | None, typer.Option(help="HED weights (safetensors), for SCNet with prior=hed.")] = None,
    size: Annotated[
        str | None, typer.Option(help="Input size of the net, WIDTHxHEIGHT.  [default: the checkpoint's]")
    ] = None,
    camera: Annotated[
        str | None,
        typer.Option(
            help="Camera frame size, WIDTHxHEIGHT: the graph itself fits frames to --size. For GPUs; slower on CPUs."
        ),
    ] = None,
    pixels: Annotated[
        str,
        typer.Option("--input", help="bgr, or bgrx for four bytes per pixel, as GStreamer on a Jetson delivers them."),
    ] = "bgr",
    batch: Annotated[int, typer.Option(min=1, help="Frames per call.")] = 1,
    fp16: Annotated[bool, typer.Option("--fp16", help="Use half precision for all that is not INT8.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Use INT8 convolutions.")] = False,
    target: Annotated[str, typer.Option(help="Target of --int8: tensorrt or cpu.")] = "tensorrt",
    calib: Annotated[Path | None, typer.Option(help="Measure the INT8 ranges on the images in this folder.")] = None,
    ranges: Annotated[
        Path | None, typer.Option(help="File of INT8 ranges that --calib measured earlier, NAME.ranges.json.")
    ] = None,
    engine: Annotated[bool, typer.Option("--engine", help="Also build an engine from the file.")] = False,
    for_: Annotated[str | None, typer.Option("--for", help=FOR)] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the files.")] = Path(),
) -> None:
    """Export a net to ONNX: always NAME.onnx and, on request, NAME.fp16, NAME.int8, NAME.int8-fp16 or NAME.int8-cpu.

    Each file is compared with the net on eight rendered frames, and on up to eight calibration frames, before it gets
    its name. The ranges that --calib measures are kept in NAME.ranges.json; with --camera they are measured on frames
    already fitted to --size, so the same folder gives the same ranges with or without it. The last line on stdout is
    the path of the requested file, or of its engine.
    """
    _check_options(pixels, fp16, int8, target, calib, ranges)
    _check_engine(engine, for_, target)
    capabilities = chosen(for_) if engine else ()
    net, spec, shipped = _checkpoint(model, weights, hed)
    spec = _as_asked(net, spec, size, camera, pixels, batch)
    if int8 and not (shipped or calib or ranges):
        from edgecrack.errors import SpecError

        raise SpecError("weights of your own need ranges of their own for --int8: give --calib FOLDER or --ranges FILE")
    folder = _Folder(output, net, spec, calib)

    from edgecrack.export.graph import onnx_from_model

    path = folder.add("", lambda file: onnx_from_model(net, spec, file))
    if int8:
        path = _int8(path, folder, _ranges(path, net, spec, calib, ranges), target, fp16)
    elif fp16:
        from edgecrack.export.precision import fp16_from_onnx

        fp32 = path
        path = folder.add(".fp16", lambda file: fp16_from_onnx(fp32, file))
    typer.echo(path)
    if engine:
        typer.echo(built(path, path.with_suffix(".engine"), capabilities))


def _check_engine(engine: bool, for_: str | None, target: str) -> None:
    if engine and target == "cpu":
        raise typer.BadParameter("TensorRT takes no INT8 made for CPUs", param_hint="--engine --target cpu")
    if for_ is not None and not engine:
        raise typer.BadParameter("it is for --engine; add it", param_hint="--for")


def _check_options(pixels: str, fp16: bool, int8: bool, target: str, calib: Path | None, ranges: Path | None) -> None:
    if pixels not in ("bgr", "bgrx"):
        raise typer.BadParameter(f"it is bgr or bgrx, got {pixels!r}", param_hint="--input")
    if target not in ("tensorrt", "cpu"):
        raise typer.BadParameter(f"it is tensorrt or cpu, got {target!r}", param_hint="--target")
    if target == "cpu" and fp16:
        raise typer.BadParameter("CPUs do not compute in half precision; leave --fp16 out", param_hint="--target cpu")
    if target == "cpu" and not int8:
        raise typer.BadParameter("it says what --int8 is for; add --int8", param_hint="--target cpu")
    if (ranges or calib) and not int8:
        raise typer.BadParameter("they are for --int8; add it", param_hint="--ranges" if ranges else "--calib")
    if ranges and calib:
        raise typer.BadParameter("give the ranges or the folder to measure them on, not both", param_hint="--ranges")


def _checkpoint(model: str, weights: Path | None, hed: Path | None) -> tuple[CrackNet, ModelSpec, bool]:
    """The net, with the edge detector that it looks at, its spec, and whether it is the shipped one."""
    from edgecrack.errors import SpecError
    from edgecrack.models import model_class
    from edgecrack.models.checkpoint import load_checkpoint
    from edgecrack.models.external import with_hed
    from edgecrack.weights import weights_path

    model_class(model)
    path = weights or weights_path(model)
    if weights is None:
        _say(f"weights: the shipped ones, {path}")
    net, spec = load_checkpoint(path)
    if spec.name != model:
        raise SpecError(f"{path} holds {spec.name}, not {model}")
    return net, with_hed(net, spec, hed), weights is None


def _as_asked(
    net: CrackNet, spec: ModelSpec, size: str | None, camera: str | None, pixels: str, batch: int
) -> ModelSpec:
    from dataclasses import replace

    from edgecrack.spec import FrameSpec

    frame = FrameSpec.parse(size) if size else spec.frame
    if not all(32 <= side <= 16384 for side in (frame.height, frame.width)):
        raise typer.BadParameter(f"each side is 32 to 16384, got {frame}", param_hint="--size")
    frame.check_stride(net.stride)
    return replace(spec, frame=frame, camera=FrameSpec.parse(camera) if camera else None, pixels=pixels, batch=batch)


def _ranges(fp32: Path, net: CrackNet, spec: ModelSpec, calib: Path | None, ranges: Path | None) -> Ranges:
    from edgecrack.calibration.ranges import Ranges
    from edgecrack.weights import ranges_path

    if calib:
        measured, path = _measured(fp32, net, spec, calib), fp32.with_suffix(".ranges.json")
        measured.save(path)  # also for a file that is then refused: measuring takes longest
        _say(f"ranges: kept in {path}, for --ranges")
        return measured
    found = Ranges.load(ranges or ranges_path(spec.name))
    _say(f"ranges: {ranges or 'the shipped ones'}, measured on {found.count} frames at {found.frame}")
    return found


def _measured(fp32: Path, net: CrackNet, spec: ModelSpec, calib: Path) -> Ranges:
    """On the graph that takes frames of the net's size: a picture smaller than the camera's is not blurred on the way."""
    from dataclasses import replace
    from tempfile import TemporaryDirectory

    from edgecrack.calibration.frames import CalibrationFrames
    from edgecrack.calibration.ranges import measure_ranges
    from edgecrack.export.graph import onnx_from_model

    frames = CalibrationFrames.from_folder(calib, spec.frame)
    _say(f"ranges: measuring on {len(frames)} frames of {calib}")
    plain = replace(spec, camera=None, pixels="bgr")
    if plain == spec:
        return measure_ranges(fp32, frames)
    with TemporaryDirectory() as folder:
        return measure_ranges(onnx_from_model(net, plain, Path(folder) / fp32.name), frames)


def _int8(fp32: Path, folder: _Folder, ranges: Ranges, target: str, fp16: bool) -> Path:
    from edgecrack.calibration.qdq import int8_from_onnx
    from edgecrack.export.precision import fp16_from_onnx

    def write(file: Path) -> None:
        int8_from_onnx(fp32, ranges, file, target=target)
        if fp16:
            fp16_from_onnx(file, file)

    return folder.add(".int8-cpu" if target == "cpu" else ".int8-fp16" if fp16 else ".int8", write)


class _Folder:
    """Where the files go; one that does not answer what the net answers never gets its name."""

    def __init__(self, path: Path, net: CrackNet, spec: ModelSpec, calib: Path | None) -> None:
        from edgecrack.calibration.frames import CalibrationFrames
        from edgecrack.export.graph import reference_from_model
        from edgecrack.rendering import DEMO_SEEDS, rendered_frame

        self.path, self.spec, self.reference = path, spec, reference_from_model(net, spec.frame)
        height, width = spec.input_frame.height, spec.input_frame.width
        self.frames = {"rendered": [rendered_frame(seed, height, width)[0] for seed in DEMO_SEEDS[:PARITY_FRAMES]]}
        if calib:
            self.frames["calibration"] = list(CalibrationFrames.from_folder(calib, spec.input_frame, PARITY_FRAMES))
        _say(f"{'file':24} {'compared on':14} {'within 1/255':>12} {'largest':>8} {'mask F1':>8}")

    def add(self, kind: str, write: Callable[[Path], object]) -> Path:
        """The path of what `write` makes. Raises AccuracyError or ExportError, and leaves no file, when it fails."""
        from edgecrack.errors import SourceError
        from edgecrack.export.parity import check_half, enforce, parity
        from edgecrack.files import atomic_path

        path = self.path / f"{self.spec.name}{kind}.onnx"
        if _is_of_another_size(path, self.spec):
            _say(f"warning: {path} is for another size or batch, and is replaced")
        with atomic_path(path) as file:
            try:
                write(file)
            except SourceError as error:  # which names the file by what it is called meanwhile
                raise SourceError(str(error).replace(str(file), str(path))) from error
            results = []
            for name, images in self.frames.items():
                found = parity(self.reference, file, images, self.spec.threshold)
                results.append(found)
                compared = f"{found.frames} {name}"
                _say(f"{path.name:24} {compared:14} {found.within:12.4%} {found.largest:4}/255 {found.f1:8.4f}")
                if not found.cracks:
                    _say(f"warning: the net finds no crack in the {compared} frames, so its mask could not be compared")
            for found, images in zip(results, self.frames.values(), strict=True):
                enforce(found)
                if "fp16" in found.spec.precision:
                    check_half(file, images)
        return path


def _is_of_another_size(path: Path, spec: ModelSpec) -> bool:
    """Whether there is a model at `path` whose input is another than that of `spec`."""
    from edgecrack.errors import EngineError
    from edgecrack.runtime.onnx_metadata import read_spec

    try:
        before = read_spec(path)
    except EngineError:  # there is none, or one that is of no use
        return False
    return (before.frame, before.camera, before.input_shape) != (spec.frame, spec.camera, spec.input_shape)


def _say(text: str) -> None:
    typer.echo(text, err=True)
