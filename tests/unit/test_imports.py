"""Who may import whom, and what a device without the training side can do."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgecrack.cli import VERBS

PACKAGE = Path(__file__).parents[2] / "edgecrack"
FILES = {"errors", "files"}
PICTURES = {"errors", "files", "images", "spec"}

# module prefix -> (first-party modules, third-party libraries); the longest prefix that fits decides
ALLOWED: dict[str, tuple[set[str], set[str]]] = {
    "errors": (set(), set()),
    "spec": ({"errors"}, set()),
    "files": ({"errors"}, set()),
    "memory": (set(), set()),
    "board": (set(), set()),
    "cuda_probe": ({"errors"}, set()),
    "tensorrt_library": ({"errors"}, set()),  # TensorRT itself is imported by name
    "engine_file": ({"errors", "spec"}, set()),
    "images": ({*FILES, "spec"}, {"numpy", "cv2"}),
    "fitting": ({"spec", "errors"}, {"numpy", "cv2"}),
    "layouts": ({"errors", "images"}, set()),
    "dataset": ({*PICTURES, "layouts"}, {"numpy", "cv2", "scipy"}),
    "inspection": ({*PICTURES, "layouts", "dataset", "fitting", "inspection"}, {"numpy", "cv2"}),
    "metrics": ({"errors", "spec"}, {"numpy", "cv2"}),
    "onnx_session": (set(), {"onnxruntime"}),
    "onnx_graph": (
        {*FILES, "spec"},
        {"numpy", "onnx", "google"},
    ),  # protobuf, whose errors onnx passes on
    "rendering": ({"errors", "spec", "rendering"}, {"numpy", "cv2"}),
    "runtime": (
        {*PICTURES, "fitting", "onnx_session", "runtime"},
        {"numpy", "cv2", "openvino", "av"},
    ),
    "runtime.gstreamer": ({"errors", "runtime"}, {"numpy", "gi"}),
    "runtime.page": ({"board", "errors", "runtime"}, {"numpy", "cv2", "starlette", "uvicorn"}),
    "runtime.mqtt": ({"errors", "runtime"}, {"paho"}),
    "runtime.backends.tensorrt": ({"errors", "spec", "runtime", "tensorrt_library"}, {"numpy"}),
    "runtime.backends.engine": ({*FILES, "cuda_probe", "engine_file", "runtime", "tensorrt_library"}, set()),
    "runtime.backends.cuda": ({"errors", "cuda_probe", "runtime"}, {"numpy", "cuda", "pycuda"}),
    "plots": ({*FILES}, {"matplotlib"}),
    "evaluation": ({*PICTURES, "dataset", "metrics", "plots", "runtime", "evaluation"}, {"numpy", "cv2", "matplotlib"}),
    "speed": (
        {*FILES, "board", "fitting", "plots", "runtime", "spec", "speed"},
        {"numpy", "cv2", "openvino", "matplotlib"},
    ),
    "speed.plain_script": (set(), {"numpy", "cv2", "onnxruntime"}),
    "calibration": (
        {*PICTURES, "dataset", "fitting", "metrics", "onnx_graph", "onnx_session", "calibration"},
        {"numpy", "cv2", "onnx", "onnxruntime"},
    ),
    "export": ({*FILES, "spec", "fitting", "metrics", "onnx_graph", "onnx_session", "export"}, {"numpy", "onnx"}),
    "export.engine": (
        {*FILES, "spec", "cuda_probe", "engine_file", "memory", "onnx_graph", "tensorrt_library"},
        {"onnx"},
    ),
    "export.graph": (
        {*FILES, "spec", "fitting", "models", "onnx_graph", "export"},
        {"numpy", "torch", "onnx", "onnxsim"},
    ),
    "export.camera": ({"fitting"}, {"torch"}),
    "models": ({*FILES, "spec", "models"}, {"numpy", "torch", "safetensors"}),
    "training": (
        {*PICTURES, "models", "rendering", "metrics", "layouts", "dataset", "fitting", "memory", "training"},
        {"numpy", "torch", "cv2", "lightning_fabric", "tensorboardX"},
    ),
    "training.search": ({*FILES, "plots"}, {"numpy", "optuna", "matplotlib"}),
    "weights": ({"errors"}, set()),
    "cli": ({"errors", "cli"}, {"typer"}),
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__").removesuffix("__init__")


def imported(tree: ast.AST, *, inside_functions: bool) -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if node.module == "edgecrack":
                yield from (f"edgecrack.{alias.name}" for alias in node.names)
            else:
                yield node.module or ""
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        elif inside_functions or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from imported(node, inside_functions=inside_functions)


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_a_module_imports_what_its_place_allows(path: Path) -> None:
    name = name_of(path)
    prefixes = [prefix for prefix in ALLOWED if name == prefix or name.startswith(prefix + ".")]
    if name in ("", "__main__"):
        return  # the package itself loads lazily, see below
    first_party, third_party = ALLOWED[max(prefixes, key=len)]
    inside = not name.startswith("cli")  # a command imports what it needs when it runs
    for module in imported(ast.parse(path.read_text()), inside_functions=inside):
        top, _, rest = module.partition(".")
        if top == "edgecrack":
            # the bare package is its version
            assert not rest or any(rest == known or rest.startswith(known + ".") for known in first_party), (
                f"{name}: {module}"
            )
        elif top not in sys.stdlib_module_names:
            assert top in third_party, f"{name}: {module}"


REFUSE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {refused}:
            raise ImportError(f"{{name}} is not for this process")

sys.meta_path.insert(0, Refuse())
"""


def run(code: str, *refused: str) -> subprocess.CompletedProcess[str]:
    script = REFUSE.format(refused=set(refused)) + code
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)


def test_the_runtime_loads_without_torch_onnx_and_every_backend() -> None:
    done = run(
        "import edgecrack.runtime; edgecrack.CrackDetector",
        *("torch", "onnx", "tensorrt", "openvino", "onnxruntime", "av", "matplotlib", "safetensors"),
    )
    assert done.returncode == 0, done.stderr


def test_the_package_loads_without_numpy() -> None:
    done = run("import edgecrack; edgecrack.__version__", "numpy", "cv2", "typer", "rich", "torch")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("verb", [[], *([verb] for verb in VERBS)], ids=lambda verb: "".join(verb) or "edgecrack")
def test_help_needs_no_library_but_the_command_lines_own(verb: list[str]) -> None:
    code = f"from edgecrack.cli import main; main([*{verb!r}, '--help'])"
    done = run(code, "numpy", "cv2", "torch", "onnx", "tensorrt", "openvino", "onnxruntime", "av")
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout
