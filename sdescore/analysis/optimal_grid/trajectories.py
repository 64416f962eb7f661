r"""How far a sampler's trajectories are from the probability flow, on a surrogate of the data.

Both start from the same noise. The flow is solved finely once, in :math:`\bar x = x/\alpha` and
:math:`\lambda = \log(\alpha/\sigma)`, where :math:`d\bar x/d\lambda = D(\bar x) - \bar x` with D
the denoiser. Between its nodes it is interpolated by cubic Hermite polynomials. It goes on beyond
t_min, to a tenth of σ/α there, because the last denoise is compared with the data. The sampler is
its tableau, run with gradients, whose outputs may be given errors like those of a network
(:mod:`sdescore.analysis.model_error`).

The distribution of the output can be right by accident, where errors of one step undo those of
another. That hardly happens along a trajectory, and less so where its states are compared as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from sdescore.analysis.optimal_grid.surrogate import Surrogate
from sdescore.predictors.adams import ExponentialAdams
from sdescore.samplers.predictor_corrector.exact import ModelErrorStd
from sdescore.score.convention import pair
from sdescore.sde.edm import EDMSDE
from sdescore.sde.linear import LinearSDE
from sdescore.tableau.tableau import Tableau, mean_ending

NODES, PLAIN, BEYOND = 400, 10.0, math.log(10.0)
ERRORS = 0x5C04E  # a seed that hardly any flow has: the errors are independent of its noise
Denoiser = Callable[[Tensor, Tensor], Tensor]
"""``(x/α (B, r), σ²/α² ()) -> E[x₀ | x]``."""


class TrajectoryDistance(NamedTuple):
    """Means over trajectories and dimensions, ``()`` each, with β(u) = u/(1 + u/2).

    β keeps a few trajectories that end in another mode from deciding alone. Where the density is
    Gaussian, w is twice the likelihood lost, in nats a dimension.
    """

    plain: Tensor  # β(10 e), e the mean square error of a sample over the data's mean variance
    weighted: Tensor  # β(w), w the mean square error weighted by the data's local precision
    path: Tensor  # mean square error of x/α after each step, over σ²/α² and over the steps


@dataclass(frozen=True, eq=False)
class FlowTrajectories:
    """Trajectories of a surrogate's probability flow, from noise to data."""

    surrogate: Surrogate
    first: float  # λ of the first node; that of number NODES is at t_min
    step: float  # from node to node
    x_bar: Tensor  # (L, B, r), x/α in the directions of the mixture
    slope: Tensor  # (L, B, r), its derivative by λ
    x: Tensor  # (B, r), the data in which they end
    precision: Tensor  # (B, r, r), the data's local precision there

    @classmethod
    @torch.no_grad()
    def solve(
        cls, surrogate: Surrogate, first: float, last: float, count: int, seed: int
    ) -> FlowTrajectories:
        """``count`` trajectories from log(α/σ) ``first`` past ``last``, and their ends."""
        step = (last - first) / NODES
        most = NODES + 1 + math.ceil(BEYOND / step)
        nodes = torch.arange(most, dtype=torch.float64, device="cpu")
        noise_ratio = (-(first + step * nodes)).exp()
        # EDM's SDE has α = 1 and σ = t: its time is the noise-to-signal ratio of any other SDE.
        sde = EDMSDE(sigma_min=noise_ratio[-1].item(), sigma_max=noise_ratio[0].item())
        tableau = ExponentialAdams(points=3).tableau(sde, noise_ratio)
        ending = mean_ending(sde, noise_ratio[-1:])
        means: list[Tensor] = []

        def denoiser(x_bar: Tensor, noise: Tensor) -> Tensor:
            means.append(surrogate.denoise(x_bar, noise))
            return means[-1]

        start = noise_ratio[0] * next(standard_normals((count, surrogate.rank), seed))
        *states, x = run(tableau, ending, sde, noise_ratio, denoiser, start)
        x_bar = torch.stack(states)
        precision = surrogate.precision(x, noise_ratio[NODES].square().item())
        return cls(surrogate, first, step, x_bar, torch.stack(means) - x_bar, x, precision)

    def some(self, count: int) -> FlowTrajectories:
        """The first ``count`` trajectories."""
        x_bar, slope = self.x_bar[:, :count], self.slope[:, :count]
        x, precision = self.x[:count], self.precision[:count]
        return replace(self, x_bar=x_bar, slope=slope, x=x, precision=precision)

    def at(self, half_log_snr: Tensor) -> Tensor:
        """x/α where λ ``()`` is this, ``(B, r)``; gradients flow to λ."""
        node = (half_log_snr - self.first) / self.step
        i = int(node.detach().floor().clamp(0, NODES - 1))
        u = node - i
        x0, x1 = self.x_bar[i], self.x_bar[i + 1]
        d0, d1 = self.slope[i] * self.step, self.slope[i + 1] * self.step
        early = (1 - u).square() * ((1 + 2 * u) * x0 + u * d0)
        return early + u.square() * ((3 - 2 * u) * x1 - (1 - u) * d1)


def trajectory_error(
    tableau: Tableau,
    ending: Tableau,
    sde: LinearSDE,
    times: Tensor,
    flow: FlowTrajectories,
    error: ModelErrorStd | None = None,
) -> TrajectoryDistance:
    """The error of a deterministic tableau on ``times``, with ``ending`` as its last denoise.

    ``error`` is that of every evaluation's ε. All evaluations' errors are independent.
    """
    half_log_snrs = sde.half_log_snr(times)
    noise_variance = (-2 * half_log_snrs).exp()
    evaluations = tableau.times.numel() + 1

    def end_and_path(denoiser: Denoiser, errors: Iterator[Tensor], start: Tensor) -> list[Tensor]:
        def erring(y: Tensor, noise: Tensor) -> Tensor:
            x0 = denoiser(y, noise)
            return x0 + noise.sqrt() * error(noise) * next(errors) if error else x0

        return run(tableau, ending, sde, times, erring, sde.marginal(times[0])[1] * start)

    surrogate, rest = flow.surrogate, flow.surrogate.rest
    plain = weighted = path = torch.zeros((), dtype=torch.float64, device="cpu")
    if surrogate.rank:
        start = flow.x_bar[0] * half_log_snrs[0].exp()
        errors = standard_normals(start.shape, ERRORS)
        *states, x = end_and_path(surrogate.denoise, errors, start)
        end = x - flow.x
        plain = end.square().sum(1)
        weighted = torch.einsum("bi,bij,bj->b", end, flow.precision, end)
        exact = torch.stack([flow.at(at) for at in half_log_snrs])
        squares = (torch.stack(states) - exact).square().sum(2).mean(1)
        path = path_error(squares, noise_variance)
    if len(rest):
        # On a Gaussian mode all is linear. One trajectory starts from one standard deviation of
        # noise. Each other one has the error of one evaluation. Their squares add up.
        inputs = torch.eye(1 + evaluations if error else 1, dtype=torch.float64, device="cpu")
        inputs = inputs[..., None]
        start, errors = inputs[0].expand(-1, len(rest)), iter(inputs[1:])
        *states, x = end_and_path(lambda y, noise: rest / (rest + noise) * y, errors, start)
        scale = (noise_variance[0] / (rest + noise_variance[0])).sqrt()
        end = x - inputs[0] * scale * rest.sqrt()  # the flow's own end, at σ/α = 0
        plain = plain + end.square().sum()
        finest = math.exp(-2 * (flow.first + NODES * flow.step))  # σ²/α² at t_min
        weighted = weighted + (end.square() / (rest + finest)).sum()
        exact = scale * (rest + noise_variance[:, None]).sqrt()
        off = torch.stack(states) - inputs[0] * exact[:, None]
        path = path + path_error(off.square().sum((1, 2)), noise_variance)
    d = len(surrogate.spectrum)
    plain = PLAIN * plain / surrogate.spectrum.sum()
    return TrajectoryDistance(bounded(plain).mean(), bounded(weighted / d).mean(), path / d)


def standard_normals(shape: tuple[int, ...], seed: int) -> Iterator[Tensor]:
    """Tensors of standard normals, the same ones for one seed."""
    generator = torch.Generator("cpu").manual_seed(seed)
    while True:
        yield torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")


def bounded(u: Tensor) -> Tensor:
    """u where it is small, at most 2."""
    return u / (1 + u / 2)


def path_error(squares: Tensor, noise_variance: Tensor) -> Tensor:
    """Mean over the steps of squared errors of x/α ``(n,)`` over σ²/α²; the start has none."""
    return (squares / noise_variance)[1:].mean()


def run(
    tableau: Tableau,
    ending: Tableau,
    sde: LinearSDE,
    times: Tensor,
    denoiser: Denoiser,
    x: Tensor,
) -> list[Tensor]:
    """A sampler without noise: x/α at all ``times`` ``(n,)``, and the sample, n + 1 tensors."""
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
