"""The bound on the likelihood of the reverse SDE: an equality, and a bound, in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.integrate import quad, solve_ivp
from torch import Tensor

import sdescore as ss
from sdescore.errors import IncompatibleError, ParameterError, ShapeError, TimeError
from sdescore.samplers import sde_bound

F64 = torch.float64
M, VARIANCE = torch.tensor([1.0, -2.0, 0.5], dtype=F64), torch.tensor([0.09, 1.0, 4.0], dtype=F64)
SDES = [ss.VPSDE(), ss.VESDE(), ss.EDMSDE(), ss.SubVPSDE(), ss.RectifiedFlowSDE()]
Z = 5.0  # deviations of a mean: a correct one fails with a probability of 6e-7


@pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)
def test_it_is_an_equality_for_the_exact_score(sde: ss.LinearSDE) -> None:
    """Of samples of a Gaussian; the prior's own mismatch is added. Z standard errors of 500."""
    score = ss.GaussianScore(M, VARIANCE, sde)
    x = sde.perturb(score.sample(500, dtype=F64), sde.t_min, torch.randn(500, 3, dtype=F64))
    got = sde_bound(score, x, times=16, data_std=1.0)
    end = sde.transition(sde.t_min, sde.T)(x).sample(torch.randn(500, 3, dtype=F64))
    mismatch = sde.prior_log_prob(end, data_std=1.0) - score.log_prob(end, sde.T)
    off = got.log_prob - score.log_prob(x, sde.t_min) - mismatch
    error = off.std().item() / math.sqrt(500)
    assert abs(off.mean().item()) < Z * error
    assert error < 0.1
    # The reported errors, of 15 differences each, are a little too large, and not more.
    small = sde_bound(score, x, times=64, data_std=1.0)
    spread = (small.log_prob - score.log_prob(x, sde.t_min) - mismatch).std()
    assert 0.8 < small.standard_error.square().mean().sqrt() / spread < 2


class Wrong:
    """The score of N(0, v) data where they are N(0, 1): linear, so everything is known."""

    def __init__(self, sde: ss.LinearSDE, v: float) -> None:
        self.sde, self.v = sde, v

    def slopes(self, t: Tensor) -> Tensor:
        alpha, sigma = self.sde.marginal(t)
        return -(1 + 0.5 * torch.sin(3 * t)) / (alpha**2 * self.v + sigma**2)

    def slope(self, t: float) -> float:
        return self.slopes(torch.tensor(t, dtype=F64)).item()

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self.slopes(t)[:, None] * x

    def log_prob(self, x: float) -> float:
        """Of the reverse SDE's end, N(0, P): the variance's linear equation, from T down."""

        def down(t: float, P: list[float]) -> list[float]:
            f, g2 = (rate.item() for rate in self.sde.rates(t))
            return [2 * (f - g2 * self.slope(t)) * P[0] - g2]

        ends = (self.sde.T, self.sde.t_min)
        start = [self.sde.prior_std() ** 2]
        P = solve_ivp(down, ends, start, method="LSODA", rtol=1e-9, atol=1e-12).y[0, -1]
        return -0.5 * (x * x / P + math.log(2 * math.pi * P))

    def bound(self, x: float) -> float:
        """Theorem 3 of arXiv:2101.09258 by quadrature over t, E over x_t in closed form."""
        sde, s = self.sde, self.sde.t_min

        def rate(u: float) -> float:
            t = math.exp(u)
            f, g2 = (value.item() for value in sde.rates(t))
            kernel = sde.transition(s, t)
            square = (kernel.scale * x).item() ** 2 + kernel.variance.item()
            c = self.slope(t)
            return t * (0.5 * g2 * (c * c * square + 2 * c) - f)

        integral = quad(rate, math.log(s), math.log(sde.T), epsabs=1e-9, limit=200)[0]
        end = sde.transition(s, sde.T)
        square = (end.scale * x).item() ** 2 + end.variance.item()
        variance = sde.prior_std() ** 2
        return -0.5 * (square / variance + math.log(2 * math.pi * variance)) - integral


@pytest.mark.parametrize("sde", [ss.VPSDE(), ss.EDMSDE(sigma_max=10.0)], ids=["VP", "EDM"])
def test_it_is_the_papers_bound_and_below_the_density_of_the_sde(sde: ss.LinearSDE) -> None:
    """A deliberately wrong score. Z standard errors of 2,000 estimates for each of three data."""
    model = Wrong(sde, 0.5)
    for x in (0.0, 0.7, -2.0):
        want, exact = model.bound(x), model.log_prob(x)
        assert want < exact - 0.002
        got = sde_bound(model, torch.full((2000, 1), x, dtype=F64), times=8)
        off, error = got.log_prob.mean().item() - want, got.log_prob.std().item() / 2000**0.5
        assert abs(off) < Z * error
        assert error < 0.05


def test_a_sample_has_its_own_noise_and_label() -> None:
    sde = ss.VPSDE()
    score = ss.GaussianScore(M, VARIANCE, sde)

    def labelled(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return score(x, t) + label[:, None]

    labelled.sde = sde
    x, label = score.sample(5, seed=1), torch.arange(5)
    whole = sde_bound(labelled, x, times=4, seed=3, label=label)
    part = sde_bound(labelled, x, times=4, seed=3, label=label, max_batch=2)
    first = sde_bound(labelled, x[:2], times=4, seed=3, label=label[:2])
    assert torch.equal(whole.log_prob, part.log_prob)
    assert torch.equal(whole.log_prob[:2], first.log_prob)
    plain = sde_bound(score, x, times=4, seed=3)
    assert torch.equal(plain.log_prob[0], whole.log_prob[0])
    assert (plain.log_prob[1:] != whole.log_prob[1:]).all()
    assert (sde_bound(score, x, times=4, seed=4).log_prob != plain.log_prob).all()


def test_the_density_is_in_the_units_of_the_data() -> None:
    sde = ss.VESDE()
    exact = ss.GaussianScore(M, VARIANCE, sde)
    options = {"prediction": "score", "time_input": "t"}
    plain = ss.ScoreModel(exact, sde, **options)
    scaled = ss.ScoreModel(exact, sde, **options, data_mean=3.0, data_std=[2.0, 0.5, 5.0])
    x = exact.sample(4)
    data = x * torch.tensor([2.0, 0.5, 5.0]) + 3
    got, want = sde_bound(scaled, data, times=8), sde_bound(plain, x, times=8)
    torch.testing.assert_close(got.log_prob, want.log_prob - math.log(5.0), rtol=1e-4, atol=1e-3)


X = torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda s: sde_bound(lambda x, t: -x, X), IncompatibleError, "LinearSDE"),
        (lambda s: sde_bound(s, X.long()), ShapeError, "floating"),
        (lambda s: sde_bound(s, X, times=0), ParameterError, "times >= 1"),
        (lambda s: sde_bound(s, X, t_min=1.0), ParameterError, "t_min"),
        (lambda s: sde_bound(s, X, t_min=0.0), TimeError, "log-SNR"),
        (lambda s: sde_bound(s, X, data_std=-1.0), ParameterError, "data_std"),
        (lambda s: sde_bound(s, torch.full((2, 3), math.nan)), ParameterError, "finite x"),
    ],
)
def test_what_is_refused(call, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call(ss.GaussianScore(M, VARIANCE, ss.VPSDE()))


def test_a_score_that_is_not_finite_is_named() -> None:
    bad = ss.GaussianScore([0.0], 1.0, ss.VPSDE())

    def broken(x: Tensor, t: Tensor) -> Tensor:
        y = bad(x, t)
        y[1] = math.nan
        return y

    broken.sde = bad.sde
    with pytest.raises(ss.SDEScoreError, match="1 of 3 samples: 1"):
        sde_bound(broken, torch.full((3, 1), 0.5), times=2)
