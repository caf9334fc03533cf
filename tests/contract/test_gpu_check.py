"""The page of `make gpu-check` on the driver in tests/fake_cuda: all that is not a measure of speed has to pass there too."""

import importlib
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from edgecrack.errors import EngineError
from edgecrack.spec import FrameSpec, ModelSpec

CHECK = Path(__file__).parents[2] / "tools" / "gpu_check.py"
LINES = ("copies and bandwidth", "graph, upload and download", "graph, zero copy", "threads", "500 frames")


def page(environment, *options):
    command = [sys.executable, CHECK, *options]
    environment = {**environment, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


@pytest.mark.parametrize(("library", "package"), [("cuda-bindings", "cuda"), ("pycuda", "pycuda")])
def test_a_cuda_library_passes(fake_cuda, library, package):
    if not find_spec(package):
        pytest.skip(f"{library} is not installed")
    done = page(fake_cuda, "--part", library, "--iterations", "500")
    verdicts = {line[9:37].strip(): line[:8].strip() for line in done.stdout.splitlines()[2:]}
    assert {name: verdicts.get(name) for name in LINES} == dict.fromkeys(LINES, "pass"), done.stdout + done.stderr
    assert {"two streams", "end to end, a kernel"} <= set(verdicts)


def test_what_fails_is_a_line_and_an_exit_code(fake_cuda):
    if not find_spec("cuda"):
        pytest.skip("cuda-bindings are not installed")
    done = page(
        {**fake_cuda, "FAKE_CUDA_FAIL": "cuStreamCreate:1:999:lost"}, "--part", "cuda-bindings", "--iterations", "500"
    )
    lines = done.stdout.splitlines()[2:]
    assert done.returncode == 1
    assert len(lines) == len(LINES) + 2
    assert all(line.startswith("FAIL ") and "CUDA_ERROR_UNKNOWN" in line for line in lines)


ANSWERS = """
import sys
from pathlib import Path
tools, onnx, shift = sys.argv[1:]
sys.path.insert(0, tools)
import gpu_check
with gpu_check.kernel_backend() as backend:
    collect = backend.collect
    backend.collect = lambda: collect() + int(shift)
    page = gpu_check.Page("answers")
    page.check("answers", lambda: gpu_check.check_answers(backend, Path(onnx)))
"""


@pytest.mark.parametrize(("shift", "verdict"), [(0, "pass     answers"), (8, "FAIL     answers")])
def test_what_an_engine_answers_is_compared(fake_cuda, write_model, tmp_path, shift, verdict):
    if not find_spec("cuda"):
        pytest.skip("cuda-bindings are not installed")
    spec = ModelSpec("scnet", frame=FrameSpec(512, 512))
    onnx = write_model(tmp_path / "net.onnx", spec)
    command = [sys.executable, "-c", ANSWERS, CHECK.parent, onnx, str(shift)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**fake_cuda, "OMP_NUM_THREADS": "1"}
    )
    (line,) = done.stdout.splitlines()[2:]
    assert line.startswith(verdict), done.stdout + done.stderr
    assert "mask F1 " in line


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(CHECK.parent))
    return importlib.import_module("gpu_check")


def test_trtexec_says_how_fast_an_engine_is(tool, tmp_path):
    trtexec = tmp_path / "trtexec"
    trtexec.write_text("#!/bin/sh\necho \"$*\" >&2\necho '[I] Throughput: 1234.5 qps'\n")
    trtexec.chmod(0o755)
    assert tool.trtexec_rate(str(trtexec), tmp_path / "net.engine") == 1234.5
    trtexec.write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(EngineError, match="trtexec ended with 3"):
        tool.trtexec_rate(str(trtexec), tmp_path / "net.engine")


def test_the_last_line_counts_what_was_not_run(tool, monkeypatch, tmp_path, capsys):
    page = tmp_path / "page.py"
    page.write_text(
        "import os\nprint('title')\nprint('pass     a  b')\nprint('not run  everything  none', flush=True)\nos.abort()\n"
    )
    monkeypatch.setattr(tool, "__file__", str(page))
    assert tool.run_part("tensorrt", []) == {"title": 1, "pass": 1, "not run": 1, "FAIL": 1}
    assert "FAIL     tensorrt ended with -6" in capsys.readouterr().out


def test_a_part_that_ends_in_a_traceback_has_failed(tool, monkeypatch, tmp_path, capsys):
    page = tmp_path / "page.py"
    page.write_text("print('title', flush=True)\nraise ImportError('libcudart.so.12')\n")
    monkeypatch.setattr(tool, "__file__", str(page))
    assert tool.run_part("others", []) == {"title": 1, "FAIL": 1}
    assert "FAIL     others ended with 1" in capsys.readouterr().out


def test_threads_that_fail_are_a_failure(fake_cuda):
    if not find_spec("cuda"):
        pytest.skip("cuda-bindings are not installed")
    code = f"""
import sys
sys.path.insert(0, {str(CHECK.parent)!r})
import gpu_check
from edgecrack.errors import EngineError
def lost(*arguments):
    raise EngineError("the GPU is lost")
gpu_check.CrackDetector.run = lost
page = gpu_check.Page("cuda-bindings")
page.check("threads", gpu_check.check_threads)
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=fake_cuda, check=True)
    assert done.stdout.splitlines()[-1].startswith("FAIL     threads")
    assert "the GPU is lost" in done.stdout


def test_the_bare_engine_keeps_its_contexts_while_their_graphs_run(fake_cuda):
    """A graph works in the memory of the context that it was captured from."""
    if not find_spec("cuda"):
        pytest.skip("cuda-bindings are not installed")
    code = f"""
import sys, weakref
sys.path.insert(0, {str(CHECK.parent)!r})
import gpu_check
class Context:
    def __init__(self, made):
        self.set_tensor_address, self.execute_async_v3 = made.set_tensor_address, made.execute_async_v3
with gpu_check.kernel_backend() as backend:
    engine, contexts, alive = backend.engine, [], []
    make, launch = engine.context, engine.cuda.launch
    def context():
        made = Context(make())
        contexts.append(weakref.ref(made))
        return made
    def launched(*arguments):
        alive.append(sum(each() is not None for each in contexts))
        return launch(*arguments)
    engine.context, engine.cuda.launch = context, launched
    gpu_check.bare_rate(engine, lanes=2, frames=9)
    print(set(alive), [each() for each in contexts])
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=fake_cuda, check=True)
    assert done.stdout.splitlines()[-1] == "{2} [None, None]"


@pytest.mark.parametrize("part", ["tensorrt", "others"])
def test_a_part_without_a_net_says_what_to_give(tool, monkeypatch, capsys, part):
    monkeypatch.setattr(tool, "find_spec", lambda name: name != "torch")
    getattr(tool, f"{part}_part")(None)
    assert "not run  everything" in (text := capsys.readouterr().out)
    assert "make gpu-check ONNX=FILE" in text


def test_without_a_gpu_it_says_so():
    if Path("/proc/driver/nvidia").exists():
        pytest.skip("this machine has a driver")
    done = page({})
    assert done.returncode == 1
    assert done.stdout.startswith("NOT RUN  no GPU: no CUDA driver")
