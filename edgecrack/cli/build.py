"""`edgecrack build`: an ONNX file as an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

FOR = "Build with TensorRT for RTX for these GPUs, separated by commas: sm75, sm80, sm86, sm89, sm120, sm121."


def build(
    onnx: Annotated[Path, typer.Argument(help="ONNX file, as written by `edgecrack export`.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Engine file.  [default: NAME.engine]")] = None,
    workspace: Annotated[
        int | None, typer.Option(min=1, max=1 << 40, help="Maximum workspace of one layer, in MiB.")
    ] = None,
    timing_cache: Annotated[
        Path | None, typer.Option(help="Timing cache: read if it exists, and written, to speed up later builds.")
    ] = None,
    device: Annotated[int, typer.Option(min=0, help="GPU that TensorRT builds on and builds for.")] = 0,
    for_: Annotated[str | None, typer.Option("--for", help=FOR)] = None,
) -> None:
    """Build an engine from an ONNX file, in the precision chosen at export.

    TensorRT builds for the GPU it runs on, including a Jetson's. TensorRT for RTX builds on any machine, for the
    desktop GPUs given with --for. NAME.engine.json, beside the engine, records what the engine is and where it runs.
    """
    if for_ and timing_cache:
        raise typer.BadParameter("TensorRT for RTX measures nothing when it builds", param_hint="--timing-cache")
    if for_ and device:
        raise typer.BadParameter("TensorRT for RTX builds for the GPUs named with --for", param_hint="--device")
    if output and output.suffix != ".engine":  # by which `run` knows it, and no ONNX file is overwritten
        raise typer.BadParameter(f"an engine is named NAME.engine, got {output.name!r}", param_hint="--output")
    if timing_cache and timing_cache.suffix in (".onnx", ".engine", ".safetensors", ".json"):
        raise typer.BadParameter(
            f"it is written; give a file of its own, not {timing_cache}", param_hint="--timing-cache"
        )
    if not onnx.name:
        raise typer.BadParameter(f"wanted an ONNX file, got the folder {onnx}", param_hint="ONNX")
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
