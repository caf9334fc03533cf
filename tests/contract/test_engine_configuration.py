"""What the builder of engines is told, and what it tells when it cannot begin."""

from types import SimpleNamespace

import pytest

from edgecrack import tensorrt_library as loading
from edgecrack.cuda_probe import Gpu
from edgecrack.errors import BuildError
from edgecrack.export import engine

rtx = pytest.importorskip("tensorrt_rtx")


class _Config:
    """Stands in for the builder's configuration where it decides on a timing cache."""

    def __init__(self, takes):
        self.takes, self.set = takes, []

    def create_timing_cache(self, stored):
        return None if stored == b"junk" else stored

    def set_timing_cache(self, cache, ignore_mismatch):
        self.set.append((cache, ignore_mismatch))
        return cache in self.takes


@pytest.mark.parametrize(
    ("stored", "used"), [(b"", b""), (b"of this GPU", b"of this GPU"), (b"of another GPU", b""), (b"junk", b"")]
)
def test_a_timing_cache_of_another_gpu_or_junk_is_ignored_with_a_word(stored, used, caplog):
    config = _Config(takes=(b"", b"of this GPU"))
    assert engine._timing_cache(config, stored) == used
    assert config.set[-1] == (used, False)
    assert ("the timing cache is ignored" in caplog.text) == (stored != used)


def test_measurements_that_tensorrt_cannot_tell_are_none():
    assert engine._measurements(SimpleNamespace(serialize=lambda: None)) == b""
    assert engine._measurements(None) == b""


@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")  # it measures nothing
def test_the_real_configuration_takes_a_timing_cache():
    builder = rtx.Builder(engine.tensorrt_logger(rtx))
    config = builder.create_builder_config()
    cache = engine._timing_cache(config, b"")
    again = engine._timing_cache(config, bytes(memoryview(cache.serialize())))
    assert bytes(memoryview(again.serialize()))


def test_engines_for_rtx_are_built_so_that_graphs_can_be_captured():
    config = rtx.Builder(engine.tensorrt_logger(rtx)).create_builder_config()
    target = engine._Target("tensorrt_rtx", rtx.__version__, ("SM86", "SM89"), None, 1024, None)
    engine._choose_capabilities(rtx, config, target)
    assert config.get_flag(rtx.BuilderFlag.REQUIRE_USER_ALLOCATION)
    assert config.num_compute_capabilities == 2


def test_a_driver_that_is_too_old_for_tensorrt_is_told():
    """TensorRT only warns of it, and its bindings raise a TypeError without a reason."""
    loading.clear_errors()
    gpu = Gpu(0, "GPU", "8.6", "12.4", False, 8)

    def builder():
        logger = engine.tensorrt_logger(rtx)
        logger.log(rtx.ILogger.Severity.WARNING, "CUDA initialization failure with error: 35")
        raise TypeError("factory function returned nullptr")

    wanted = "nullptr; the driver speaks CUDA 12.4, .* or install tensorrt-cu12: CUDA initialization failure"
    with pytest.raises(BuildError, match=wanted):
        engine._made(engine._Target("tensorrt", "11.0", (), gpu, 1024, None), builder)
    loading.clear_errors()
