"""Synthetic roads with known cracks, for running, testing and training without data."""

from edgecrack.rendering.road import DEMO_SEEDS, RenderedRoad, rendered_frame

__all__ = ["DEMO_SEEDS", "RenderedRoad", "rendered_frame"]
