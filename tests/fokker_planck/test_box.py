"""The box of cells, and the densities in it."""

from __future__ import annotations

import torch

from sdescore.fokker_planck.box import Box
from tests.helpers.densities import (
    F64,
)


def test_the_boxs_geometry() -> None:
    box = Box(((0.0, 3.0), (-1.0, 1.0)), (3, 4))
    assert box.widths == (1.0, 0.5)
    assert box.volume == 0.5
    assert box.centres.shape == (3, 4, 2)
    assert box.centres[2, 1].tolist() == [2.5, -0.25]
    assert torch.equal(box.faces(0)[:5, 0], torch.tensor([1.0, 1, 1, 1, 2], dtype=F64))
    assert torch.equal(box.faces(1)[:4, 1], torch.tensor([-0.5, 0, 0.5, -0.5], dtype=F64))
    points = box.centres.flatten(0, -2)
    for axis in (0, 1):
        before, behind = box.sides(axis)
        step = points[behind] - points[before]
        assert torch.allclose((points[before] + points[behind]) / 2, box.faces(axis))
        assert torch.allclose(step[:, axis], torch.tensor(box.widths[axis], dtype=F64))
        assert not step[:, 1 - axis].any()
    assert box.outermost.tolist() == [[True] * 4, [True, False, False, True], [True] * 4]
