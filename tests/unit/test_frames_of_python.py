"""Frames that Python code yields, as a source."""

import numpy as np
import pytest
from drawings import grey

from edgecrack.errors import FrameError
from edgecrack.runtime import Frame, SourceOptions, open_source


@pytest.mark.parametrize("make", [list, tuple, iter, np.stack, lambda images: (image for image in images)])
def test_anything_that_yields_frames_is_a_source(make):
    images = [grey(1), grey(2)]
    with open_source(make(images)) as source:
        assert [(frame.index, frame.image[0, 0, 0], frame.captured_at) for frame in source] == [
            (0, 1, None),
            (1, 2, None),
        ]
    assert source.rate is None


def test_a_list_knows_its_length_and_a_generator_does_not():
    assert open_source([grey(1)] * 3).count == 3
    assert open_source(image for image in [grey(1)]).count is None


def test_frames_keep_the_time_they_come_with():
    frame = Frame(grey(1), 40, 12.5, "camera 2")
    assert list(open_source([frame])) == [frame]


def test_one_array_is_no_source():
    with pytest.raises(FrameError, match=r"put it in a list: \[frame\]"):
        open_source(grey(1))


def test_every_nth_of_frames_in_python():
    source = open_source([grey(n) for n in range(7)], SourceOptions(every=3))
    assert source.count == 3
    assert [(frame.index, frame.image[0, 0, 0]) for frame in source] == [(0, 0), (3, 3), (6, 6)]
