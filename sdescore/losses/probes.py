r"""Random directions v with :math:`E[v v^\top] = I`, along which an objective is taken."""

from __future__ import annotations

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import ShapeError
from sdescore.losses.matching import usable
from sdescore.score.divergence import PROBE_DISTRIBUTIONS, probes_from_normal


def check_probes(probes: int | Tensor, kind: str, x: Tensor) -> None:
    """Refuse what is neither a number of probes of a known kind nor probes ``(K, B, *E)``.

    Raises
    ------
    ParameterError
        No positive integer.
    ShapeError
        A tensor of another shape, or without probes.
    IncompatibleError
        An unknown kind.
    """
    checks.choice("probe_distribution", kind, PROBE_DISTRIBUTIONS)
    if not isinstance(probes, Tensor):
        checks.count("probes", probes)
        return
    checks.state(probes, "probes")
    checks.that(
        probes.shape[1:] == x.shape and len(probes) > 0,
        f"probes of shape (K, B, *E) = (K, {', '.join(map(str, x.shape))}), K >= 1",
        tuple(probes.shape),
        ShapeError,
    )


def draw_probes(
    probes: int | Tensor, kind: str, x: Tensor, generator: torch.Generator | None
) -> Tensor:
    """``(K, B, *E)`` probes like ``x``: those passed, or K random ones of the kind."""
    if isinstance(probes, Tensor):
        return usable(probes).to(x)
    # Made where the generator lives, so that a seed means the same probes on every device.
    device = x.device if generator is None else generator.device
    dtype = torch.promote_types(x.dtype, torch.float32)
    normal = torch.randn((probes, *x.shape), generator=generator, device=device, dtype=dtype)
    return probes_from_normal(kind, normal.to(x))
