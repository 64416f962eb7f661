"""A slice of everything, computed from inputs whose dtype and device are named.

``python tests/helpers/world.py`` prints one digest a task, so that two processes can be compared.
"""

from __future__ import annotations

import copy
import hashlib
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import sdescore as ss

CPU = torch.device("cpu")
F32 = {"dtype": torch.float32, "device": CPU}
F64 = {"dtype": torch.float64, "device": CPU}
VP = ss.VPSDE()
SDES = (
    VP,
    ss.VESDE(),
    ss.SubVPSDE(),
    ss.CosineVPSDE(),
    ss.EDMSDE(),
    ss.RectifiedFlowSDE(),
    ss.DiscreteVPSDE.linear(20),
    ss.LinearSDE.from_marginal(lambda t: torch.exp(-t), lambda t: torch.sqrt(-torch.expm1(-2 * t))),
)
MEAN = torch.tensor([1.0, -2.0], **F32)
GAUSSIAN = ss.GaussianScore(MEAN, 0.25, VP)
MIXTURE = ss.MixtureScore(
    torch.tensor([0.25, 0.75], **F64),
    torch.tensor([[1.0, 0.0], [-1.0, 2.0]], **F64),
    torch.tensor([[[0.3, 0.1], [0.1, 0.2]], [[0.1, 0.0], [0.0, 0.4]]], **F64),
    VP,
)
CLOUD = ss.EmpiricalScore(torch.linspace(-1, 1, 24, **F32).reshape(12, 2), VP)
# Made before any test changes the world: a network's own weights follow torch's defaults.
torch.manual_seed(0)
NET = ss.MLP(2, hidden=8, depth=1)
X = torch.linspace(-1.5, 1.5, 12, **F32).reshape(6, 2)


class Elementwise(nn.Module):
    """A network without a matrix, which autocast leaves alone."""

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return torch.tanh(x) * c[:, None]


MODEL = ss.ScoreModel(Elementwise(), VP, prediction="epsilon")


def generator() -> torch.Generator:
    return torch.Generator(CPU).manual_seed(3)


def kernels() -> list[Tensor]:
    found: list[Tensor] = []
    for sde in SDES:
        t = torch.linspace(0.1, 0.9, 5, **F64) * sde.T
        found += [*sde.marginal(t), *sde.rates(t), sde.log_snr(t), *sde.marginal(0.4 * sde.T)]
        found.append(sde.time_at_log_snr(sde.log_snr(t)))
        found.append(sde.perturb(X, 0.5 * sde.T, torch.sin(X)))
        found.append(sde.prior_sample((3, 2), seed=1))
    return found


def grids() -> list[Tensor]:
    kinds = (ss.UniformGrid(), ss.QuadraticGrid(), ss.LogSNRGrid(), ss.KarrasGrid())
    return [g.times(sde, 7) for g in (*kinds, ss.CosineGrid()) for sde in SDES]


def noise() -> list[Tensor]:
    path = ss.noise.BrownianPath(4, range(3), (2,), 1.0)
    numbers = ss.noise.standard_normal(5, range(4), range(6), (3,))
    return [numbers, path.value(0.3), path.value(1 / 3)]


def scores() -> list[Tensor]:
    found: list[Tensor] = []
    for exact in (GAUSSIAN, MIXTURE, CLOUD):
        found += [exact(X, 0.3), exact.denoise(X, 0.3), exact.log_prob(X, 0.3)]
        found.append(exact.sample(5, seed=2))
    alpha, sigma = VP.marginal(0.3)
    found.append(ss.tweedie_covariance(lambda x: MIXTURE(x, 0.3), X.double(), alpha, sigma))
    found.append(ss.convert(X, X.sin(), alpha, sigma, from_="epsilon", to="v"))
    return found


def samplers() -> list[Tensor]:
    parts = (
        {},
        {"predictor": ss.Ancestral(), "corrector": ss.Langevin(snr=0.1)},
        {"predictor": ss.Heun(), "grid": ss.KarrasGrid()},
        {"predictor": ss.ExponentialAdams(points=2), "grid": ss.LogSNRGrid()},
        {"predictor": ss.ExponentialRungeKutta(stages=2, eta=1.0, output="epsilon")},
        {
            "predictor": ss.ReverseDiffusion(),
            "corrector": ss.AnnealedLangevin(epsilon=1e-3, steps=2),
        },
    )
    found = [
        ss.PredictorCorrector(VP, steps=20, **part).sample(score, (5, 2), seed=1)
        for part in parts
        for score in (GAUSSIAN, MIXTURE, MODEL)
    ]
    adaptive = ss.AdaptiveSampler(VP)
    found.append(adaptive.sample(MIXTURE, (4, 2), seed=1))
    return [x if isinstance(x, Tensor) else x.x for x in found]


def flows() -> list[Tensor]:
    flow = ss.ProbabilityFlow(VP)
    # Under autocast derivatives are taken one at a time, which rounds otherwise.
    result = flow.log_likelihood(MIXTURE, X, chunk_size=1)
    return [flow.sample(MIXTURE, (3, 2), seed=1), flow.encode(MODEL, X), result.log_prob]


def likelihoods() -> list[Tensor]:
    flow = ss.ProbabilityFlow(VP, method="rk4", steps=4)
    errors = ss.samplers.likelihood_errors(flow, MIXTURE, X, data=X.sin())
    wide = ss.GaussianScore(torch.zeros(5, **F32), torch.linspace(0.1, 2.0, 5, **F32), VP)
    x = torch.linspace(-1.0, 1.0, 15, **F32).reshape(3, 5)
    plus = flow.log_likelihood(wide, x, divergence="hutch++", probes=3)
    bits = ss.bits_per_dimension(MIXTURE, X.round(), levels=5, data_range=(-2, 2), flow=flow)
    bound = ss.samplers.sde_bound(MIXTURE, X, times=3)
    found = [errors.solver, errors.prior, errors.stopping, plus.log_prob, bits.bits]
    *_, last = ss.samplers.flow_states(flow, MIXTURE, (3, 2), times=2, chunk_size=1)
    return [*found, bound.log_prob, bound.standard_error, last.log_prob]


def chains() -> list[Tensor]:
    t = torch.linspace(0.0, 1.0, 9, **F64)
    run = ss.langevin.chains(lambda x: -(x**3), X, 0.05, 20, seed=2)
    return [ss.simulate(VP, X, times=t, seed=3), run.x]


def losses() -> list[Tensor]:
    t = torch.linspace(0.1, 0.9, 6, **F64)
    loss = ss.denoising_loss(MODEL, X, t=t, generator=generator())
    drawn = ss.denoising_loss(MODEL, X, generator=generator())
    return [loss.per_sample.detach(), drawn.per_sample.detach()]


def analysis() -> list[Tensor]:
    sampler = ss.PredictorCorrector(VP, predictor=ss.DDIM(), steps=9)
    error = ss.analysis.gaussian_error(sampler, torch.tensor([0.1, 1.0], **F64))
    data = torch.sin(torch.arange(60, **F32)).reshape(30, 2)
    found = ss.optimal_grid(VP, ss.DDIM(), 4, data=data)
    return [
        error.variance,
        torch.tensor(found.values, **F64),
        torch.tensor(ss.metrics.sliced_wasserstein(X, X.sin()), **F64),
    ]


def training() -> list[Tensor]:
    """A network's arithmetic: the same in every world but autocast's."""
    data = torch.sin(torch.arange(60, **F32)).reshape(30, 2)
    with torch.inference_mode(False):  # a copy made within could not be trained
        model = ss.ScoreModel(copy.deepcopy(NET), VP, prediction="epsilon")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        result = ss.train(model, data, steps=3, batch_size=8, progress=False, path=path)
        again = ss.load(path)
    weights = [p.detach() for p in (*result.model.parameters(), *again.parameters())]
    sampler = ss.PredictorCorrector(VP, predictor=ss.ReverseDiffusion(), steps=15)
    return [*weights, sampler.sample(result.model, (4, 2), seed=1)]


TASKS: dict[str, Callable[[], list[Tensor]]] = {
    task.__name__: task
    for task in (
        kernels, grids, noise, scores, samplers, flows, likelihoods, chains, losses, analysis,
        training,
    )
}  # fmt: skip


def digest(name: str) -> str:
    """A hash of every bit, shape and dtype of a task's results."""
    total = hashlib.sha256()
    for value in TASKS[name]():
        total.update(f"{value.dtype}{tuple(value.shape)}{value.device}".encode())
        total.update(value.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:] or TASKS:
        print(name, digest(name))
