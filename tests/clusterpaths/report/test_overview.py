from __future__ import annotations

import numpy as np
import pytest

from clusterpaths.report.overview import HEIGHT, lay_out


def test_bars_fill_the_height_and_bands_end_at_blocks():
    sizes = [np.array([3, 0, 1]), np.array([4])]
    drawn = lay_out(sizes, [np.array([[3], [0], [1]])])
    assert [(s.layer, s.cluster) for s in drawn.segments] == [(0, 0), (0, 2), (1, 0)]
    assert drawn.segments[1].y + drawn.segments[1].height == pytest.approx(HEIGHT)
    assert drawn.segments[2].height == pytest.approx(HEIGHT)
    assert [(r.source, r.count) for r in drawn.ribbons] == [(0, 3), (2, 1)]
    assert drawn.hidden == 0
