"""The members of TensorRT's API that edgecrack uses, checked against the real bindings of several versions.

`tests/tensorrt_api` holds, for each version, the classes of the `tensorrt` package and the names of their members, as
`dir` gave them, and what each member is or returns, as the docstrings of TensorRT for RTX say. Made into type stubs, a
member that a version lacks is an error of mypy. `types.json` is {"tensorrt_rtx": its version, "types": `declared_types` of it}.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
API = ROOT / "tests" / "tensorrt_api"
VERSIONS = ("10.3.0", "10.16.1.11", "11.4.0.106")
CHECKED = [
    "edgecrack/tensorrt_library.py",
    "edgecrack/export/engine.py",
    "edgecrack/runtime/backends/engine.py",
    "edgecrack/runtime/backends/tensorrt.py",
]
PLAIN = {"bool", "int", "float", "str", "None"}


def stubs(api: dict[str, list[str]], types: dict[str, dict[str, list[str]]]) -> str:
    """The content of tensorrt.pyi."""
    lines = ["from collections.abc import Iterator", "from typing import Any", "__version__: str"]
    for name, members in api.items():
        lines += [f"class {name}:", "    def __init__(self, *arguments: Any, **options: Any) -> None: ..."]
        if {"name", "value"} <= set(members):  # an enumeration
            lines += ["    name: str", "    value: int", "    def __int__(self) -> int: ..."]
            lines += [f"    {member}: {name}" for member in members if member not in ("name", "value")]
            continue
        if name == "IHostMemory":
            lines.append("    def __buffer__(self, flags: int) -> memoryview: ...")
        if name == "Dims":
            lines.append("    def __iter__(self) -> Iterator[int]: ...")
        for member in members:
            kind, result = types.get(name, {}).get(member, ["attribute", "Any"])
            result = result if result in api or result in PLAIN else "Any"
            method = f"    def {member}(self, *arguments: Any, **options: Any) -> {result}: ..."
            lines.append(method if kind == "method" else f"    {member}: {result}")
    return "\n".join(lines) + "\n"


def declared_types(module) -> dict[str, dict[str, list[str]]]:
    """What each member of each class is, "method" or "attribute", and the type it returns or has, by its docstring."""
    found: dict[str, dict[str, list[str]]] = {}
    for name, kind in vars(module).items():
        if not isinstance(kind, type):
            continue
        for member, value in vars(kind).items():
            function = getattr(value, "__func__", getattr(value, "fget", value))  # of a static method, of a property
            signatures = getattr(function, "__doc__", None) or ""
            result = re.search(r"^.*\) -> (?:nvonnxparser::I|[\w.]+\.)?(\w+)$", signatures, re.MULTILINE)
            if not member.startswith("_") and result:
                is_a = "attribute" if isinstance(value, property) else "method"
                found.setdefault(name, {})[member] = [is_a, result[1]]
    return found


def mypy(version: str, folder: Path, *files: Path | str) -> subprocess.CompletedProcess[str]:
    """The type checker's verdict on `files` if TensorRT were of `version`."""
    api = json.loads((API / f"api_{version}.json").read_text())
    types = json.loads((API / "types.json").read_text())
    (folder / "tensorrt.pyi").write_text(stubs(api, types["types"]))
    command = [sys.executable, "-m", "mypy", "--strict", "--no-warn-unused-ignores", "--follow-imports=silent"]
    command += ["--cache-dir", str(folder / "cache"), *map(str, files)]
    environment = {**os.environ, "MYPYPATH": str(folder)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """version -> a folder for its stubs and for what mypy remembers."""
    return {version: tmp_path_factory.mktemp("stubs") for version in VERSIONS}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_member_used_is_in_the_bindings(version, folders):
    done = mypy(version, folders[version], *CHECKED)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "line", "planted", "missing_from"),
    [
        ("export/engine.py", "steps.check()", "trt.IInt8EntropyCalibrator2", "11.4.0.106"),
        ("export/engine.py", "steps.check()", "builder.build_engine_with_config(network, config)", "10.3.0"),
        ("export/engine.py", "steps.check()", "config.int8_calibrator = None", "11.4.0.106"),
        ("runtime/backends/engine.py", "check_io(record", "self._engine.device_memory_size", "11.4.0.106"),
        ("tensorrt_library.py", "def __init__", "trt.IStreamReader", "11.4.0.106"),
    ],
)
def test_a_planted_member_is_found_by_the_version_that_lacks_it(module, line, planted, missing_from, folders, tmp_path):
    text = (ROOT / "edgecrack" / module).read_text()
    (at,) = re.findall(rf"^ *{re.escape(line)}", text, re.MULTILINE)
    indent = at[: -len(line)]
    copy = tmp_path / "planted.py"
    copy.write_text(text.replace(at, f"{indent}{planted}\n{at}", 1))
    for version in (missing_from, "10.3.0" if missing_from == "11.4.0.106" else "11.4.0.106"):
        done = mypy(version, folders[version], copy)
        errors = [error for error in done.stdout.splitlines() if ": error:" in error]
        if version == missing_from:
            assert len(errors) == 1, done.stdout
            assert "has no attribute" in errors[0]
            assert re.split(r"[ (]", planted)[0].rpartition(".")[2] in errors[0]
        else:
            assert done.returncode == 0, done.stdout + done.stderr


def test_the_types_are_those_of_the_docstrings():
    rtx = pytest.importorskip("tensorrt_rtx")
    known = json.loads((API / "types.json").read_text())
    if rtx.__version__ != known["tensorrt_rtx"]:
        pytest.skip(f"the types are of TensorRT for RTX {known['tensorrt_rtx']}")
    assert declared_types(rtx) == known["types"]
