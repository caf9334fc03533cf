"""Engine files on the fake driver, with a stand-in for TensorRT: what is made, in which order it is freed, what is kept."""

import dataclasses
import hashlib
import sys
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
from fake_driver import StandIn

from edgecrack.engine_file import EngineRecord, record_path
from edgecrack.errors import EngineError, EngineMismatch, SpecError
from edgecrack.runtime import CrackDetector, open_engine
from edgecrack.runtime.backends import engine as loading
from edgecrack.spec import FrameSpec, ModelSpec
from edgecrack.tensorrt_library import FLAVOURS

SPEC = ModelSpec("scnet", frame=FrameSpec(48, 64), threshold=0.4)
RECORD = EngineRecord(
    spec=SPEC,
    flavour="tensorrt",
    version="10.3.0",
    cuda="13.2",
    gpu="Fake GPU 0",
    compute_capabilities=("8.7",),
    plan_sha256=hashlib.sha256(b"plan").hexdigest(),
    onnx="net.onnx",
    onnx_sha256="0" * 64,
    multiprocessors=8,
)
KERNELS = b"kernels that were compiled"


class Cache:
    """Of TensorRT for RTX: what was compiled."""

    def __init__(self):
        self.content = b""

    def deserialize(self, stored):
        self.content = stored if stored == KERNELS else b""
        return stored == KERNELS

    def serialize(self):
        return self.content or b"compiled anew"


class Configuration:
    cache = None

    def create_runtime_cache(self):
        return Cache()

    def set_runtime_cache(self, cache):
        self.cache = cache
        return True


class TensorRt:
    """In the place of the module; `events` tells what was freed when."""

    __version__ = "10.3.0"

    def __init__(self, driver, spec):
        self.driver, self.spec, self.events, self.configurations = driver, spec, [], []
        self.late = []  # what was freed when its GPU was not current
        self.ends = {"frames": spec.input_shape, "probability": spec.input_shape[:3]}
        self.contexts, self.plan = 10, b"plan"

    def watched(self, what, name):
        weakref.finalize(what, self.freed, name)
        return what

    def freed(self, name):
        self.events.append(name)
        if not self.driver.depth:
            self.late.append(name)

    def Runtime(self, logger):  # noqa: N802 - as TensorRT writes it
        assert self.driver.depth == 1
        runtime = Watchable(deserialize_cuda_engine=lambda plan: self.engine() if plan == self.plan else None)
        return self.watched(runtime, "runtime")

    def engine(self):
        names = list(self.ends)
        engine = Watchable(
            num_io_tensors=len(names),
            get_tensor_name=names.__getitem__,
            get_tensor_dtype=lambda name: SimpleNamespace(name="UINT8"),
            get_tensor_shape=self.ends.__getitem__,
            create_execution_context=self.context,
            create_runtime_config=Configuration,
        )
        return self.watched(engine, "engine")

    def context(self, *configuration):
        assert self.driver.depth == 1
        self.configurations += configuration
        self.contexts -= 1
        return self.watched(StandIn(self.driver, self.spec.input_shape), "context") if self.contexts >= 0 else None


class Watchable(SimpleNamespace):
    """One that can be watched."""


@pytest.fixture
def tensorrt(driver, monkeypatch):
    module = TensorRt(driver, SPEC)
    monkeypatch.setattr(loading, "load_tensorrt", lambda flavour: module)
    monkeypatch.setattr(loading, "tensorrt_logger", lambda module: None)
    yield module
    assert module.late == []


@pytest.fixture
def write_engine(tmp_path):
    def write(plan=b"plan", **changes):
        path = tmp_path / "net.engine"
        path.write_bytes(plan)
        record = dataclasses.replace(RECORD, plan_sha256=hashlib.sha256(plan).hexdigest(), **changes)
        record_path(path).write_text(record.to_json())
        return path

    return write


def noise(seed):
    return np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8)


def test_an_engine_is_run_and_freed_from_the_contexts_to_the_gpu(tensorrt, write_engine, driver):
    with CrackDetector(write_engine()) as detector, detector.clone() as clone:
        assert detector.backend.name == "tensorrt"
        for each in (detector, clone):
            np.testing.assert_array_equal(each.run(noise(1)).probability, noise(1).sum(2, dtype=int) // 3)
        assert driver.live()["contexts"] == 1
    assert tensorrt.events == ["context"] * 4 + ["engine", "runtime"]
    assert driver.live() == {}
    assert tensorrt.configurations == []  # an engine of TensorRT itself needs none
    assert not {"torch", "onnx", "tensorrt_rtx", "openvino", "onnxruntime"} & set(sys.modules)


def test_how_it_runs_is_the_callers_choice(tensorrt, write_engine, monkeypatch):
    path = write_engine()
    for zero_copy in ("0", "1"):
        monkeypatch.setenv("EDGECRACK_ZERO_COPY", zero_copy)
        with CrackDetector(open_engine(path)) as detector:
            assert detector.backend.zero_copy is (zero_copy == "1")
    monkeypatch.setenv("EDGECRACK_ZERO_COPY", "yes")
    with pytest.raises(SpecError, match="EDGECRACK_ZERO_COPY is 0 or 1, got 'yes'"):
        open_engine(path)
    with CrackDetector(open_engine(path, graphs=False, zero_copy=False)) as detector:
        assert not detector.backend.captured
        assert not detector.backend.zero_copy


@pytest.mark.parametrize(
    ("changes", "settings", "reason"),
    [
        ({}, {"FAKE_CUDA_CAPABILITY": "11.0"}, r"capability 8\.7 \(Fake GPU 0\), this GPU has 11\.0 \(Fake"),
        ({"gpu": "Orin"}, {}, "built on another GPU, Orin, this one is Fake GPU 0"),
        ({}, {"FAKE_CUDA_MULTIPROCESSORS": "16"}, "on a GPU of 8 multiprocessors, this one has 16"),
        ({}, {"FAKE_CUDA_VERSION": "12060"}, r"a driver of CUDA 13\.2, this one speaks CUDA 12\.6"),
        ({"version": "10.7.0"}, {}, r"built by TensorRT 10\.7\.0, here is 10\.3\.0"),
        ({"flavour": "tensorrt_dla"}, {}, "built by 'tensorrt_dla', which this version of edgecrack does not know"),
    ],
    ids=["capability", "GPU", "multiprocessors", "CUDA", "TensorRT", "flavour"],
)
def test_an_engine_of_another_machine_is_refused_with_the_command_that_builds_it(
    tensorrt, write_engine, monkeypatch, changes, settings, reason
):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    path = write_engine(**changes)
    with pytest.raises(EngineMismatch, match=reason) as caught:
        CrackDetector(path)
    assert str(caught.value).endswith(f"; build it again: edgecrack build {path.with_suffix('.onnx')} -o {path}")
    assert tensorrt.events == []


def test_one_for_named_gpus_is_to_be_built_for_this_one_too(tensorrt, write_engine, monkeypatch):
    monkeypatch.setenv("FAKE_CUDA_CAPABILITY", "8.9")
    with pytest.raises(EngineMismatch, match=r" --for sm86,sm120,sm89$"):
        CrackDetector(write_engine(flavour="tensorrt_rtx", compute_capabilities=("8.6", "12.0"), cuda="", gpu=""))


@pytest.mark.parametrize(
    "changes", [{"flavour": "tensorrt_rtx", "gpu": "RTX 3060", "multiprocessors": 28}, {"multiprocessors": 0}]
)
def test_another_gpu_of_its_capability_will_do_for_rtx_and_where_no_multiprocessors_are_recorded(
    tensorrt, write_engine, changes
):
    CrackDetector(write_engine(**changes)).close()


@pytest.mark.parametrize("cuda", ["", "13.0"])
def test_another_release_of_the_same_cuda_will_do(tensorrt, write_engine, cuda):
    CrackDetector(write_engine(cuda=cuda)).close()


@pytest.mark.parametrize("stored", [None, b"", b"junk", KERNELS])
def test_what_was_compiled_is_kept_beside_the_engine(tensorrt, write_engine, stored):
    path = write_engine(flavour="tensorrt_rtx", cuda="")
    cache = path.with_name("net.engine.cache")
    if stored is not None:
        cache.write_bytes(stored)
    detector = CrackDetector(path)
    taken = tensorrt.configurations[0].cache.content
    assert taken == (KERNELS if stored == KERNELS else b"")
    detector.close()
    assert cache.read_bytes() == (KERNELS if stored == KERNELS else b"compiled anew")
    assert sorted(each.name for each in path.parent.iterdir()) == ["net.engine", "net.engine.cache", "net.engine.json"]


def test_a_place_that_cannot_be_written_to_costs_only_the_cache(tensorrt, write_engine):
    path = write_engine(flavour="tensorrt_rtx")
    path.with_name("net.engine.cache").mkdir()
    CrackDetector(path).close()
    assert tensorrt.events[-2:] == ["engine", "runtime"]


def test_what_was_compiled_and_cannot_be_told_costs_only_the_cache(tensorrt, write_engine, driver, monkeypatch):
    monkeypatch.setattr(Cache, "serialize", lambda self: None)
    path = write_engine(flavour="tensorrt_rtx")
    CrackDetector(path).close()
    assert not path.with_name("net.engine.cache").exists()
    assert tensorrt.events[-2:] == ["engine", "runtime"]


def test_an_error_while_the_engine_is_let_go_leaves_nothing_of_it(tensorrt, write_engine, driver, monkeypatch):
    monkeypatch.setattr(Cache, "serialize", lambda self: 1 // 0)
    detector = CrackDetector(write_engine(flavour="tensorrt_rtx"))
    with pytest.raises(ZeroDivisionError):
        detector.close()
    assert tensorrt.events[-2:] == ["engine", "runtime"]
    assert driver.live() == {}


def test_a_tensorrt_without_a_runtime_configuration_runs_too(tensorrt, write_engine, monkeypatch):
    made = TensorRt.engine

    def engine(self):
        engine = made(self)
        del engine.create_runtime_config
        return engine

    monkeypatch.setattr(TensorRt, "engine", engine)
    with CrackDetector(write_engine(flavour="tensorrt_rtx")) as detector:
        detector.run(noise(1))
    assert tensorrt.configurations == []


def test_a_plan_that_tensorrt_does_not_take_is_one_line(tensorrt, write_engine, driver):
    with pytest.raises(EngineError, match=r"^TensorRT 10\.3\.0 cannot load [^\n]*net\.engine$"):
        CrackDetector(write_engine(b"another plan"))
    assert driver.live() == {}


def test_a_plan_that_is_not_what_its_record_says_is_refused(tensorrt, write_engine, driver):
    tensorrt.ends["frames"] = (1, 64, 48, 3)
    with pytest.raises(EngineError, match=r"its graph is not what its spec says: .*48, 64.*64, 48"):
        CrackDetector(write_engine())
    assert driver.live() == {}
    assert tensorrt.events == ["engine", "runtime"]


@pytest.mark.parametrize("contexts", [0, 1])
def test_too_little_memory_for_a_context_is_one_line_and_leaves_nothing(tensorrt, write_engine, driver, contexts):
    tensorrt.contexts = contexts
    with pytest.raises(EngineError, match=r"cannot make an execution context, most often for too little GPU memory$"):
        CrackDetector(write_engine())
    assert driver.live() == {}
    assert tensorrt.events[-2:] == ["engine", "runtime"]


def test_a_clone_that_does_not_fit_leaves_the_first_alone(tensorrt, write_engine):
    tensorrt.contexts = 3
    with CrackDetector(write_engine()) as detector:
        with pytest.raises(EngineError, match="too little GPU memory"):
            detector.clone()
        detector.run(noise(1))


def test_every_flavour_has_a_name():
    assert RECORD.flavour in FLAVOURS
