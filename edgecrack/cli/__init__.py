"""The command line: one file a verb. Results go to stdout, progress and messages to stderr."""

from __future__ import annotations

import importlib
import io
import sys
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from edgecrack.cli.stopping import Terminated, terminable
from edgecrack.errors import BROUGHT_BY_JETSONS, EdgecrackError

VERBS = {
    "train": "train",
    "search": "search",
    "export": "export",
    "build": "build",
    "run": "run",
    "evaluate": "evaluate",
    "bench": "bench",
    "data": "data",
    "info": "info",
    "checks": "checks",
    "sample-clip": "sample_clip",
}
# module -> the extras that bring it
EXTRAS = {
    **dict.fromkeys(("cv2", "onnxruntime", "openvino"), ("cpu",)),
    **dict.fromkeys(("torch", "safetensors"), ("export", "train")),
    **dict.fromkeys(("onnxsim", "onnxscript"), ("export",)),
    "onnx": ("export", "tensorrt"),
    "matplotlib": ("evaluate",),
    **dict.fromkeys(("lightning_fabric", "tensorboardX"), ("train",)),
    "optuna": ("search",),
    "av": ("video",),
    "scipy": ("train",),
}


class _Group(TyperGroup):
    """Says that it was interrupted: typer's own way to end on Ctrl-C has no words, and another code before 0.15."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        try:
            with terminable():
                return super().invoke(ctx)
        except Terminated as terminated:
            typer.echo("edgecrack: terminated", err=True)
            raise typer.Exit(143) from terminated
        except KeyboardInterrupt as interrupt:
            typer.echo("edgecrack: interrupted", err=True)
            raise typer.Exit(130) from interrupt


app = typer.Typer(
    cls=_Group,
    help="Find cracks in frames from a survey vehicle or a drone.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for verb, module in VERBS.items():
    command = getattr(importlib.import_module(f"edgecrack.cli.{module}"), module)
    if isinstance(command, typer.Typer):  # a verb of verbs
        app.add_typer(command, name=verb)
    else:
        app.command(verb)(command)


@app.callback(invoke_without_command=True)
def _options(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    if version:
        import edgecrack

        typer.echo(edgecrack.__version__)
        raise typer.Exit


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line and exit: 0 done, 1 failed, 2 usage, 3 accuracy, 4 engine mismatch, 5 source lost, 130 Ctrl-C,
    143 SIGTERM.

    An expected failure is one line on stderr; anything else is a bug and shows its traceback.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # names of files that are not UTF-8 come out as they are
    try:
        app(arguments)
    except EdgecrackError as error:
        typer.echo(f"edgecrack: {error}", err=True)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in EXTRAS:
            raise
        extras = " or ".join(f"'edgecrack[{extra}]'" for extra in EXTRAS[module])
        jetsons = BROUGHT_BY_JETSONS if module == "cv2" else ""
        typer.echo(f"edgecrack: {module} is not installed; pip install {extras}{jetsons}", err=True)
        sys.exit(1)
    except ImportError as error:  # of a library that is installed
        if not error.path or Path(error.path).suffix == ".py":
            raise
        wanted = (
            "; apt install libgl1 libglib2.0-0, or opencv-python-headless in place of opencv-python"
            if "libGL" in str(error)
            else ""
        )
        typer.echo(f"edgecrack: {Path(error.path).name} cannot be loaded: {error}{wanted}", err=True)
        sys.exit(1)
    except OSError as error:  # of the machine and not ours: a folder that may not be looked into, a full disk
        name = f": {error.filename}" if error.filename else ""
        typer.echo(f"edgecrack: {error.strerror or error}{name}", err=True)
        sys.exit(1)
