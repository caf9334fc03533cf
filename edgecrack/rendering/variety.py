"""What single roads have and real sets show too little of: close views, coarse stone, hair and wide cracks, litter, night."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

STREAM = 3  # of a seed's random numbers; its own: a road without anything special looks as if there were no such thing


@dataclass(frozen=True)
class Variety:
    """What is special about one road; by default nothing is."""

    close: bool = False  # seen from a hand's breadth to an arm's length, where the view is for the seed to choose
    coarser: float = 1.0  # how much larger the stones of asphalt are
    grooves: bool = False  # cut into concrete
    paving: float = 0.0  # side of small slabs in metres, 0 for none
    cracks: str = "usual"  # or "hair" or "wide"
    litter: float = 0.0  # straws, twigs, cables and chalk a block
    wet: float = 0.0  # 0 is dry, at 1 there is water over half of it
    drying: bool = False  # cracks are wet still, and the road beside them
    night: bool = False


def drawn_variety(seed: int) -> Variety:
    """What is special about the road of a seed; one in five has nothing."""
    rng = np.random.default_rng((seed, STREAM))
    chance = rng.random(9)
    weather = chance[6]
    return Variety(
        close=bool(chance[0] < 0.25),
        coarser=rng.uniform(1.5, 3.0) if chance[1] < 0.2 else 1.0,
        grooves=bool(chance[2] < 0.12),
        paving=rng.uniform(0.08, 0.4) if chance[3] < 0.06 else 0.0,
        cracks="hair" if chance[4] < 0.13 else "wide" if chance[4] < 0.26 else "usual",
        litter=float(rng.choice([0.5, 1.5, 4.0])) if chance[5] < 0.3 else 0.0,
        wet=rng.uniform(0.2, 1.0) if weather < 0.12 else 0.0,
        drying=bool(0.12 < weather < 0.18),
        night=bool(chance[7] < 0.1),
    )
