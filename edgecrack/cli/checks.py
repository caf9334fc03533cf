"""edgecrack checks: what this machine has, to paste into a report."""

from __future__ import annotations

import typer


def checks() -> None:
    """Print versions, CPU features, backends and what OpenCV can do here."""
    for title, rows in (
        ("Versions", _versions()),
        ("Machine", _machine()),
        ("Backends", _backends()),
        ("Video", _video()),
    ):
        typer.echo(title)
        for name, value in rows.items():
            typer.echo(f"  {name:<22}{value}")


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _versions() -> dict[str, str]:
    import platform

    import edgecrack

    packages = ("numpy", "opencv-python", "openvino", "onnxruntime", "onnx", "torch", "safetensors", "av", "matplotlib")
    return {
        "edgecrack": edgecrack.__version__,
        "python": platform.python_version(),
    } | {package: _version(package) for package in packages}


def _machine() -> dict[str, str]:
    import os
    import platform
    from pathlib import Path

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
    rows["NVIDIA driver"] = "yes" if _library("libcuda.so.1") else "no"
    return rows


def _library(name: str) -> bool:
    import ctypes

    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def _backends() -> dict[str, str]:
    rows = {}
    for name, package in (("openvino", "openvino"), ("onnxruntime", "onnxruntime")):
        version = _version(package)
        rows[name] = f"yes, {version}" if version != "not installed" else "no: pip install 'edgecrack[cpu]'"
    rows["tensorrt"] = "no: this version runs on the CPU only"
    return rows


def _video() -> dict[str, str]:
    rows = {"H.264 writing": "yes, PyAV" if _version("av") != "not installed" else "no: pip install 'edgecrack[video]'"}
    try:
        import cv2
    except ImportError:
        return rows | {"OpenCV": "no: install your system's OpenCV, or pip install 'edgecrack[cpu]'"}
    rows["OpenCV"] = str(cv2.__version__)
    lines = [line.strip() for line in cv2.getBuildInformation().splitlines()]
    for feature in ("GStreamer", "FFMPEG", "v4l/v4l2"):
        found = next(
            (line.split(":", 1)[1].strip() for line in lines if line.startswith(f"{feature}:")), "not mentioned"
        )
        rows[f"OpenCV {feature}"] = found
    return rows
