"""What a sampler asks of any multistage predictor, and what it refuses."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

import sdescore as ss
from sdescore.analysis.error import gaussian_error
from sdescore.predictors.exponential_runge_kutta import ExponentialRungeKutta
from sdescore.predictors.runge_kutta import Heun, RungeKutta4
from sdescore.predictors.stochastic_heun import StochasticHeun
from sdescore.score.mixture import GaussianScore
from tests.helpers.multistage import (
    EVERY,
    MEAN,
    SDES,
    VARIANCE,
    VP,
    chain,
    response,
)
from tests.helpers.strategies import REPRESENTATIVES

ADAMS = [ss.ExponentialAdams(points=3), ss.ExponentialAdams(1.0, 2, 3)]


# What a sampler asks of any predictor.


@pytest.mark.parametrize("predictor", [*EVERY, *ADAMS], ids=repr)
def test_numbers_of_any_grid_on_any_sde(predictor: ss.Predictor) -> None:
    for sde in REPRESENTATIVES.values():
        for fractions in ([1.0], [1.0, 0.9999999], [1.0, 0.7, 0.05, 0.04]):
            times = sde.T * torch.tensor(fractions, dtype=torch.float64)
            numbers = predictor.tableau(sde, times)
            assert len(numbers) == len(times) - 1
            assert numbers.times.shape[1] == predictor.evaluations
            for part in (numbers.times, numbers.a, numbers.b, numbers.c):
                assert part.dtype == torch.float64 and part.isfinite().all()
            inside = (numbers.times <= sde.T) & (numbers.times >= times[1:, None])
            assert inside.all()


@pytest.mark.parametrize("predictor", [*EVERY, *ADAMS], ids=repr)
@pytest.mark.parametrize("shape", [(0, 2), (5,), (5, 2, 1, 3)])
def test_any_shape_in_any_chunks(predictor: ss.Predictor, shape: tuple[int, ...]) -> None:
    sampler = ss.PredictorCorrector(VP, predictor=predictor, steps=3)

    def score(x: Tensor, t: Tensor) -> Tensor:
        return -x / (0.5 + t)

    x = sampler.sample(score, shape, seed=2)
    assert x.shape == shape and x.dtype == torch.float32
    assert torch.equal(x, sampler.sample(score, shape, seed=2, max_batch=2))
    # A copy knows the run as it was then: a state that is behind its run would be a rewind.
    states = [copy.deepcopy(state) for state in sampler.iterate(score, shape, seed=2)]
    assert torch.equal(states[-1].x, x)
    resumed = list(sampler.iterate(score, shape, seed=2, start=states[0]))
    assert torch.equal(resumed[-1].x, x)


@pytest.mark.parametrize("name", ["vp", "trigonometric"])
@pytest.mark.parametrize(
    "predictor",
    [Heun(s_churn=1.0), RungeKutta4(), StochasticHeun(), ExponentialRungeKutta(1.0, 3)],
    ids=repr,
)
def test_gradients_of_the_times_flow(name: str, predictor: ss.Predictor) -> None:
    """Against central differences; the trigonometric SDE inverts its log-SNR by bisection."""
    sde = SDES[name]
    sampler = chain(sde, predictor, [1.0, 0.7, 0.45, 0.2])

    def error(times: Tensor) -> Tensor:
        return gaussian_error(sampler, VARIANCE, mean=MEAN, times=times).w2

    times = torch.tensor([1.0, 0.7, 0.45, 0.2], dtype=torch.float64, requires_grad=True)
    (got,) = torch.autograd.grad(error(times), times)
    step = 1e-5 * torch.eye(4, dtype=torch.float64)
    for i in (1, 2, 3):
        apart = error(times.detach() + step[i]) - error(times.detach() - step[i])
        assert got[i].item() == pytest.approx(apart.item() / 2e-5, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("predictor", EVERY, ids=repr)
def test_an_sde_without_kernels_is_refused(predictor: ss.Predictor) -> None:
    class OwnSDE(ss.SDE):
        T, t_min = 1.0, 1e-3

        def drift(self, x: Tensor, t: Tensor) -> Tensor:
            return -(x**3)

        def diffusion(self, t: Tensor) -> Tensor:
            return torch.ones_like(torch.as_tensor(t))

    with pytest.raises(ss.errors.IncompatibleError, match="LinearSDE"):
        ss.PredictorCorrector(OwnSDE(), predictor=predictor, steps=3, denoise=False)


# The tableau's own fields.


class Started(ss.Predictor):
    """The step of DDIM, with a given start and spans."""

    order = 0

    def __init__(self, a: float = 1.0, c: float = 0.0, spans: Tensor | None = None) -> None:
        self.a, self.c, self.spans = a, c, spans

    def tableau(self, sde: ss.LinearSDE, times: Tensor) -> ss.Tableau:
        base = ss.DDIM().tableau(sde, times)
        ones = torch.ones(len(base), 1, dtype=torch.float64)
        start = self.a * ones[:, 0], self.c * ones
        return ss.Tableau(base.times, base.a, base.b, base.c, start=start, spans=self.spans)


def test_a_start_in_a_one_stage_method() -> None:
    """Not folded: the model sees ``a x + c z``, the step starts at x."""
    score, x = GaussianScore(MEAN, VARIANCE, VP), torch.randn(2, 3, dtype=torch.float64)
    sampler = chain(VP, Started(0.5, 2.0), [0.8, 0.4])
    z = torch.randn(2, 2, 3, dtype=torch.float64)
    got = sampler.sample(score, init=x, noise=ss.noise.ReplayNoise(z), dtype=torch.float64)
    numbers = ss.DDIM().tableau(VP, torch.tensor([0.8, 0.4]).double())
    seen = score(0.5 * x + 2.0 * z[1], torch.tensor(0.8).double())
    torch.testing.assert_close(got, numbers.a.item() * x + numbers.b.item() * seen)
    distribution = gaussian_error(sampler, VARIANCE, mean=MEAN)
    on = response(sampler)
    torch.testing.assert_close(on[1:].square().sum(0), distribution.variance)
