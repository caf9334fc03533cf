"""For the cases here, which run in a process of their own, with the fake driver; see tests/contract/test_cuda.py."""

from __future__ import annotations

import pytest
from fake_driver import FakeDriver, StandIn

from edgecrack.runtime.backends.cuda import open_cuda
from edgecrack.runtime.backends.tensorrt import SharedEngine, TensorRtBackend
from edgecrack.spec import FrameSpec, ModelSpec


@pytest.fixture(autouse=True)
def driver():
    """Whatever a case does, it leaves nothing behind, and every push has its pop."""
    opened = FakeDriver()
    opened.heal()
    yield opened
    opened.heal()
    assert opened.live() == {}
    assert opened.depth == opened.unbalanced == 0


@pytest.fixture
def cuda(driver):
    opened = open_cuda()
    yield opened
    opened.close()


@pytest.fixture
def open_stand_in(driver):
    """A function that opens a backend whose net is the stand-in; it closes them at the end."""
    opened = []

    def open_it(batch=1, height=48, width=64, context=StandIn, released=None, **options):
        spec = ModelSpec("scnet", frame=FrameSpec(height, width), batch=batch, threshold=0.4)
        release = (lambda: released.append("engine")) if released is not None else (lambda: None)
        engine = SharedEngine(spec, open_cuda(), lambda: context(driver, spec.input_shape), release)
        opened.append(TensorRtBackend(engine, **options))
        return opened[-1]

    yield open_it
    for backend in opened:
        backend.close()
