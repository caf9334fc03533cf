import dataclasses
import os
import subprocess
import sys
import threading
from contextlib import closing

import numpy as np
import onnx
import pytest

from edgecrack.errors import EngineError, FrameError, MissingDependency, SpecError
from edgecrack.runtime import open_backend
from edgecrack.runtime.backends import BACKENDS
from edgecrack.runtime.onnx_metadata import read_spec
from edgecrack.spec import FrameSpec, ModelSpec

pytestmark = pytest.mark.parametrize("name", BACKENDS)


@pytest.fixture
def backend(model, name):
    opened = open_backend(model, name)
    yield opened
    opened.close()


def noise(seed, batch=1):
    return np.random.default_rng(seed).integers(0, 256, (batch, 48, 64, 3), np.uint8)


def mean(frames):
    return (frames.sum(3, dtype=int) // 3).astype(np.uint8)


def assert_answer(answer, frames):
    assert answer.dtype == np.uint8
    assert answer.shape == frames.shape[:3]
    assert np.abs(answer.astype(int) - mean(frames)).max() <= 1  # a third is not exact in float32


def test_a_model_says_what_it_is(backend, name, spec):
    assert backend.spec == spec
    assert backend.name == name
    assert backend.depth >= 2  # so that the host works while the model runs


def test_a_hint_changes_no_answer(model, name):
    frames = [noise(seed) for seed in range(6)]
    backend = open_backend(model, name, hint="throughput")
    answers = []
    for index, each in enumerate(frames):
        if index >= backend.depth:
            answers.append(backend.collect())
        backend.submit(each)
    answers += [backend.collect() for _ in range(min(backend.depth, len(frames)))]
    backend.close()
    with closing(open_backend(model, name)) as soonest:
        for answer, each in zip(answers, frames, strict=True):
            soonest.submit(each)
            np.testing.assert_array_equal(answer, soonest.collect())


def test_another_hint_is_refused(model, name):
    with pytest.raises(SpecError, match="a hint is one of latency, throughput, got 'fast'"):
        open_backend(model, name, hint="fast")


def test_answers_come_in_the_order_of_the_calls_however_many_are_in_flight(backend):
    frames = [noise(seed) for seed in range(12)]
    answers = []
    for index, each in enumerate(frames):
        if index >= backend.depth:
            answers.append(backend.collect())
        backend.submit(each)
    answers += [backend.collect() for _ in range(backend.depth)]
    for answer, each in zip(answers, frames, strict=True):  # none of them was overwritten by a later one
        assert_answer(answer, each)


def test_a_batch_is_answered_frame_by_frame(tmp_path, name, write_model):
    spec = ModelSpec("scnet", frame=FrameSpec(48, 64), batch=3)
    backend = open_backend(write_model(tmp_path / "a.onnx", spec), name)
    backend.submit(noise(0, 3))
    assert_answer(backend.collect(), noise(0, 3))
    backend.close()


def test_more_calls_than_the_depth_are_refused_and_do_no_harm(backend):
    for seed in range(backend.depth):
        backend.submit(noise(seed))
    with pytest.raises(EngineError, match="2 calls are in flight"):
        backend.submit(noise(9))
    for seed in range(backend.depth):
        assert_answer(backend.collect(), noise(seed))
    with pytest.raises(EngineError, match="nothing is in flight"):
        backend.collect()


@pytest.mark.parametrize(
    "frames",
    [
        noise(0)[0],
        noise(0, 2),
        noise(0)[:, :-1],
        noise(0)[:, :, ::-1],
        noise(0).astype(np.float32),
        noise(0).transpose(0, 3, 1, 2),
    ],
    ids=["no batch", "another batch", "another size", "not contiguous", "float", "channels first"],
)
def test_anything_but_the_specs_frames_is_refused(backend, frames):
    with pytest.raises(FrameError, match=r"wanted contiguous uint8 \(1, 48, 64, 3\)"):
        backend.submit(frames)
    with pytest.raises(EngineError, match="nothing is in flight"):
        backend.collect()


def test_frames_that_may_only_be_read_are_answered(backend):
    frames = noise(3)
    frames.flags.writeable = False  # as numpy makes them of a PIL image
    backend.submit(frames)
    assert_answer(backend.collect(), frames)


def test_a_closed_backend_refuses_work_and_leaves_no_thread(model, name):
    before = threading.active_count()
    backend = open_backend(model, name)
    for seed in range(backend.depth):
        backend.submit(noise(seed))
    backend.close()
    backend.close()
    assert threading.active_count() == before
    for call in (lambda: backend.submit(noise(0)), backend.collect):
        with pytest.raises(EngineError, match="closed; open it again"):
            call()


def test_closing_waits_for_the_call_that_another_thread_waits_for(backend):
    backend.submit(noise(5))
    wait, waiting, go_on = backend._waiting.popleft(), threading.Event(), threading.Event()

    def slow():
        waiting.set()
        assert go_on.wait(30)
        return wait()

    backend._waiting.append(slow)
    answers = []
    collecting = threading.Thread(target=lambda: answers.append(backend.collect()))
    closing = threading.Thread(target=backend.close)
    collecting.start()
    assert waiting.wait(30)
    closing.start()
    closing.join(0.2)
    assert closing.is_alive()
    go_on.set()
    for thread in (collecting, closing):
        thread.join()
    assert_answer(answers[0], noise(5))
    with pytest.raises(EngineError, match="closed; open it again"):
        backend.collect()


def test_any_thread_may_call(backend):
    answers = []

    def call():
        backend.submit(noise(5))
        answers.append(backend.collect())

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert_answer(answers[0], noise(5))


def test_a_clone_has_calls_of_its_own_and_outlives_the_first(backend, name, spec):
    clone = backend.clone()
    assert (clone.name, clone.spec) == (name, spec)
    for opened, first in ((backend, 0), (clone, 5)):
        for seed in range(first, first + opened.depth):
            opened.submit(noise(seed))
    assert_answer(backend.collect(), noise(0))
    assert_answer(clone.collect(), noise(5))
    backend.close()
    assert_answer(clone.collect(), noise(6))
    with pytest.raises(EngineError, match="closed; open it again"):
        backend.clone()
    clone.close()


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.6, 0.9, 0.99])
def test_a_model_that_was_cut_short_is_one_line_that_names_it(model, tmp_path, name, share):
    data = model.read_bytes()
    (tmp_path / "cut.onnx").write_bytes(data[: int(share * len(data))])
    with pytest.raises(EngineError, match=r"^[^\n]*cut\.onnx is not [^\n]*$"):
        open_backend(tmp_path / "cut.onnx", name)


@pytest.mark.parametrize("seed", range(8))
def test_junk_is_one_line_that_names_it(tmp_path, name, seed):
    (tmp_path / "junk.onnx").write_bytes(np.random.default_rng(seed).bytes(5000))
    with pytest.raises(EngineError, match=r"^[^\n]*junk\.onnx is not [^\n]*$"):
        open_backend(tmp_path / "junk.onnx", name)


def test_a_missing_model_and_a_folder_are_named(tmp_path, name):
    with pytest.raises(EngineError, match=r"nothing\.onnx: No such file"):
        open_backend(tmp_path / "nothing.onnx", name)
    with pytest.raises(EngineError, match="Is a directory"):
        open_backend(tmp_path, name)


def test_an_onnx_of_somebody_else_says_what_was_wanted(tmp_path, name, spec, write_model):
    write_model(tmp_path / "a.onnx", spec, metadata=False)
    with pytest.raises(EngineError, match="not an edgecrack model; wanted an ONNX written by `edgecrack export`"):
        open_backend(tmp_path / "a.onnx", name)


def test_a_spec_that_cannot_be_read_is_named(tmp_path, name, model):
    proto = onnx.load(str(model))
    onnx.helper.set_model_props(proto, {"edgecrack": '{"name": "scnet", "surprise": 1}'})
    onnx.save(proto, str(tmp_path / "a.onnx"))
    with pytest.raises(EngineError, match=r"cannot use the model .*a\.onnx: not a model spec"):
        open_backend(tmp_path / "a.onnx", name)


def test_a_graph_that_is_not_what_its_spec_says_is_refused(tmp_path, name, spec, write_model):
    write_model(tmp_path / "a.onnx", spec, graph_frame=FrameSpec(64, 48))
    with pytest.raises(EngineError, match=r"its graph is not what its spec says: .*48, 64.*64, 48"):
        open_backend(tmp_path / "a.onnx", name)


def test_a_graph_that_the_library_does_not_know_is_one_line(tmp_path, name, model):
    proto = onnx.load(str(model))
    proto.graph.node[1].op_type = "ReduceMoan"
    onnx.save(proto, str(tmp_path / "a.onnx"))
    with pytest.raises(EngineError, match=rf"^{name} cannot load [^\n]*a\.onnx: [^\n]*ReduceMoan[^\n]*$") as caught:
        open_backend(tmp_path / "a.onnx", name)
    assert caught.value.__cause__ is not None


def test_the_spec_is_found_behind_weights_of_any_size(tmp_path, name, model, spec):
    proto = onnx.load(str(model))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(3_000_000, np.float32), "unused"))
    onnx.save(proto, str(tmp_path / "big.onnx"))
    assert read_spec(tmp_path / "big.onnx") == spec
    full = dataclasses.replace(spec, scores={"test": {"f1": 0.5}}, hashes={"weights": "0" * 64}, options={"prior": "é"})
    onnx.helper.set_model_props(proto, {"edgecrack": full.to_json()})
    onnx.save(proto, str(tmp_path / "big.onnx"))
    assert read_spec(tmp_path / "big.onnx") == full


def test_without_its_library_the_extra_is_named(model, name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    for importing in (f"edgecrack.runtime.backends.{name}", "edgecrack.onnx_session"):
        monkeypatch.delitem(sys.modules, importing, raising=False)
    with pytest.raises(MissingDependency, match=rf"{name} cannot be loaded.*pip install .edgecrack\[cpu\]."):
        open_backend(model, name)


def test_auto_takes_what_is_installed_and_says_which(model, name, monkeypatch):
    for other in BACKENDS[: BACKENDS.index(name)]:
        monkeypatch.setitem(sys.modules, other, None)
    backend = open_backend(model)
    assert backend.name == name
    backend.close()


@pytest.mark.parametrize("precision", ["int8", "int8-fp16"])
def test_int8_for_tensorrt_runs_on_the_numeric_reference_alone(tmp_path, name, write_model, precision, caplog):
    spec = ModelSpec("scnet", frame=FrameSpec(48, 64), precision=precision, target="tensorrt")
    path = write_model(tmp_path / "a.onnx", spec)
    backend = open_backend(path)
    assert backend.name == "onnxruntime"
    backend.close()
    assert caplog.text.count("computes slower than fp32; build an engine of it") == 1
    if name == "openvino":
        with pytest.raises(EngineError, match="INT8 for TensorRT, which OpenVINO answers wrongly"):
            open_backend(path, name)


def test_auto_without_any_library_names_the_extra(model, name, monkeypatch):
    for each in BACKENDS:
        monkeypatch.setitem(sys.modules, each, None)
        monkeypatch.delitem(sys.modules, f"edgecrack.runtime.backends.{each}", raising=False)
    with pytest.raises(MissingDependency, match=r"pip install .edgecrack\[cpu\]."):
        open_backend(model)


def test_what_is_not_supported_is_said(tmp_path, name):
    with pytest.raises(SpecError, match="a backend is one of auto, openvino, onnxruntime, tensorrt, got 'tpu'"):
        open_backend(tmp_path / "a.onnx", "tpu")
    with pytest.raises(EngineError, match=rf"a\.engine is an engine: it runs on tensorrt and not on {name}"):
        open_backend(tmp_path / "a.engine", name)
    with pytest.raises(EngineError, match=r"a\.onnx is no engine.* edgecrack build .*a\.onnx"):
        open_backend(tmp_path / "a.onnx", "tensorrt")


def test_loading_a_model_reports_to_nobody_and_leaves_nothing_behind(model, name, tmp_path):
    code = """
import sys
from edgecrack.runtime import open_backend
sys.addaudithook(lambda event, values: event.startswith("socket.") and print(event, values))
open_backend(*sys.argv[1:]).close()
print(*(module for module in sys.modules if "openvino_telemetry" in module))
"""
    environment = {**os.environ, "HOME": str(tmp_path)} | {"CI": ""}  # in CI OpenVINO keeps quiet of itself
    command = [sys.executable, "-c", code, model, name]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == ""
    assert list(tmp_path.iterdir()) == []


def test_the_runtime_loads_no_library_before_it_is_asked_to(name):
    code = "import sys, edgecrack.runtime; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "onnx", "tensorrt", "av", name} & set(done.stdout.split())


def test_ctrl_c_after_another_thread_let_go_of_a_model_is_an_interrupt(model, name):
    program = """
import signal, sys, threading
from edgecrack.runtime.backends import open_backend

for _ in range(8):
    held = [open_backend(*sys.argv[1:])]
    letting_go = threading.Thread(target=lambda: held.pop().close())
    letting_go.start()
    letting_go.join()
    kept = [bytearray(1 << 16) for _ in range(64)]  # where the memory of what was freed may be
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        continue
    sys.exit("no interrupt")
"""
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", program, model, name], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, (done.returncode, done.stderr)
