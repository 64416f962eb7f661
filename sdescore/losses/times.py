r"""The law of the training times.

``stratified=True`` spreads the n times of a batch evenly, :math:`u_i = (u + i/n) \bmod 1` with
one uniform ``u`` for all (Kingma et al. 2021, arXiv:2107.00630, appendix I.1). Each time keeps
its law exactly, so the loss stays unbiased; times of one batch are no longer independent, and
the mean over the batch varies less.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sdescore.errors import IncompatibleError
from sdescore.sde.linear import LinearSDE

__all__ = ["LevelTimes", "TimeDistribution", "UniformTimes", "default_times"]


class TimeDistribution(Protocol):
    """Anything that draws training times."""

    def sample(
        self,
        sde: LinearSDE,
        n: int,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """``(n,)`` float64 times on ``device``, in (0, T]."""


def uniform(
    n: int, stratified: bool, generator: torch.Generator | None, device: torch.device | str
) -> Tensor:
    """``(n,)`` float64, each uniform on [0, 1); drawn where the generator lives, then moved."""
    source = torch.device(device) if generator is None else generator.device
    count = 1 if stratified else n
    u = torch.rand(count, generator=generator, device=source, dtype=torch.float64).to(device)
    if not stratified:
        return u
    # frac may round up to 1 in the last bit of the sum.
    spread = (u + torch.arange(n, dtype=torch.float64, device=device) / n).frac()
    return spread.clamp(max=1 - torch.finfo(torch.float64).eps)


@dataclass(frozen=True)
class UniformTimes:
    """Uniform on ``[sde.t_min, sde.T]`` (Song et al. 2021, arXiv:2011.13456, eq. 7).

    Parameters
    ----------
    stratified : bool
        Spread the times of a batch evenly.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> t = ss.UniformTimes().sample(ss.VPSDE(), 1000, torch.Generator().manual_seed(0))
    >>> bool((t >= 1e-3).all() and (t <= 1).all())
    True
    """

    stratified: bool = False

    def sample(
        self,
        sde: LinearSDE,
        n: int,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """``(n,)`` float64 on ``device``."""
        u = uniform(n, self.stratified, generator, device)
        return sde.t_min + (sde.T - sde.t_min) * u


@dataclass(frozen=True)
class LevelTimes:
    """Uniform over the levels of a discrete SDE, at their exact times.

    NCSN's mean over its ladder (Song & Ermon 2019, eq. 6), DDPM's uniform t (Ho et al. 2020,
    eq. 14).

    Parameters
    ----------
    stratified : bool
        Spread the levels of a batch evenly.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sde = ss.DiscreteVPSDE.linear()
    >>> t = ss.LevelTimes().sample(sde, 4, torch.Generator().manual_seed(0))
    >>> bool((sde.level(t) == sde.level(t).round()).all())
    True
    """

    stratified: bool = False

    def sample(
        self,
        sde: LinearSDE,
        n: int,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """``(n,)`` float64 on ``device``.

        Raises
        ------
        IncompatibleError
            The SDE has no levels.
        """
        if not has_levels(sde):
            raise IncompatibleError(
                f"expected a discrete SDE for LevelTimes, got {type(sde).__name__}; use "
                "DiscreteVPSDE or DiscreteVESDE, or UniformTimes()"
            )
        levels: Tensor = sde.level_times().to(device)  # type: ignore[attr-defined]
        u = uniform(n, self.stratified, generator, device)
        return levels[(u * len(levels)).long()]


def has_levels(sde: LinearSDE) -> bool:
    """Whether the SDE is a chain with levels of its own."""
    return callable(getattr(sde, "level_times", None))


def default_times(sde: LinearSDE) -> TimeDistribution:
    """The levels of an SDE that has levels, else uniform times."""
    return LevelTimes() if has_levels(sde) else UniformTimes()
