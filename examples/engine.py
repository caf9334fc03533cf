"""The cracks in a video, on an NVIDIA GPU: python examples/engine.py scnet.int8.engine drive.mp4"""

import sys

from edgecrack import CrackDetector

engine, video = sys.argv[1:]
with CrackDetector(engine) as detector:
    for frame, detection in detector.stream(video):
        print(f"frame {frame.index}: {detection.crack_share:.2%} crack, {detection.speed['inference']:.1f} ms")
