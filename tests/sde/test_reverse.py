"""The reverse SDE of every η has the forward marginals: Fokker–Planck on Gaussian data."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

import sdescore as ss
from tests.helpers.strategies import REPRESENTATIVES, linear_sdes

MEAN, STD = 0.7, 0.4


def gaussian_score(sde: ss.LinearSDE):
    def score(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        alpha, sigma = sde.marginal(t)
        return (alpha * MEAN - x) / (alpha**2 * STD**2 + sigma**2)

    return score


def distribution(sde: ss.LinearSDE, t: float) -> np.ndarray:
    alpha, sigma = (v.item() for v in sde.marginal(t))
    return np.array([alpha * MEAN, alpha**2 * STD**2 + sigma**2])


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_reverse_marginals_are_the_forward_ones(name: str, eta: float) -> None:
    """The moments of ``dx = (Ax + b) dt + ηg dw̄`` run from T down, by scipy."""
    sde = REPRESENTATIVES[name]
    reverse = sde.reverse(gaussian_score(sde), eta=eta)
    assert reverse.T == sde.T and reverse.t_min == sde.t_min
    points = torch.tensor([[0.0], [1.0]], dtype=torch.float64)

    def field(t: float, y: np.ndarray) -> list[float]:
        b, total = reverse.drift(points, t).flatten().tolist()
        A = total - b
        return [A * y[0] + b, 2 * A * y[1] - reverse.diffusion(t).item() ** 2]

    end = 0.02 * sde.T
    y, now = distribution(sde, sde.T), sde.T
    knots = sde.level_times().tolist() if hasattr(sde, "level_times") else []
    for t in sorted({end, 0.3 * sde.T, *(k for k in knots if end < k < sde.T)}, reverse=True):
        y = solve_ivp(field, (now, t), y, method="DOP853", rtol=1e-8, atol=1e-12).y[:, -1]
        now = t
        np.testing.assert_allclose(y, distribution(sde, t), rtol=1e-6)


@given(st.data(), linear_sdes(), st.floats(0.0, 1.0))
def test_reverse_drift_and_diffusion(data: st.DataObject, sde: ss.LinearSDE, eta: float) -> None:
    """Drift f x − ½(1 + η²) g² s and diffusion ηg, for one time and for one per sample."""
    times = [u * sde.T for u in data.draw(st.lists(st.floats(0.01, 1.0), min_size=3, max_size=3))]
    x = torch.tensor([[0.3, -2.0], [1.5, 0.1], [0.0, 4.0]], dtype=torch.float64)
    reverse = sde.reverse(lambda y, t: torch.sin(y), eta=eta)
    batch = torch.tensor(times, dtype=torch.float64)
    drift, diffusion = reverse.drift(x, batch), reverse.diffusion(batch)
    assert diffusion.shape == (3,)
    for i, t in enumerate(times):
        f, g2 = (v.item() for v in sde.rates(t))
        expected = f * x[i] - 0.5 * (1 + eta**2) * g2 * x[i].sin()
        scale = (f * x[i]).abs() + g2 * x[i].sin().abs()
        assert bool(((drift[i] - expected).abs() <= 1e-14 * scale).all())
        torch.testing.assert_close(reverse.drift(x, t)[i], drift[i], rtol=1e-13, atol=1e-300)
        assert diffusion[i].item() == pytest.approx(eta * math.sqrt(g2), rel=1e-13)


@given(linear_sdes(), st.sampled_from([torch.float32, torch.float64]))
def test_the_score_is_given_its_time_in_the_states_dtype(
    sde: ss.LinearSDE, dtype: torch.dtype
) -> None:
    seen = []

    def score(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen.append(t)
        sde.marginal(t)  # T in float32 may lie above T; it must still be a time
        return -x

    x = torch.ones(2, 3, dtype=dtype)
    for t in (sde.T, torch.tensor(sde.T, dtype=torch.float64), torch.full((2,), sde.T)):
        assert sde.reverse(score).drift(x, t).dtype == dtype
    assert all(isinstance(t, torch.Tensor) and t.dtype == dtype for t in seen)
    assert [t.shape for t in seen] == [(), (), (2,)]


def test_a_reversal_has_no_reversal_of_its_own() -> None:
    def score(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return -x

    for eta in (0.0, 1.0):
        back = ss.VPSDE().reverse(score, eta)
        assert back.backward and not back.forward.backward
        assert back.deterministic == (eta == 0) and not back.forward.deterministic
        with pytest.raises(ss.errors.IncompatibleError, match=r"use its \.forward"):
            back.reverse(score)
        with pytest.raises(ss.errors.IncompatibleError, match=r"use its \.forward"):
            ss.sde.ReverseSDE(forward=back, score=score)
        with pytest.raises(ss.errors.IncompatibleError, match=r"use its \.forward"):
            ss.PredictorCorrector(back, predictor=ss.EulerMaruyama(), steps=5, denoise=False)


def test_reverse_is_a_value() -> None:
    def score(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return -x

    a, b = ss.VPSDE().reverse(score), ss.sde.ReverseSDE(forward=ss.VPSDE(), score=score, eta=1.0)
    assert a == b and hash(a) == hash(b) and isinstance(a, ss.SDE)
    assert a != ss.VPSDE().reverse(score, eta=0.0)
    with pytest.raises(ss.errors.TimeError):
        a.drift(torch.ones(1, 1), 1.5)
