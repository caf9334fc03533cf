"""What `edgecrack checks` says of a machine."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("capability", "onnx", "verdict"),
    [
        ("8.9", "yes", "yes"),
        ("8.7", "yes", "no: it lacks a TensorRT for it"),
        ("8.9", "no", "no: it lacks onnx, to build"),
    ],
)
def test_checks_asks_whether_an_engine_can_be_built_for_this_gpu(capability: str, onnx: str, verdict: str) -> None:
    from edgecrack.cli.checks import _verdicts

    pytest.importorskip("tensorrt_rtx")
    rows = {"CUDA": "yes, 13.0", "GPU": f"A GPU, compute capability {capability}, memory of its own"}
    rows |= {
        "TensorRT": "no",
        "TensorRT for RTX": "yes",
        "CUDA from Python": "yes",
        "OpenCV": "5",
        "onnx, to build": onnx,
    }
    assert _verdicts(rows)["engines for this GPU"] == verdict


@pytest.mark.parametrize(("version", "words"), [("8.6.2", "8.6.2 is too old, wanted 10 or newer"), ("10.3.0", None)])
def test_a_tensorrt_that_is_too_old_is_no_tensorrt(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str, words: str | None
) -> None:
    """As JetPack 6.0 brings it: a build with it would end in a traceback."""
    from edgecrack.cli.checks import _backends
    from edgecrack.errors import MissingDependency
    from edgecrack.tensorrt_library import load_tensorrt

    (tmp_path / f"tensorrt-{version}.dist-info").mkdir()
    metadata = f"Metadata-Version: 2.1\nName: tensorrt\nVersion: {version}\n"
    (tmp_path / f"tensorrt-{version}.dist-info" / "METADATA").write_text(metadata)
    (tmp_path / "tensorrt.py").write_text(f"Builder, __version__ = object, {version!r}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # what is there comes back at the end
    del sys.modules["tensorrt"]
    if words:
        assert _backends()["TensorRT"].startswith(f"no: {words}")
        with pytest.raises(MissingDependency, match=words):
            load_tensorrt("tensorrt")
    else:
        assert _backends()["TensorRT"] == "yes, tensorrt"
        assert load_tensorrt("tensorrt").__version__ == version
