"""`edgecrack build`: an ONNX file as an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

FOR = "Build with TensorRT for RTX, for these GPUs: sm75, sm80, sm86, sm89, sm120, sm121; several with commas between."


def build(
    onnx: Annotated[Path, typer.Argument(help="The ONNX file, as `edgecrack export` wrote it.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The engine; NAME.engine if none.")] = None,
    workspace: Annotated[int | None, typer.Option(min=1, help="MiB that a layer may use for itself at most.")] = None,
    timing_cache: Annotated[
        Path | None, typer.Option(help="TensorRT's measurements: read when there, and written, to build faster again.")
    ] = None,
    device: Annotated[int, typer.Option(min=0, help="The GPU that TensorRT builds on and for.")] = 0,
    for_: Annotated[str | None, typer.Option("--for", help=FOR)] = None,
) -> None:
    """Build an ONNX file into an engine, in the precision it was exported in.

    TensorRT builds for the GPU it runs on, a Jetson's too; TensorRT for RTX builds for the desktop GPUs named with
    --for, on any machine. What the engine is and where it runs is written beside it, into NAME.engine.json.
    """
    if for_ and timing_cache:
        raise typer.BadParameter("TensorRT for RTX measures nothing when it builds", param_hint="--timing-cache")
    if for_ and device:
        raise typer.BadParameter("TensorRT for RTX builds for the GPUs named with --for", param_hint="--device")
    if output and output.suffix != ".engine":  # by which `run` knows it, and no ONNX file is overwritten
        raise typer.BadParameter(f"an engine is named NAME.engine, got {output.name!r}", param_hint="--output")
    capabilities = chosen(for_, device)
    path = output or onnx.with_suffix(".engine")
    typer.echo(built(onnx, path, capabilities, workspace=workspace, timing_cache=timing_cache, device=device))


def chosen(for_: str | None, device: int = 0) -> tuple[str, ...]:
    """The capabilities named, () for TensorRT on this machine's GPU; says which TensorRT builds, and that it can."""
    from edgecrack.cuda_probe import probe
    from edgecrack.tensorrt_library import load_tensorrt, rtx_capabilities

    if for_ is None:
        version = load_tensorrt("tensorrt").__version__
        gpu = probe(device)
        typer.echo(f"builder: TensorRT {version} on {gpu.name}, compute capability {gpu.compute_capability}", err=True)
        return ()
    version = load_tensorrt("tensorrt_rtx").__version__
    names = rtx_capabilities([name.strip() for name in for_.split(",")])
    typer.echo(f"builder: TensorRT for RTX {version}, for {', '.join(names).lower()}", err=True)
    return names


def built(
    onnx: Path,
    path: Path,
    capabilities: tuple[str, ...],
    *,
    workspace: int | None = None,
    timing_cache: Path | None = None,
    device: int = 0,
) -> Path:
    """The engine `path`, built with a bar on a terminal, and a line on what it is."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress

    from edgecrack.engine_file import read_record
    from edgecrack.export.engine import engine_from_onnx

    terminal = Console(stderr=True)
    with Progress(console=terminal, disable=not terminal.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=1)
        engine_from_onnx(
            onnx,
            path,
            capabilities=capabilities,
            workspace=workspace,
            timing_cache=timing_cache,
            device=device,
            progress=lambda share, phase: bar.update(task, completed=share, description=escape(phase)),
        )
    record = read_record(path)
    counts = ", ".join(f"{count} {precision}" for precision, count in record.precisions.items())
    megabytes = path.stat().st_size / 1e6
    typer.echo(f"{path.name}: {megabytes:.1f} MB in {record.build_seconds:.1f} s; convolutions: {counts}", err=True)
    return path
