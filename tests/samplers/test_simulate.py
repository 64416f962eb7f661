"""The forward SDE against closed-form moments, its own recursion, one path, and Boltzmann's
distribution."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import integrate
from torch import Tensor

import sdescore as ss
from sdescore.noise.counter import Domain, standard_normal
from sdescore.samplers.request import domain_at
from tests.helpers.strategies import REPRESENTATIVES

F64 = torch.float64


class DoubleWell(ss.SDE):
    """``dx = (x − x³) dt + dw``: stationary density ∝ exp(x² − x⁴/2)."""

    @property
    def T(self) -> float:
        return 12.0

    def drift(self, x: Tensor, t: ss.sde.base.Time) -> Tensor:
        return x - x**3

    def diffusion(self, t: ss.sde.base.Time) -> float:  # a plain number will do
        return 1.0


def affine_moments(sde: ss.SDE, times: list[float], method: str) -> tuple[float, float]:
    """Factor on ``x0`` and variance of the end state, without sampling: feed a basis.

    Sample 0 starts from 1 without noise; sample n starts from 0 and feels draw n alone.
    """
    n = len(times) - 1
    x0 = torch.zeros(n + 1, dtype=F64)
    x0[0] = 1.0
    values = torch.eye(n + 1, dtype=F64)
    values[0] = math.nan  # draw 0 starts a sampler's chain and is not ours
    x = ss.simulate(sde, x0, times=times, method=method, noise=ss.noise.ReplayNoise(values))
    return x[0].item(), x[1:].square().sum().item()


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_exact_reproduces_the_kernel_on_a_rough_grid(name: str) -> None:
    sde = REPRESENTATIVES[name]
    times = [0.0, *(sde.T * u for u in (0.03, 0.2, 0.55, 0.9, 1.0))]
    factor, variance = affine_moments(sde, times, "exact")
    alpha, sigma = (v.tolist() for v in sde.marginal(torch.tensor([0.0, sde.T], dtype=F64)))
    a = alpha[1] / alpha[0]
    expected = sigma[1] ** 2 - (a * sigma[0]) ** 2
    assert factor == pytest.approx(a, rel=1e-12)
    assert variance == pytest.approx(expected, rel=1e-11)


def test_the_state_at_zero_is_not_the_clean_datum_on_ve() -> None:
    sde = ss.VESDE(sigma_min=0.5, sigma_max=2.0)
    _, variance = affine_moments(sde, [0.0, 1.0], "exact")
    assert variance == pytest.approx(4.0 - 0.25, rel=1e-13)


SMOOTH = ["ve-small", "vp", "vp-constant", "subvp", "edm", "marginal-trigonometric"]


@pytest.mark.parametrize("name", SMOOTH)
def test_euler_has_weak_order_one(name: str) -> None:
    sde = REPRESENTATIVES[name]
    end = 0.6 * sde.T
    kernel = sde.transition(0.0, end)
    errors = []
    for n in (512, 1024):
        times = torch.linspace(0, end, n + 1, dtype=F64).tolist()
        factor, variance = affine_moments(sde, times, "euler")
        errors.append((abs(factor - kernel.scale.item()), abs(variance - kernel.variance.item())))
    for coarse, fine in zip(*errors, strict=True):
        if coarse > 1e-12:  # the factor of VE is 1, exactly
            assert math.log2(coarse / fine) == pytest.approx(1.0, abs=0.1)


def test_euler_is_the_textbook_recursion() -> None:
    """A NumPy loop on an uneven grid of a time-dependent linear SDE, with the seed's numbers."""
    sde, seed = ss.VPSDE(beta_min=0.2, beta_max=9.0), 5
    times = [0.1, 0.15, 0.3, 0.32, 0.7]
    domain = domain_at(Domain.SIMULATE, times[0])
    z = standard_normal(seed, range(3), range(5), (2,), domain=domain).double().numpy()
    x = np.array([[1.0, -2.0], [0.5, 0.0], [3.0, 1.0]])
    start = torch.tensor(x)
    for n, (s, t) in enumerate(pairwise(times)):
        beta = 0.2 + 8.8 * s
        x = x - 0.5 * beta * x * (t - s) + math.sqrt(beta * (t - s)) * z[n + 1]
    got = ss.simulate(sde, start, times=times, seed=seed)
    np.testing.assert_allclose(got.numpy(), x, rtol=1e-13)


class TimeDependent(DoubleWell):
    """``dx = −t sin x dt + (1 + t) dw``: non-linear, with both rates depending on time."""

    def drift(self, x: Tensor, t: ss.sde.base.Time) -> Tensor:
        return -t * torch.sin(x)

    def diffusion(self, t: ss.sde.base.Time) -> Tensor:
        return 1 + t


def test_euler_on_a_users_sde_is_the_textbook_recursion() -> None:
    times, x = [0.5, 0.6, 1.1, 1.2], np.array([[1.0], [-2.0]])
    domain = domain_at(Domain.SIMULATE, times[0])
    z = standard_normal(3, range(2), range(4), (1,), domain=domain).double().numpy()
    start = torch.tensor(x)
    for n, (s, t) in enumerate(pairwise(times)):
        x = x - s * np.sin(x) * (t - s) + (1 + s) * math.sqrt(t - s) * z[n + 1]
    got = ss.simulate(TimeDependent(), start, times=times, seed=3)
    np.testing.assert_allclose(got.numpy(), x, rtol=1e-13)


def test_equal_steps_run_from_start_to_end() -> None:
    sde, x0 = ss.VPSDE(), torch.ones(4, 3)
    by_steps = ss.simulate(sde, x0, steps=8, start=0.2, end=0.6, seed=1)
    times = torch.linspace(0.2, 0.6, 9, dtype=F64)
    assert torch.equal(by_steps, ss.simulate(sde, x0, times=times, seed=1))
    to_the_end = ss.simulate(sde, x0, steps=8, seed=1)
    assert torch.equal(to_the_end, ss.simulate(sde, x0, steps=8, start=0.0, end=1.0, seed=1))


def reversal(eta: float) -> tuple[ss.LinearSDE, ss.sde.ReverseSDE]:
    """Of Gaussian data, mean 0 and standard deviation 0.4."""
    sde = ss.VPSDE(beta_min=0.5, beta_max=6.0)

    def score(x: Tensor, t: Tensor) -> Tensor:
        return -x / variance_at(sde, t.item())

    return sde, sde.reverse(score, eta)


def variance_at(sde: ss.LinearSDE, t: float) -> float:
    alpha, sigma = (v.item() for v in sde.marginal(t))
    return (0.4 * alpha) ** 2 + sigma**2


@pytest.mark.parametrize(
    ("eta", "start", "end"), [(1.0, 1.0, 0.1), (0.5, 1.0, 0.1), (0.0, 1.0, 0.1), (0.0, 0.1, 1.0)]
)
def test_a_reversal_has_the_forward_marginals(eta: float, start: float, end: float) -> None:
    """Downwards, and upwards the ODE: the end's exact variance, right to order one."""
    sde, reverse = reversal(eta)
    errors = []
    for n in (256, 512):
        times = torch.linspace(start, end, n + 1, dtype=F64).tolist()
        factor, noise = affine_moments(reverse, times, "euler")
        got = factor**2 * variance_at(sde, start) + noise
        errors.append(abs(got / variance_at(sde, end) - 1))
    assert errors[1] < 0.02
    assert math.log2(errors[0] / errors[1]) == pytest.approx(1.0, abs=0.1)
    assert (noise > 0) == (eta > 0)


def test_a_reversal_takes_start_and_end_and_one_path() -> None:
    _, reverse = reversal(1.0)
    x0, times = torch.ones(3, 2), torch.linspace(1.0, 0.2, 9, dtype=F64)
    whole = ss.simulate(reverse, x0, times=times, seed=3)
    assert torch.equal(whole, ss.simulate(reverse, x0, steps=8, start=1.0, end=0.2, seed=3))
    noise = ss.noise.BrownianNoise(seed=3)
    near, far = (
        ss.simulate(reverse, x0, steps=n, start=1.0, end=0.2, noise=noise) for n in (256, 64)
    )
    assert rms(near - far) < 0.1 < rms(near - whole)


def test_a_reversal_does_not_run_up() -> None:
    calls: list[int] = []
    sde = ss.VPSDE().reverse(lambda x, t: calls.append(1) or -x)

    class Users(DoubleWell):
        backward = True

    for given in ({"steps": 200}, {"times": [0.0, 0.5, 1.0]}, {"times": [1.0, 0.5, 0.5]}):
        for backward in (sde, Users()):
            with pytest.raises(ss.errors.TimeError, match=r"strictly falling.*PredictorCorrector"):
                ss.simulate(backward, torch.zeros(2, 1), **given)
    assert not calls
    assert ss.simulate(Users(), torch.zeros(2, 1), times=[1.0, 0.5]).isfinite().all()
    with pytest.raises(ss.errors.TimeError, match=r"rising.*PredictorCorrector"):
        ss.simulate(ss.VPSDE(), torch.zeros(2, 1), times=[1.0, 0.0])


def test_a_gradient_flow_runs_there_and_back() -> None:
    cold = ss.sde.LangevinSDE(torch.neg, temperature=0.0, T=1.0)
    x0 = torch.ones(3, 2, dtype=F64)
    there = ss.simulate(cold, x0, steps=4000)
    back = ss.simulate(cold, there, steps=4000, start=1.0, end=0.0)
    torch.testing.assert_close(there, x0 / math.e, rtol=1e-3, atol=0.0)
    torch.testing.assert_close(back, x0, rtol=1e-3, atol=0.0)
    with pytest.raises(ss.errors.TimeError, match="rising"):
        ss.simulate(ss.sde.LangevinSDE(torch.neg, T=1.0), x0, times=[1.0, 0.0])


def rms(x: Tensor) -> float:
    return x.square().mean().sqrt().item()


def test_euler_and_exact_follow_one_path_with_strong_order_one() -> None:
    """Additive noise: on one Brownian path both converge, to each other too, with order 1."""
    sde, x0 = ss.VPSDE(beta_min=1.0, beta_max=4.0), torch.ones(300, 1, dtype=F64)
    noise = ss.noise.BrownianNoise(seed=3, T=1.0)

    def run(n: int, method: str) -> Tensor:
        return ss.simulate(sde, x0, steps=n, method=method, noise=noise)

    reference = run(1024, "exact")
    for method in ("euler", "exact"):
        coarse, fine = (rms(run(n, method) - reference) for n in (16, 64))
        assert 0.5 * math.log2(coarse / fine) == pytest.approx(1.0, abs=0.15), method
    apart = [rms(run(n, "euler") - run(n, "exact")) for n in (64, 256)]
    assert 0.5 * math.log2(apart[0] / apart[1]) == pytest.approx(1.0, abs=0.1)


def test_double_well_reaches_boltzmanns_distribution() -> None:
    """Kolmogorov–Smirnov against quadrature, from one well alone. Critical value at alpha = 1e-6
    √(ln(2/α)/2n) (Massart 1990) plus 0.005 for Euler's bias at h = 0.01, O(h)."""
    n, alpha = 10_000, 1e-6
    x = ss.simulate(DoubleWell(), torch.ones(n), steps=1200, seed=2)
    grid = np.linspace(-4, 4, 4001)
    density = np.exp(grid**2 - grid**4 / 2)
    cdf = integrate.cumulative_simpson(density, x=grid, initial=0)
    cdf /= cdf[-1]
    theory = np.interp(np.sort(x.double().numpy()), grid, cdf)
    steps = np.arange(n + 1) / n
    distance = max(np.abs(theory - steps[1:]).max(), np.abs(theory - steps[:-1]).max())
    assert distance < math.sqrt(math.log(2 / alpha) / (2 * n)) + 0.005


def test_path_starts_at_x0_and_ends_at_the_result() -> None:
    x0 = torch.randn(3, 2)
    before = x0.clone()
    for method in ("euler", "exact"):
        path = ss.simulate(ss.VPSDE(), x0, steps=5, method=method, return_path=True)
        assert path.shape == (6, 3, 2)
        assert torch.equal(path[0], x0)
        assert torch.equal(path[-1], ss.simulate(ss.VPSDE(), x0, steps=5, method=method))
        part = ss.simulate(ss.VPSDE(), x0, times=torch.linspace(0, 1, 6)[:4].double(), seed=0)
        assert part.shape == x0.shape
    assert torch.equal(x0, before)


@pytest.mark.parametrize("method", ["euler", "exact"])
def test_a_sample_does_not_know_its_batch(method: str) -> None:
    x0 = torch.randn(50, 3)
    whole = ss.simulate(ss.SubVPSDE(), x0, steps=20, method=method, seed=9)
    assert torch.equal(
        whole[:7], ss.simulate(ss.SubVPSDE(), x0[:7], steps=20, method=method, seed=9)
    )
    assert not torch.equal(whole, ss.simulate(ss.SubVPSDE(), x0, steps=20, method=method, seed=10))


@pytest.mark.parametrize("shape", [(0, 2), (3,), (2, 1, 2, 2)])
def test_any_shape_and_dtype(shape: tuple[int, ...]) -> None:
    for dtype in (torch.float32, F64):
        x = ss.simulate(ss.VESDE(), torch.zeros(shape, dtype=dtype), steps=3)
        assert x.shape == shape
        assert x.dtype == dtype


class Cubic(DoubleWell):
    def drift(self, x: Tensor, t: ss.sde.base.Time) -> Tensor:
        return 50 * x**3


def test_divergence_names_step_time_and_samples() -> None:
    x0 = torch.zeros(4, 1)
    x0[2] = 1e3
    with pytest.raises(ss.errors.DivergenceError, match="more steps") as caught:
        ss.simulate(Cubic(), x0, times=[0.0, 0.001, 0.002, 0.003, 0.004])
    assert caught.value.samples == [2]
    assert 0 < caught.value.step < 4
    assert caught.value.t == pytest.approx(0.001 * caught.value.step)


class Summed(DoubleWell):
    def drift(self, x: Tensor, t: ss.sde.base.Time) -> Tensor:
        return x.sum(1, keepdim=True)


X = torch.zeros(2, 3)
BAD = [
    (ss.errors.ScheduleError, {}),
    (ss.errors.ScheduleError, {"steps": 3, "times": [0.0, 1.0]}),
    (ss.errors.ScheduleError, {"steps": 0}),
    (ss.errors.ScheduleError, {"steps": 2.5}),
    (ss.errors.ScheduleError, {"steps": True}),
    (ss.errors.ScheduleError, {"times": [0.5]}),
    (ss.errors.ScheduleError, {"times": [[0.0, 1.0]]}),
    (ss.errors.ScheduleError, {"times": "ab"}),
    (ss.errors.ScheduleError, {"times": [0.0, None]}),
    (ss.errors.ScheduleError, {"times": [0.0, 1.0], "end": 0.5}),
    (ss.errors.ScheduleError, {"times": [0.1, 1.0], "start": 0.1}),
    (ss.errors.ParameterError, {"steps": 3, "seed": "a"}),
    (ss.errors.TimeError, {"times": [0.0, 0.5, 0.5]}),
    (ss.errors.TimeError, {"times": [1.0, 0.0]}),
    (ss.errors.TimeError, {"times": [0.0, 1.5]}),
    (ss.errors.ScheduleError, {"times": [0.0, math.nan]}),
    (ss.errors.TimeError, {"steps": 3, "start": -0.1}),
    (ss.errors.TimeError, {"steps": 3, "start": 0.7, "end": 0.5}),
    (ss.errors.TimeError, {"steps": 3, "end": 1.1}),
    (ss.errors.TimeError, {"steps": 3, "end": math.inf}),
    (ss.errors.IncompatibleError, {"steps": 3, "method": "heun"}),
    (ss.errors.IncompatibleError, {"steps": 3, "noise": torch.zeros(3)}),
    (ss.errors.ShapeError, {"steps": 3, "noise": ss.noise.ReplayNoise(torch.zeros(3, 2, 3))}),
    (ss.errors.ShapeError, {"steps": 3, "x0": X.half()}),
    (ss.errors.ShapeError, {"steps": 3, "x0": X.long()}),
    (ss.errors.ShapeError, {"steps": 3, "x0": X[0, 0]}),
    (ss.errors.IncompatibleError, {"steps": 3, "sde": DoubleWell(), "method": "exact"}),
    (ss.errors.ShapeError, {"steps": 3, "sde": Summed()}),
]


@pytest.mark.parametrize(("error", "given"), BAD)
def test_bad_input_is_refused(error: type[Exception], given: dict[str, object]) -> None:
    sde, x0 = given.pop("sde", ss.VPSDE()), given.pop("x0", X)
    with pytest.raises(error, match="expected"):
        ss.simulate(sde, x0, **given)
