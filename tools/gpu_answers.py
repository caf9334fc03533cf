"""Comparison of predictions with ONNX Runtime's on the CPU, and predictions of ONNX Runtime and torch on the GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from gpu_page import expect
from numpy.typing import NDArray

from edgecrack.fitting import Fit, with_pixels
from edgecrack.rendering import DEMO_SEEDS, rendered_frame

Images = NDArray[np.uint8]
FRAMES = 8  # on which predictions are compared
# Minimum mask F1 against ONNX Runtime on the same graph in the same precision: another order of summation changes the
# last bits, which moves a pixel that is close to the threshold, or an INT8 level. Wrong code is far below.
SAME = 0.98


def compare(answer: Callable[[Images], Images], onnx: Path) -> str:
    """Compare `answer` with the graph in `onnx` on ONNX Runtime's CPU provider, over rendered frames."""
    from edgecrack.export.parity import parity
    from edgecrack.runtime.onnx_metadata import read_spec

    spec = read_spec(onnx)
    size = spec.input_frame
    images = [rendered_frame(seed, size.height, size.width)[0] for seed in DEMO_SEEDS[:FRAMES]]
    found = parity(answer, onnx, images, spec.threshold)
    text = (
        f"mask F1 {found.f1:.4f} against ONNX Runtime's CPU provider on {FRAMES} rendered frames, {found.within:.2%} of the "
        f"pixels within 1/255"
    )
    return expect(found.f1 >= SAME, text)


def onnxruntime_on_cuda(onnx: Path) -> Callable[[Images], Images]:
    import onnxruntime

    from edgecrack.onnx_session import INEXACT
    from edgecrack.runtime.onnx_metadata import read_spec

    provider, pixels = "CUDAExecutionProvider", read_spec(onnx).pixels
    providers = [(provider, {"use_tf32": "0"}), "CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(str(onnx), providers=providers, disabled_optimizers=INEXACT)
    expect(provider in session.get_providers(), "it falls back to the CPU: its CUDA libraries are not found")

    def answer(frames: Images) -> Images:
        given = np.stack([with_pixels(image, pixels) for image in frames])
        return np.asarray(session.run(["probability"], {"frames": given})[0], np.uint8)

    return answer


def torch_has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def torch_on_cuda(name: str) -> Callable[[Images], Images]:
    """The shipped net of this name in float32 on CUDA, from which its ONNX is exported."""
    import torch

    from edgecrack.export.graph import Deployable
    from edgecrack.models.checkpoint import load_checkpoint
    from edgecrack.weights import weights_path

    torch.backends.cudnn.allow_tf32 = False  # else convolutions have ten-bit mantissas
    net, spec = load_checkpoint(weights_path(name))
    model = Deployable(net, Fit.of(spec.frame.height, spec.frame.width, spec.frame)).eval().cuda()

    def answer(frames: Images) -> Images:
        with torch.inference_mode():
            return np.asarray(model(torch.from_numpy(frames).cuda()).cpu().numpy(), np.uint8)

    return answer
