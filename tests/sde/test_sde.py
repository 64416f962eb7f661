"""Ends, shapes, perturbation and the prior of every linear SDE."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import sdescore as ss
from tests.helpers.sdes import ONE
from tests.helpers.state import torch_default, under_each_default
from tests.helpers.strategies import (
    REPRESENTATIVES,
    linear_sdes,
    ordered_times,
    shapes,
    states,
)

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_ends_of_the_forward_time(name: str) -> None:
    sde = REPRESENTATIVES[name]
    alpha_0, sigma_0 = sde.marginal(0.0)
    assert alpha_0.item() == pytest.approx(1.0, abs=1e-15)
    starts = {"ve": 0.01, "ve-small": 0.05, "discrete-ve": 0.1, "marginal-power": 2 * 0.01**1.5}
    assert sigma_0.item() == pytest.approx(starts.get(name, 0.0), rel=1e-14, abs=0)
    assert bool(sde.log_snr(0.0) == math.inf) == (name not in starts)
    assert 0 <= sde.t_min < sde.T
    assert all(bool(v.isfinite()) for v in (*sde.rates(0.0), *sde.rates(sde.T)))


def test_named_ends() -> None:
    assert ss.VESDE(sigma_min=0.01, sigma_max=50.0).marginal(1.0)[1].item() == pytest.approx(50.0)
    assert ss.EDMSDE(sigma_min=0.002, sigma_max=80.0).T == 80.0
    assert ss.EDMSDE().t_min == 0.002
    assert ss.VESDE().T == ss.VPSDE().T == ss.SubVPSDE().T == 1.0


# Shapes, dtypes and perturbation.


@given(st.data(), linear_sdes(), shapes())
def test_scalars_are_float64_and_shaped_like_t(
    data: st.DataObject, sde: ss.LinearSDE, shape: tuple[int, ...]
) -> None:
    (t,) = data.draw(ordered_times(sde, 1))
    batch = torch.full(shape[:1], t, dtype=torch.float64)
    for one, many in zip(
        (*sde.marginal(t), *sde.rates(t), sde.log_snr(t), sde.diffusion(t)),
        (*sde.marginal(batch), *sde.rates(batch), sde.log_snr(batch), sde.diffusion(batch)),
        strict=True,
    ):
        assert one.dtype == many.dtype == torch.float64
        assert one.shape == () and many.shape == batch.shape
        assert one.item() == pytest.approx(many[0].item(), rel=1e-13, abs=1e-300)
    assert sde.marginal(torch.empty(0))[0].shape == (0,)


@given(st.data(), linear_sdes(), shapes(), st.sampled_from([torch.float32, torch.float64]))
def test_perturb_and_drift(
    data: st.DataObject, sde: ss.LinearSDE, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    times = data.draw(st.lists(st.floats(0.01, 1.0), min_size=shape[0], max_size=shape[0]))
    t = torch.tensor(times, dtype=torch.float64) * sde.T
    x0, noise = states(shape, dtype, 1, 2)
    got, drift = sde.perturb(x0, t, noise), sde.drift(x0, t)
    assert got.dtype == drift.dtype == dtype and got.shape == drift.shape == x0.shape
    for i in range(shape[0]):
        alpha, sigma = (v.item() for v in sde.marginal(t[i]))
        expected = alpha * x0[i].double() + sigma * noise[i].double()
        scale = alpha * x0[i].double().abs() + sigma * noise[i].double().abs()
        bound = 4 * torch.finfo(dtype).eps * scale
        assert bool(((got[i].double() - expected).abs() <= bound).all())
        f = sde.rates(t[i])[0].item()
        torch.testing.assert_close(drift[i], (f * x0[i].double()).to(dtype), rtol=1e-6, atol=0)


def test_perturb_keeps_the_dtype_of_the_data_and_batch_zero() -> None:
    sde, x0 = ss.VPSDE(), torch.ones(2, 3)
    assert sde.perturb(x0, 0.5, torch.ones(2, 3).double()).dtype == torch.float32
    assert sde.perturb(torch.ones(0, 3), torch.empty(0), torch.ones(0, 3)).shape == (0, 3)


# Prior.


@given(st.data(), linear_sdes(), shapes(), st.floats(0.0, 3.0))
@settings(max_examples=50)
def test_prior_log_prob_against_scipy(
    data: st.DataObject, sde: ss.LinearSDE, shape: tuple[int, ...], data_std: float
) -> None:
    (x,) = states(shape, torch.float64, 3, 1)
    alpha, sigma = (v.item() for v in sde.marginal(sde.T))
    std = math.sqrt(sigma**2 + alpha**2 * data_std**2)
    assert sde.prior_std(data_std) == pytest.approx(std, rel=1e-14)
    x = std * x
    expected = stats.norm(0, std).logpdf(x.numpy()).reshape(shape[0], -1).sum(1)
    got = sde.prior_log_prob(x, data_std=data_std)
    torch.testing.assert_close(got, torch.from_numpy(expected), rtol=1e-12, atol=1e-11)


def test_prior_sample_is_scaled_noise_per_sample() -> None:
    sde = ss.VESDE(sigma_max=20.0)
    x = sde.prior_sample((4000, 3), seed=5, data_std=2.0)
    assert x.dtype == torch.float32 and x.shape == (4000, 3)
    torch.testing.assert_close(
        sde.prior_sample((7, 3), seed=5, data_std=2.0), x[:7], rtol=0, atol=0
    )
    # two-sided, alpha = 1e-6: the sum of squares is chi-square with 12,000 degrees of freedom
    low, high = stats.chi2(12000).ppf([5e-7, 1 - 5e-7])
    assert low < float((x.double() / math.hypot(20.0, 2.0)).square().sum()) < high
    assert sde.prior_sample((0, 3)).shape == (0, 3)
    assert sde.prior_sample((3,)).shape == (3,)
    assert sde.prior_sample((3,), dtype=torch.float64).dtype == torch.float64
    assert not torch.equal(sde.prior_sample((3,), seed=1), sde.prior_sample((3,), seed=2))
    assert sde.prior_log_prob(torch.ones(0, 3)).shape == (0,)
    with pytest.raises(ss.errors.ShapeError, match="batch"):
        sde.prior_sample(())
    with pytest.raises(ss.errors.ShapeError, match="floating"):
        sde.prior_log_prob(torch.ones(2, 3, dtype=torch.int64))


def test_a_prior_sample_is_independent_of_the_run_that_starts_from_it() -> None:
    """Equal seeds of ``prior_sample`` and ``sample`` share no number: |corr| at α = 1e-6."""
    n, sde = 20_000, ss.VPSDE()
    prior = sde.prior_sample((n,), seed=0)
    start = ss.PredictorCorrector(sde, predictor=ss.NoPredictor(), denoise=False, steps=1)
    x = start.sample(lambda x, t: -x, (n,), seed=0)
    moved = ss.PredictorCorrector(sde, predictor=ss.Ancestral(), steps=2)
    y = moved.sample(lambda x, t: 0 * x, init=torch.zeros(n), seed=0)
    correlation = np.corrcoef(torch.stack([prior, x, y]).numpy())
    assert abs(correlation[0, 1:]).max() < stats.norm.isf(5e-7 / 2) / math.sqrt(n)


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_half_log_snr_and_noise_ratio_name_the_same_time(name: str) -> None:
    """``λ = log(α/σ)``, half the log-SNR and minus the logarithm of σ/α; the inverse is one."""
    sde = REPRESENTATIVES[name]
    t = sde.T * torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
    alpha, sigma = sde.marginal(t)
    lam = sde.half_log_snr(t)
    torch.testing.assert_close(lam, torch.log(alpha / sigma), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(sde.noise_ratio(t), sigma / alpha, rtol=0, atol=0)
    torch.testing.assert_close(sde.time_at_half_log_snr(lam), t, rtol=1e-10, atol=0)
    assert sde.time_at_half_log_snr(lam[0].item()).item() == pytest.approx(t[0].item(), rel=1e-10)


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_the_time_of_a_log_snr_has_the_derivative_of_an_inverse(name: str) -> None:
    """dt/dλ by autograd against the central difference, on SDEs that bisect as well."""
    sde = REPRESENTATIVES[name]
    lam = sde.half_log_snr(torch.tensor([0.31, 0.77], dtype=torch.float64) * sde.T)
    lam.requires_grad_()
    t = sde.time_at_half_log_snr(lam)
    assert t.requires_grad
    slope = torch.autograd.grad(t.sum(), lam)[0]
    h = 1e-4
    rise = sde.time_at_half_log_snr(lam.detach() + h) - sde.time_at_half_log_snr(lam.detach() - h)
    torch.testing.assert_close(slope, rise / (2 * h), rtol=1e-5, atol=0)
    with torch.no_grad():
        assert not sde.time_at_half_log_snr(lam).requires_grad


NUMPY_SDES = [
    lambda number: ss.VPSDE(beta_min=number(1), beta_max=number(20)),
    lambda number: ss.SubVPSDE(beta_min=number(1), beta_max=number(20)),
    lambda number: ss.VESDE(sigma_min=number(1), sigma_max=number(50)),
    lambda number: ss.EDMSDE(sigma_min=number(1), sigma_max=number(80)),
    lambda number: ss.CosineVPSDE(offset=number(1), T=np.float32(0.3)),
    lambda number: ss.RectifiedFlowSDE(T=np.float32(0.5)),
    lambda number: ss.LinearSDE.from_marginal(ONE, lambda t: t, T=number(2), t_min=number(1)),
    lambda number: ss.sde.LangevinSDE(torch.neg, temperature=number(2), T=number(3)),
    lambda number: ss.VPSDE().reverse(lambda x, t: -x, eta=number(1)),
    lambda number: ss.DiscreteVPSDE.linear(np.int64(5), number(1) / 1000, number(1) / 50),
    lambda number: ss.DiscreteVESDE.geometric(
        sigma_max=number(9), sigma_min=number(1), levels=np.int64(4)
    ),
]


@pytest.mark.parametrize("make", NUMPY_SDES)
@pytest.mark.parametrize("number", [np.float32, np.float64, np.int64, np.uint8])
def test_numpy_numbers_become_floats(make, number) -> None:
    """What an SDE holds is a float, so that it can be saved and its repr rebuilds it."""
    sde = make(number)
    fields = [getattr(sde, field.name) for field in dataclasses.fields(sde)]
    flat = [v for value in fields for v in (value if isinstance(value, tuple) else (value,))]
    assert {type(v) for v in flat if isinstance(v, (float, int, np.generic))} == {float}
    assert (type(sde.T), type(sde.t_min)) == (float, float) and "np." not in repr(sde)


@under_each_default
@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_torchs_defaults_change_no_number(name: str, default) -> None:
    sde = REPRESENTATIVES[name]

    def all_numbers() -> list[torch.Tensor]:
        s, t, x = 0.3 * sde.T, 0.7 * sde.T, torch.ones(2, 1, dtype=torch.float32, device="cpu")
        reverse = sde.reverse(lambda x, t: -x)
        bridge, transition = sde.bridge(s, t), sde.transition(s, t)
        return [
            *sde.marginal(t),
            *sde.rates(t),
            sde.log_snr(t),
            sde.time_at_log_snr(sde.log_snr(t).item()),
            transition.scale,
            transition.variance,
            bridge.variance,
            sde.kernel(t)(x).sample(x),
            sde.prior_log_prob(x),
            sde.drift(x, t),
            reverse.drift(x, t),
            reverse.diffusion(t),
        ]

    expected = all_numbers()
    with torch_default(default):
        got = all_numbers()
        rebuilt = dataclasses.replace(sde)
        assert torch.equal(rebuilt.log_snr(0.3 * sde.T), sde.log_snr(0.3 * sde.T))
    for one, other in zip(got, expected, strict=True):
        assert one.dtype == other.dtype and one.device == other.device
        assert torch.equal(one, other)
