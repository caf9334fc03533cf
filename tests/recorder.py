"""A backend whose answers tell which pixels it was given; found through `pythonpath`."""

from collections import deque

from edgecrack.errors import EngineError
from edgecrack.spec import FrameSpec, ModelSpec

NET = FrameSpec(48, 64)


class Recorder:
    """A backend that answers with the blue channel and counts its calls in flight."""

    name = "recorder"

    def __init__(self, batch=1, depth=2, pixels="bgr"):
        self.spec = ModelSpec("scnet", frame=NET, batch=batch, pixels=pixels)
        self.depth = depth
        self.calls, self.waiting, self.most = [], deque(), 0

    def submit(self, frames):
        assert frames.shape == self.spec.input_shape
        assert frames.flags.c_contiguous
        self.calls.append(frames)
        self.waiting.append(frames[..., 0].copy())
        self.most = max(self.most, len(self.waiting))
        assert self.most <= self.depth

    def collect(self):
        if not self.waiting:
            raise EngineError("nothing is in flight")
        return self.waiting.popleft()

    def clone(self):
        return Recorder(self.spec.batch, self.depth, self.spec.pixels)

    def close(self):
        pass
