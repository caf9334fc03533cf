"""From a torch net to INT8 ONNX, and a frame through it: python examples/int8_from_torch.py FRAMES [scnet]

FRAMES is a folder of your own images: the INT8 ranges are measured on them.
"""

from __future__ import annotations

import sys
from pathlib import Path

from edgecrack import CrackDetector
from edgecrack.calibration.frames import CalibrationFrames
from edgecrack.calibration.qdq import int8_from_onnx
from edgecrack.calibration.ranges import measure_ranges
from edgecrack.export.graph import onnx_from_model
from edgecrack.images import list_images, read_image
from edgecrack.models.checkpoint import load_checkpoint
from edgecrack.weights import weights_path


def main(folder: str, name: str = "scnet") -> None:
    net, spec = load_checkpoint(weights_path(name))  # a torch module and what it is; your own checkpoint works as well
    out = Path(f"{name}-int8")

    # uint8 frames in, uint8 probability out: colour order, normalisation and sigmoid are part of the graph
    fp32 = onnx_from_model(net, spec, out / f"{name}.onnx")

    # what the inputs of the convolutions reach on real frames decides the INT8 scales
    ranges = measure_ranges(fp32, CalibrationFrames.from_folder(folder, spec.frame))
    int8 = int8_from_onnx(fp32, ranges, out / f"{name}.int8-cpu.onnx", target="cpu")

    with CrackDetector(int8) as detector:
        for path in list_images(folder)[:3]:
            detection = detector.run(read_image(path))
            print(f"{path.name}: {detection.crack_share:.2%} crack, {detection.speed['inference']:.0f} ms")
            detection.save(out / f"{path.stem}.mask.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
