"""Roads with known cracks: something to run, to test and to train on where there is no data."""

from edgecrack.rendering.road import DEMO_SEEDS, RenderedRoad, rendered_frame

__all__ = ["DEMO_SEEDS", "RenderedRoad", "rendered_frame"]
