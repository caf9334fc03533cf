"""An ONNX graph as an engine, with the real builder of TensorRT for RTX: what is written beside it, and what is refused."""

from __future__ import annotations

import errno
import hashlib
import json
import sys
import threading
import weakref
from contextlib import contextmanager

import numpy as np
import onnx
import pytest
import torch

from edgecrack.calibration.frames import CalibrationFrames
from edgecrack.calibration.qdq import int8_from_onnx
from edgecrack.calibration.ranges import measure_ranges
from edgecrack.cuda_probe import Gpu
from edgecrack.engine_file import EngineRecord, read_plan, read_record, record_path
from edgecrack.errors import BuildError, SourceError, SpecError
from edgecrack.export import engine
from edgecrack.export.engine import engine_from_onnx
from edgecrack.export.graph import onnx_from_model
from edgecrack.export.precision import fp16_from_onnx
from edgecrack.models import build_model
from edgecrack.onnx_graph import read_onnx, write_onnx
from edgecrack.rendering import rendered_frame
from edgecrack.spec import FrameSpec, ModelSpec

rtx = pytest.importorskip("tensorrt_rtx")
FRAME = FrameSpec(64, 96)
SPEC = ModelSpec("msfnet", 0.125, frame=FRAME)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """precision -> ONNX file of a fresh MSF-Net."""
    folder = tmp_path_factory.mktemp("onnx")
    torch.manual_seed(3)
    fp32 = onnx_from_model(build_model(SPEC).eval(), SPEC, folder / "msfnet.onnx")
    images = [rendered_frame(seed, FRAME.height, FRAME.width)[0] for seed in range(2)]
    ranges = measure_ranges(fp32, CalibrationFrames.from_images(images, FRAME))
    int8 = int8_from_onnx(fp32, ranges, folder / "msfnet.int8.onnx")
    return {
        "fp32": fp32,
        "fp16": fp16_from_onnx(fp32, folder / "msfnet.fp16.onnx"),
        "int8": int8,
        "int8-fp16": fp16_from_onnx(int8, folder / "msfnet.int8-fp16.onnx"),
        "int8-cpu": int8_from_onnx(fp32, ranges, folder / "msfnet.int8-cpu.onnx", target="cpu"),
    }


def test_the_record_says_what_was_built_of_what(files, tmp_path):
    path = engine_from_onnx(files["int8"], tmp_path / "sub" / "net.engine", capabilities=["sm86", "SM120", "sm86"])
    record = read_record(path)
    _, spec = read_onnx(files["int8"])
    assert record.spec == spec
    assert (record.flavour, record.version, record.gpu, record.cuda) == ("tensorrt_rtx", rtx.__version__, "", "")
    assert record.compute_capabilities == ("8.6", "12.0")
    assert record.onnx_sha256 == hashlib.sha256(files["int8"].read_bytes()).hexdigest()
    assert record.plan_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert 0 < record.build_seconds < 60
    plan = read_plan(path, record)
    assert [name in plan for name in (b"sm86", b"sm89", b"sm120")] == [True, False, True]
    # the ONNX is in another folder: the command still names it
    words = record.rebuild_command(path).split()
    assert words == ["edgecrack", "build", str(files["int8"]), "-o", str(path), "--for", "sm86,sm120"]
    assert {file.name for file in path.parent.iterdir()} == {"net.engine", "net.engine.json"}


def test_the_onnx_is_found_again_through_a_symbolic_link(files, tmp_path):
    (tmp_path / "disk" / "engines").mkdir(parents=True)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "models").symlink_to(tmp_path / "disk" / "engines")
    onnx_path = tmp_path / "home" / "net.onnx"
    onnx_path.write_bytes(files["int8"].read_bytes())
    path = engine_from_onnx(onnx_path, tmp_path / "home" / "models" / "net.engine", capabilities=["sm86"])
    for name in (path, tmp_path / "disk" / "engines" / "net.engine"):
        assert read_record(name).onnx_beside(name).samefile(onnx_path)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int8-fp16"])
def test_the_record_counts_convolutions_by_the_type_they_compute_in(precision, files, tmp_path):
    model, _ = read_onnx(files[precision])
    counts = read_record(engine_from_onnx(files[precision], tmp_path / "net.engine", capabilities=["sm86"])).precisions
    assert sum(counts.values()) == sum(node.op_type in ("Conv", "ConvTranspose") for node in model.graph.node)
    quantised = [node for node in model.graph.node if node.op_type == "Conv" and "dequantised" in node.input[1]]
    assert counts.get("int8", 0) == len(quantised)
    # what prepares the image and what enlarges the answer stays float32
    main = {"fp32": "fp32", "fp16": "fp16", "int8": "int8", "int8-fp16": "int8"}[precision]
    assert max(counts, key=counts.__getitem__) == main
    assert ("fp16" in counts) == ("fp16" in precision)


def test_progress_runs_from_nothing_to_the_end_in_another_thread(files, tmp_path):
    shares, threads = [], set()

    def note(share, phase):
        assert phase
        shares.append(share)
        threads.add(threading.get_ident())

    engine_from_onnx(files["fp32"], tmp_path / "net.engine", capabilities=["sm86"], progress=note)
    assert len(shares) > 50
    assert shares == sorted(shares)
    assert 0 <= shares[0] < 0.2
    assert 0.6 < shares[-1] <= 1
    assert threading.get_ident() not in threads


def test_an_error_in_progress_ends_the_build(files, tmp_path):
    calls = []

    def fail(share, phase):
        calls.append(share)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        engine_from_onnx(files["fp32"], tmp_path / "net.engine", capabilities=["sm86"], progress=fail)
    assert len(calls) < 20  # TensorRT ends at the next step of each of its phases
    assert not list(tmp_path.iterdir())


def test_shares_of_phases_within_phases():
    seen = []
    steps = engine._Steps(threading.Event(), lambda share, phase: seen.append((round(share, 3), phase)))
    steps.begin("whole", None, 4)
    steps.done("whole", 0)
    steps.begin("part", "whole", 2)
    steps.done("part", 0)
    steps.done("part", 1)
    steps.end("part")
    steps.begin("part", "whole", 10)  # a second of that name within the same step
    steps.done("part", 0)
    steps.end("part")
    steps.done("whole", 1)
    steps.end("whole")
    steps.end("unknown")
    assert seen == [(0.25, "whole"), (0.375, "part"), (0.5, "part"), (0.5, "part"), (0.5, "whole")]


def test_a_phase_of_no_steps_and_one_within_its_own_name_do_no_harm():
    steps = engine._Steps(threading.Event(), lambda share, phase: None)
    steps.begin("empty", None, 0)
    assert steps.done("empty", 0)
    steps.begin("same", "same", 4)
    assert steps.done("same", 0)
    steps.check()


def test_phases_may_come_and_go_in_other_threads_meanwhile():
    """What is raised in a callback of TensorRT ends the process."""
    seen, failed = [], []
    steps = engine._Steps(threading.Event(), lambda share, phase: seen.append(share))

    def build(name):
        try:
            for _ in range(2000):
                steps.begin("whole", None, 3)
                steps.begin(name, "whole", 2)
                steps.done(name, 0)
                steps.end("whole")
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=build, args=(str(index),)) for index in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(interval)
    assert not failed
    assert seen == sorted(seen)


@pytest.mark.parametrize("name", ["sm87", "8.6", "", "current", "none", "sm86 "])
def test_a_capability_that_is_not_built_for_is_refused_by_name(name, files, tmp_path):
    with pytest.raises(SpecError, match=r"builds for sm75, .*sm86, .*sm120.*; got '" + name):
        engine_from_onnx(files["fp32"], tmp_path / "net.engine", capabilities=["sm86", name])
    assert not list(tmp_path.iterdir())


def test_options_that_cannot_be_are_refused(files, tmp_path):
    for workspace in (0, -1):
        with pytest.raises(SpecError, match="MiB from 1"):
            engine_from_onnx(files["fp32"], tmp_path / "net.engine", capabilities=["sm86"], workspace=workspace)
    with pytest.raises(SpecError, match="takes no timing cache"):
        engine_from_onnx(files["fp32"], tmp_path / "net.engine", capabilities=["sm86"], timing_cache=tmp_path / "cache")
    assert not list(tmp_path.iterdir())


def test_unsigned_activations_are_refused_before_tensorrt(files, tmp_path):
    with pytest.raises(BuildError, match=r"msfnet\.int8-cpu\.onnx was exported with --target cpu: .* signed"):
        engine_from_onnx(files["int8-cpu"], tmp_path / "net.engine", capabilities=["sm86"])
    assert not list(tmp_path.iterdir())


def changed(source, path, change):
    """The graph of `source`, changed and unchecked, at `path`."""
    model = onnx.load(source)
    change(model)
    onnx.save(model, path)
    return path


def dangling(model):
    model.graph.node[3].input[0] = "nowhere"


def half(model):
    """Make one weight float16: it no longer agrees with what it is multiplied by."""
    name = next(node.input[1] for node in model.graph.node if node.op_type == "Conv")
    (weight,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    values = onnx.numpy_helper.to_array(weight).astype(np.float16)
    weight.CopyFrom(onnx.numpy_helper.from_array(values, name))


@pytest.mark.parametrize("change", [dangling, half])
def test_an_invalid_graph_is_refused_before_tensorrt(change, files, tmp_path):
    path = changed(files["fp32"], tmp_path / "net.onnx", change)
    with pytest.raises(BuildError, match=r"net\.onnx is not valid ONNX: ") as caught:
        engine_from_onnx(path, tmp_path / "net.engine", capabilities=["sm86"])
    assert "\n" not in str(caught.value)
    assert {file.name for file in tmp_path.iterdir()} == {"net.onnx"}


def dynamic(model):
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[1].dim_param = "height"


def test_what_tensorrt_cannot_build_is_explained_in_one_line(write_model, tmp_path):
    path = changed(write_model(tmp_path / "net.onnx", SPEC), tmp_path / "net.onnx", dynamic)
    words = rf"^TensorRT for RTX {rtx.__version__} could not build this graph: .*profile"
    with pytest.raises(BuildError, match=words) as caught:
        engine_from_onnx(path, tmp_path / "net.engine", capabilities=["sm86"])
    assert "\n" not in str(caught.value)
    assert {file.name for file in tmp_path.iterdir()} == {"net.onnx"}


def test_a_graph_without_operators_is_refused(files, tmp_path):
    model, spec = read_onnx(files["fp32"])
    del model.graph.node[:], model.graph.output[:], model.graph.initializer[:]
    path = write_onnx(model, spec, tmp_path / "net.onnx")
    with pytest.raises(BuildError, match="finds nothing in this graph"):
        engine_from_onnx(path, tmp_path / "net.engine", capabilities=["sm86"])


def test_an_old_engine_outlives_a_build_that_fails(files, tmp_path):
    path = engine_from_onnx(files["fp32"], tmp_path / "net.engine", capabilities=["sm86"])
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(BuildError):
        engine_from_onnx(files["int8-cpu"], path, capabilities=["sm86"])
    with pytest.raises(ZeroDivisionError):
        engine_from_onnx(files["fp16"], path, capabilities=["sm86"], progress=lambda share, phase: 1 // 0)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_record_that_cannot_be_written_leaves_no_plan_and_an_old_engine_as_it_was(files, tmp_path, monkeypatch):
    def fail(self):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = engine_from_onnx(files["fp32"], tmp_path / "net.engine", capabilities=["sm86"])
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    monkeypatch.setattr(EngineRecord, "to_json", fail)
    for name in ("net.engine", "new.engine"):
        with pytest.raises(SourceError, match="No space left"):
            engine_from_onnx(files["fp16"], tmp_path / name, capabilities=["sm86"])
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert read_plan(path, read_record(path))


@pytest.mark.parametrize("name", ["net.engine.json", "cache"])
def test_a_place_that_cannot_be_written_is_found_before_the_build(name, files, tmp_path, monkeypatch):
    gpu = Gpu(0, "Orin", "8.7", "13.0", integrated=False, multiprocessors=8)
    target = engine._Target("tensorrt", "10.3.0", (), gpu, 1024, b"")
    monkeypatch.setattr(engine, "_target", lambda *arguments: target)
    monkeypatch.setattr(engine, "_build", lambda *arguments: pytest.fail("it was built"))
    (tmp_path / name).mkdir()
    with pytest.raises(SourceError, match=rf"cannot write .*/{name}: "):
        engine_from_onnx(files["fp32"], tmp_path / "net.engine", timing_cache=tmp_path / "cache")
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("broken", [False, True])
def test_nothing_of_tensorrt_outlives_the_context_of_its_gpu(broken, files, monkeypatch):
    events = []

    @contextmanager
    def context(gpu):
        try:
            yield
        finally:
            events.append("GPU")

    def watched(make, name):
        def made(*arguments):
            made = make(*arguments)
            weakref.finalize(made, events.append, name)
            return made

        return made

    monkeypatch.setattr(engine, "current", context)
    for name in ("Builder", "OnnxParser"):
        monkeypatch.setattr(rtx, name, watched(getattr(rtx, name), name))
    gpu = Gpu(0, "RTX", "8.6", "13.0", integrated=False, multiprocessors=8)
    target = engine._Target("tensorrt_rtx", rtx.__version__, ("SM86",), gpu, 64, None)
    data = b"junk" if broken else files["fp32"].read_bytes()
    kept = None
    try:
        engine._build(data, target, engine._Steps(threading.Event(), None))
    except BuildError as error:
        kept = error
    assert (kept is not None) == broken
    assert sorted(events[:2]) == ["Builder", "OnnxParser"]
    assert events[2:] == ["GPU"]


def test_too_little_memory_is_found_before_the_build(files, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "available_memory", lambda: 300 << 20)
    with pytest.raises(
        BuildError, match=r"too little memory for the build: wanted 51\d MiB, 300 are free; close other"
    ):
        engine_from_onnx(files["fp32"], tmp_path / "net.engine", capabilities=["sm86"])
    assert not list(tmp_path.iterdir())


def test_the_workspace_is_a_part_of_a_memory_that_is_shared(monkeypatch):
    monkeypatch.setattr(engine, "available_memory", lambda: 2000 << 20)
    assert engine._affordable(None, 0, shared=True) == 500
    assert engine._affordable(None, 0, shared=False) == 1024
    assert engine._affordable(64, 0, shared=True) == 64
    assert engine._affordable(4096, 0, shared=False) == 4096  # of the GPU's own
    with pytest.raises(BuildError, match="wanted 4608 MiB, 2000 are free; close other programs or give a smaller"):
        engine._affordable(4096, 0, shared=True)
    with pytest.raises(BuildError, match="wanted 2312 MiB"):
        engine._affordable(None, 450 * 2**20, shared=False)
    for free in (100_000 << 20, 0):  # 0: the system does not say
        monkeypatch.setattr(engine, "available_memory", lambda free=free: free)
        assert engine._affordable(None, 0, shared=True) == 1024


def test_the_record_is_readable_json_with_the_spec_inside(files, tmp_path):
    path = engine_from_onnx(files["fp16"], tmp_path / "net.engine", capabilities=["sm89"])
    values = json.loads(record_path(path).read_text())
    assert values["spec"]["precision"] == "fp16"
    assert values["compute_capabilities"] == ["8.9"]
