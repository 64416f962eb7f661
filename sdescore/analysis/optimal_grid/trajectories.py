r"""How far a sampler's trajectories are from the probability flow, on a surrogate of the data.

Both start from the same noise. The flow is solved finely once, in :math:`z = x/\alpha` and
:math:`\lambda = \log(\alpha/\sigma)`, where :math:`dz/d\lambda = D(z) - z` with D the
denoiser, and read between its nodes by cubic Hermite interpolation. It goes on below
ϱ = σ/α at t_min to a tenth of that: what the last denoise should give is the data, not what is left
of them there. The sampler is its tableau, run with gradients.

A law can be right by accident, errors of one step undoing those of another; a trajectory hardly
can, and less so where it is looked at on its way as well.

A network errs by itself; the outputs may be given errors of that size
(:mod:`sdescore.analysis.model_error`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from sdescore.analysis.model_error import ModelError
from sdescore.analysis.optimal_grid.surrogate import Surrogate
from sdescore.predictors.adams import ExponentialAdams
from sdescore.score.convention import pair
from sdescore.sde.edm import EDMSDE
from sdescore.sde.linear import LinearSDE
from sdescore.tableau.ending import mean_ending
from sdescore.tableau.exponential import half_log_snr
from sdescore.tableau.tableau import Tableau

NODES, PLAIN, BEYOND = 400, 10.0, math.log(10.0)
ERRORS = 0x5C04E  # a seed that no flow is likely to start from: errors do not know the noise
Denoiser = Callable[[Tensor, Tensor], Tensor]
"""``(z (B, r), ϱ² ()) -> E[x₀ | z]``."""


class TrajectoryError(NamedTuple):
    """Means over trajectories and dimensions, ``()`` each.

    Attributes
    ----------
    plain : Tensor
        Of 10 e, e being the mean square of a sample's error over the data's mean variance, bounded
        by u ↦ u/(1 + u/2): a few trajectories that end in another mode should not decide, nor
        should a step that moves one of them across.
    weighted : Tensor
        Of w, bounded likewise, w being the mean square of a sample's error by the data's local
        precision: twice the nats a dimension that it costs where the density is Gaussian.
    path : Tensor
        Mean square of z's error on the way, over ϱ²; over the steps as well.
    """

    plain: Tensor
    weighted: Tensor
    path: Tensor


@dataclass(frozen=True, eq=False)
class Flow:
    """Trajectories of a surrogate from given noise.

    Attributes
    ----------
    surrogate : Surrogate
        Of the data.
    first, step : float
        λ of the first node, and between two.
    z, slope : Tensor
        ``(L, B, r)``, z and dz/dλ on the directions of the mixture, the first NODES steps down to
        t_min.
    x : Tensor
        ``(B, r)``, where they end.
    precision : Tensor
        ``(B, r, r)``, the data's local precision there.
    """

    surrogate: Surrogate
    first: float
    step: float
    z: Tensor
    slope: Tensor
    x: Tensor
    precision: Tensor

    @classmethod
    @torch.no_grad()
    def solve(cls, surrogate: Surrogate, first: float, last: float, count: int, seed: int) -> Flow:
        """``count`` trajectories from λ = ``first`` past ``last``, and where they end."""
        step = (last - first) / NODES
        nodes = torch.arange(NODES + 1 + math.ceil(BEYOND / step), dtype=torch.float64)
        rho = (-(first + step * nodes)).exp()
        generator = torch.Generator().manual_seed(seed)
        start = torch.randn(count, surrogate.rank, generator=generator, dtype=torch.float64)
        clock = EDMSDE(sigma_min=rho[-1].item(), sigma_max=rho[0].item())
        tableau = ExponentialAdams(points=3).tableau(clock, rho)
        ending = mean_ending(clock, rho[-1:])
        means: list[Tensor] = []

        def denoiser(z: Tensor, noise: Tensor) -> Tensor:
            means.append(surrogate.denoise(z, noise))
            return means[-1]

        *z, x = run(tableau, ending, clock, rho, denoiser, rho[0] * start)
        slope = torch.stack(means) - torch.stack(z)
        precision = surrogate.precision(x, rho[NODES].square().item())
        return cls(surrogate, first, step, torch.stack(z), slope, x, precision)

    def some(self, count: int) -> Flow:
        """The first ``count`` trajectories."""
        z, slope = self.z[:, :count], self.slope[:, :count]
        return replace(self, z=z, slope=slope, x=self.x[:count], precision=self.precision[:count])

    @property
    def last_variance(self) -> float:
        """ϱ² at t_min. Finer detail is beyond the SDE."""
        last = torch.tensor(self.first + NODES * self.step, dtype=torch.float64)
        return (-2 * last).exp().item()

    def at(self, lam: Tensor) -> Tensor:
        """z at λ ``()``, with its gradient: ``(B, r)``."""
        where = (lam - self.first) / self.step
        i = int(where.detach().floor().clamp(0, NODES - 1))
        u = where - i
        z0, z1 = self.z[i], self.z[i + 1]
        d0, d1 = self.slope[i] * self.step, self.slope[i + 1] * self.step
        early = (1 - u).square() * ((1 + 2 * u) * z0 + u * d0)
        late = u.square() * ((3 - 2 * u) * z1 - (1 - u) * d1)
        return early + late


def trajectory_error(
    tableau: Tableau,
    ending: Tableau,
    sde: LinearSDE,
    times: Tensor,
    flow: Flow,
    error: ModelError | None = None,
) -> TrajectoryError:
    """The error of a deterministic tableau on ``times`` and its last denoise, ``ending``.

    ``error`` is that of every evaluation's ε, each independent of the others.
    """
    lam = half_log_snr(sde, times)
    rho2 = (-2 * lam).exp()
    evaluations = tableau.b.shape[0] * tableau.b.shape[1] + 1

    def end_and_path(denoiser: Denoiser, errors: Iterator[Tensor], start: Tensor) -> list[Tensor]:
        if error:
            denoiser = erring(denoiser, error, errors)
        return run(tableau, ending, sde, times, denoiser, sde.marginal(times[0])[1] * start)

    surrogate, rest = flow.surrogate, flow.surrogate.rest
    plain = weighted = path = torch.zeros((), dtype=torch.float64)
    if surrogate.rank:
        start = flow.z[0] * lam[0].exp()
        *z, x = end_and_path(surrogate.denoise, normals(start.shape), start)
        end = x - flow.x
        plain = end.square().sum(1)
        weighted = torch.einsum("bi,bij,bj->b", end, flow.precision, end)
        there = torch.stack([flow.at(at) for at in lam])
        path = path_error((torch.stack(z) - there).square().sum(2).mean(1), rho2)
    if len(rest):
        # A Gaussian mode is linear. A trajectory from one standard deviation of noise stands for
        # all, and one from 0 for each evaluation's error: the squares add up.
        alone = torch.eye(1 + evaluations if error else 1, dtype=torch.float64)[..., None]
        *z, x = end_and_path(
            lambda y, noise: rest / (rest + noise) * y,
            iter(alone[1:]),
            alone[0].expand(-1, len(rest)),
        )
        scale = (rho2[0] / (rest + rho2[0])).sqrt()
        end = x - alone[0] * scale * rest.sqrt()  # the flow's own end, at ϱ = 0
        plain = plain + end.square().sum()
        weighted = weighted + (end.square() / (rest + flow.last_variance)).sum()
        there = scale * (rest + rho2[:, None]).sqrt()
        off = torch.stack(z) - alone[0] * there[:, None]
        path = path + path_error(off.square().sum((1, 2)), rho2)
    d = len(surrogate.spectrum)
    plain = PLAIN * plain / surrogate.spectrum.sum()
    return TrajectoryError(bounded(plain).mean(), bounded(weighted / d).mean(), path / d)


def erring(denoiser: Denoiser, error: ModelError, errors: Iterator[Tensor]) -> Denoiser:
    """A denoiser that is wrong in ε, in each call by the next of ``errors``."""
    return lambda z, noise: denoiser(z, noise) + noise.sqrt() * error(noise) * next(errors)


def normals(shape: torch.Size) -> Iterator[Tensor]:
    """Standard normals, the same ones every time."""
    generator = torch.Generator().manual_seed(ERRORS)
    while True:
        yield torch.randn(shape, generator=generator, dtype=torch.float64)


def bounded(u: Tensor) -> Tensor:
    """u where it is small, at most 2."""
    return u / (1 + u / 2)


def path_error(squares: Tensor, rho2: Tensor) -> Tensor:
    """Mean over the steps of squared errors of z ``(n,)`` over ϱ²; the start has none."""
    return (squares / rho2)[1:].mean()


def run(
    tableau: Tableau,
    ending: Tableau,
    sde: LinearSDE,
    times: Tensor,
    denoiser: Denoiser,
    x: Tensor,
) -> list[Tensor]:
    """``z`` at all ``times`` ``(n,)``, and the data at the end: n + 1 tensors. No noise."""
    alpha_t = sde.marginal(times)[0]
    states = [x / alpha_t[0]]
    outputs: list[Tensor] = []
    for part in (tableau, ending):
        at_alpha, at_sigma = sde.marginal(part.times)
        p, q = pair(part.output, at_alpha, at_sigma)
        steps, stages, width = part.b.shape
        for n in range(steps):
            y = x
            for j in range(stages):
                alpha, sigma = at_alpha[n, j], at_sigma[n, j]
                x0 = denoiser(y / alpha, (sigma / alpha).square())
                outputs.insert(0, p[n, j] * x0 + q[n, j] * (y - alpha * x0) / sigma)
                del outputs[width:]
                y = part.a[n, j] * x
                for weight, o in zip(part.b[n, j], outputs, strict=False):
                    y = y + weight * o
            x = y
            states.append(x if part is ending else x / alpha_t[n + 1])
    return states
