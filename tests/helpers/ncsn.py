"""Small networks of NCSN and NCSNv2, each with the size of its images."""

from __future__ import annotations

from collections.abc import Callable

from sdescore.nets import NCSN, NCSNv2

SIGMAS = (2.0, 1.0, 0.25, 0.125)
NETS: dict[str, tuple[Callable[[], NCSNv2 | NCSN], int]] = {
    "NCSNv2": (lambda: NCSNv2(2, SIGMAS, 4), 12),
    "NCSNv2Deeper": (lambda: NCSNv2(2, SIGMAS, 4, 5, nonlinearity="swish"), 16),
    "NCSNv2Deepest": (lambda: NCSNv2(2, SIGMAS, 4, 6, rescaled=True), 16),
    "NCSN": (lambda: NCSN(2, 4, 4), 12),
    "NCSNdeeper": (lambda: NCSN(2, 4, 4, depth=5), 16),
    "CondRefineNetDeeperDilated": (
        lambda: NCSN(2, 4, 4, depth=5, normalization="InstanceNorm"),
        16,
    ),
}
