"""edgecrack checks: what this machine has, to paste into a report."""

from __future__ import annotations

import re
from contextlib import suppress

import typer

from edgecrack.errors import BROUGHT_BY_JETSONS


def checks() -> None:
    """Print versions, the machine, its GPU, backends, OpenCV's capabilities, and a verdict on each feature."""
    machine, gpu, backends, video = _machine(), _gpu(), _backends(), _video()
    for title, rows in (
        ("Versions", _versions()),
        ("Machine", machine),
        ("GPU", gpu),
        ("Backends", backends),
        ("Video", video),
        ("What works here", _verdicts(machine | gpu | backends | video)),
    ):
        typer.echo(title)
        for name, value in rows.items():
            typer.echo(f"  {name:<22}{value}")


def version_of(package: str) -> str:
    """The version of an installed package, or "not installed"."""
    from importlib.metadata import PackageNotFoundError, version

    for name in (package, f"{package}-cu13", f"{package}-cu12"):  # NVIDIA's may be installed for one version of CUDA
        with suppress(PackageNotFoundError):
            return version(name)
    return "not installed"


def _versions() -> dict[str, str]:
    import platform

    import edgecrack

    packages = ["numpy", "opencv-python", "openvino", "onnxruntime", "onnx", "torch", "safetensors", "av", "matplotlib"]
    packages += ["tensorrt", "tensorrt-rtx", "cuda-bindings", "pycuda"]
    return {
        "edgecrack": edgecrack.__version__,
        "python": platform.python_version(),
    } | {package: version_of(package) for package in packages}


def _machine() -> dict[str, str]:
    import os
    import platform
    from pathlib import Path

    from edgecrack.memory import available_memory

    rows = {"system": platform.platform(), "architecture": platform.machine()}
    rows["cores"] = str(len(os.sched_getaffinity(0)))
    cpu = Path("/proc/cpuinfo")
    words = set(cpu.read_text().split()) if cpu.exists() else set()
    for feature, flags in (
        ("VNNI (fast INT8)", {"avx512_vnni", "avx_vnni"}),
        ("AMX", {"amx_int8"}),
        ("bfloat16", {"avx512_bf16", "amx_bf16"}),
        ("dot product (Arm)", {"asimddp"}),
    ):
        rows[feature] = "yes" if words & flags else "no"
    rows["memory free"] = f"{available_memory() / 2**30:.1f} GiB"
    return rows | _board()


def _board() -> dict[str, str]:
    """What a Jetson tells, and what of it other machines do."""
    from edgecrack import board

    rows = {"board": board.model(), "JetPack": board.jetpack(), "power mode": board.power_mode()}
    rows["temperatures"] = ", ".join(f"{zone} {value:.0f} C" for zone, value in board.temperatures().items())
    rows["power"] = ", ".join(f"{rail} {value:.1f} W" for rail, value in board.power().items())
    rows["clocks"] = ", ".join(f"{name} {now:.0f} of {most:.0f} MHz" for name, (now, most) in board.clocks().items())
    return {name: value for name, value in rows.items() if value}


def _gpu() -> dict[str, str]:
    from edgecrack.cuda_probe import probe
    from edgecrack.errors import EngineError

    try:
        gpu = probe()
    except EngineError as error:
        return {"CUDA": f"no: {error}"}
    kind = "shares memory with the CPU" if gpu.integrated else "memory of its own"
    return {"CUDA": f"yes, {gpu.cuda}", "GPU": f"{gpu.name}, compute capability {gpu.compute_capability}, {kind}"}


def _backends() -> dict[str, str]:
    return {
        "openvino": _one_of(("openvino",), "cpu"),
        "onnxruntime": _one_of(("onnxruntime",), "cpu"),
        "TensorRT": _tensorrt(),
        "TensorRT for RTX": _one_of(("tensorrt_rtx",), "rtx"),
        "CUDA from Python": _one_of(("cuda.bindings", "pycuda"), "tensorrt"),
        "onnx, to build": _one_of(("onnx",), "tensorrt"),
    }


def _tensorrt() -> str:
    from edgecrack.tensorrt_library import TOO_OLD, is_too_old

    found, version = _one_of(("tensorrt",), "tensorrt-pip", jetsons=True), version_of("tensorrt")
    if found.startswith("yes") and version[0].isdigit() and is_too_old(version):
        return f"no: {TOO_OLD.format(version)}"
    return found


def _builder(rows: dict[str, str]) -> str:
    """Yes when a TensorRT that is here builds for this GPU: that for RTX does for desktop GPUs of some capabilities only."""
    from edgecrack.errors import EdgecrackError
    from edgecrack.tensorrt_library import rtx_capabilities

    if rows["TensorRT"].startswith("yes"):
        return "yes"
    found = re.search(r"compute capability (\d+)\.(\d+)", rows.get("GPU", ""))
    if not found or not rows["TensorRT for RTX"].startswith("yes"):
        return "no"
    try:
        rtx_capabilities([f"sm{found[1]}{found[2]}"])
    except EdgecrackError:
        return "no"
    return "yes"


def _verdicts(rows: dict[str, str]) -> dict[str, str]:
    """Feature -> yes, or no and what it lacks; `rows` are those of the other sections."""
    rows = rows | {
        "OpenCV": "no" if rows["OpenCV"].startswith("no") else "yes",
        "a Jetson": "yes" if "JetPack" in rows else "no",
        "a TensorRT for it": _builder(rows),
    }
    needs: dict[str, list[tuple[str, ...]]] = {
        "cracks on the CPU": [("openvino", "onnxruntime"), ("OpenCV",)],
        "engines for this GPU": [("CUDA",), ("a TensorRT for it",), ("CUDA from Python",), ("onnx, to build",)],
        "engines for RTX GPUs": [("TensorRT for RTX",), ("onnx, to build",)],
        "overlay video": [("H.264 writing",)],
        "CSI camera": [("a Jetson",), ("OpenCV GStreamer", "GStreamer from Python")],
    }
    return {feature: _verdict(wanted, rows) for feature, wanted in needs.items()}


def _verdict(wanted: list[tuple[str, ...]], rows: dict[str, str]) -> str:
    """Yes when of each group one row says so."""
    lacking = [
        " or ".join(group)
        for group in wanted
        if not any(rows.get(name, "").lower().startswith("yes") for name in group)
    ]
    return f"no: it lacks {', '.join(lacking)}" if lacking else "yes"


def _one_of(modules: tuple[str, ...], extra: str, *, jetsons: bool = False) -> str:
    """Yes and which one, or no and how to get it, also on `jetsons` that bring it.

    Nothing is imported: a broken library should not end the checks.
    """
    from importlib.util import find_spec

    for module in modules:
        with suppress(ModuleNotFoundError):  # of the package that the module is in
            if find_spec(module):
                return f"yes, {module}"
    return f"no: pip install 'edgecrack[{extra}]'{BROUGHT_BY_JETSONS if jetsons else ''}"


def _video() -> dict[str, str]:
    rows = {
        "H.264 writing": "yes, PyAV" if version_of("av") != "not installed" else "no: pip install 'edgecrack[video]'"
    }
    try:
        import cv2
    except ImportError as error:
        if version_of("opencv-python") != "not installed":
            return rows | {"OpenCV": f"no: {error}"}
        return rows | {
            "OpenCV": "no: install your system's OpenCV, or pip install 'edgecrack[cpu]'" + BROUGHT_BY_JETSONS
        }
    rows["OpenCV"] = str(cv2.__version__)
    lines = [line.strip() for line in cv2.getBuildInformation().splitlines()]
    for feature in ("GStreamer", "FFMPEG", "v4l/v4l2"):
        found = next(
            (line.split(":", 1)[1].strip() for line in lines if line.startswith(f"{feature}:")), "not mentioned"
        )
        rows[f"OpenCV {feature}"] = found

    from edgecrack.runtime.gstreamer import has_pygobject

    rows["GStreamer from Python"] = "yes, PyGObject" if has_pygobject() else "no: install your system's python3-gi"
    return rows
