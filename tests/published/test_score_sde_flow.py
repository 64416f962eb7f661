"""score_sde's probability flow against scipy's solver on its drift, written out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

import sdescore as ss
from sdescore.errors import IncompatibleError, ParameterError, ScheduleError, ShapeError
from tests.helpers.published import SHAPE, difference, noises
from tests.helpers.score_sde import SIGMA, Original, model_of

TOLERANCE = 1e-5


class Flow:
    """The drift f x − ½ g² s of a batch, and Hutchinson's estimate of its divergence."""

    def __init__(self, sde: str) -> None:
        self.code = Original(sde, 1000)
        self.probe: Tensor | None = None

    def __call__(self, t: float, numbers: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        size = math.prod(SHAPE)
        x = torch.from_numpy(numbers[:size]).reshape(SHAPE).requires_grad_(self.probe is not None)
        f, g2 = self.code.f_and_g2(t)
        drift = f * x - 0.5 * g2 * self.code.score(x, t)
        parts = [drift.detach().flatten().numpy()]
        if self.probe is not None:
            (pulled,) = torch.autograd.grad((drift * self.probe).sum(), x)
            parts.append((pulled * self.probe).flatten(1).sum(1).numpy())
        return np.concatenate(parts)

    def solve(self, start: np.ndarray[Any, Any], ends: tuple[float, float]) -> Tensor:
        found = solve_ivp(self, ends, start, rtol=TOLERANCE, atol=TOLERANCE, method="RK45")
        return torch.from_numpy(found.y[:, -1])


@pytest.mark.parametrize("sde", ["ve", "vp", "subvp"])
def test_samples(sde: str) -> None:
    eps = 1e-5 if sde == "ve" else 1e-3
    z, flow = noises(1), Flow(sde)
    with torch.no_grad():
        start = z[0] * (SIGMA[1] if sde == "ve" else 1.0)
        x = flow.solve(start.flatten().numpy(), (1.0, eps)).reshape(SHAPE)
        mean = flow.code.predict("reverse_diffusion", x, eps, z[0], False)[1]
    model = model_of(sde, 1000, True, torch.float64)
    solver = ss.published.score_sde_ode(model)
    ours = solver.sample(model, SHAPE, noise=ss.noise.ReplayNoise(z), dtype=torch.float64)
    close = 1e-10
    assert difference(ours, mean) < close
    plain = solver.sample(
        model, SHAPE, noise=ss.noise.ReplayNoise(z), dtype=torch.float64, denoise=False
    )
    assert difference(plain, x) < close
    assert difference(mean, x) > 2 * difference(ours, mean)


@pytest.mark.parametrize("sde", ["ve", "vp", "subvp"])
def test_likelihoods_with_the_same_probe(sde: str) -> None:
    flow, x = Flow(sde), 0.5 * noises(2)[1]
    flow.probe = noises(3)[2].sign()
    numbers = np.concatenate([x.flatten().numpy(), np.zeros(SHAPE[0])])
    end = flow.solve(numbers, (1e-5, 1.0))
    z, log_det = end[: -SHAPE[0]].reshape(SHAPE), end[-SHAPE[0] :]
    std = z.new_tensor(SIGMA[1] if sde == "ve" else 1.0)
    prior = torch.distributions.Normal(0.0 * std, std).log_prob(z).flatten(1).sum(1)
    model = model_of(sde, 1000, True, torch.float64)
    solver = ss.published.score_sde_ode(model, eps=1e-5)
    options: dict[str, Any] = {"divergence": "hutchinson", "probes": flow.probe[None]}
    found = solver.log_likelihood(model, x, **options)
    assert difference(found.latent, z) < 1e-10
    assert difference(found.log_prob, prior + log_det) < 1e-10
    assert difference(found.log_det, log_det) < 1e-10


def test_probes_of_ones_own_are_averaged_and_follow_their_samples() -> None:
    model = model_of("vp", 1000, True, torch.float64)
    flow = ss.ProbabilityFlow(model.sde, method="heun3", steps=5)
    x, probes = noises(1)[0], noises(2)
    both = flow.log_likelihood(model, x, divergence="hutchinson", probes=probes)
    each = [
        flow.log_likelihood(model, x, divergence="hutchinson", probes=v[None], max_batch=2)
        for v in probes
    ]
    torch.testing.assert_close(both.log_det, (each[0].log_det + each[1].log_det) / 2)
    assert each[0].standard_error.isnan().all() and both.standard_error.isfinite().all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"probes": torch.ones(5, 2, 3)}, ShapeError, "probes of shape"),
        ({"probes": torch.ones(0, 5, 2, 3)}, ShapeError, "probes of shape"),
        ({"probes": torch.full((1, 5, 2, 3), math.nan)}, ParameterError, "finite probes"),
        ({"probes": torch.ones(1, 5, 2, 3), "divergence": "exact"}, IncompatibleError, "own"),
    ],
)
def test_probes_that_do_not_fit_are_refused(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    model = model_of("vp", 1000, True, torch.float64)
    flow = ss.published.score_sde_ode(model)
    with pytest.raises(error, match=message):
        flow.log_likelihood(model, noises(1)[0], **{"divergence": "hutchinson", **options})


def test_refusals() -> None:
    with pytest.raises(IncompatibleError, match="continuous SDE"):
        ss.published.score_sde_ode(ss.DiscreteVPSDE.linear(10))
    with pytest.raises(ScheduleError, match="eps"):
        ss.published.score_sde_ode(ss.VPSDE(), eps=0.0)
    with pytest.raises(ScheduleError, match="below 1"):
        ss.published.score_sde_ode(ss.VPSDE(), num_scales=10)
    with pytest.raises(IncompatibleError, match="method among rk45"):
        ss.published.ScoreSDEFlow(ss.VPSDE(), method="rk4")
    with pytest.raises(ParameterError, match="steps"):
        ss.published.ScoreSDEFlow(ss.VPSDE(), steps=4)


def test_a_solver_that_gives_up_says_so() -> None:
    def rough(x: Tensor, t: Tensor) -> Tensor:
        return x.abs().pow(-3) * 1e6 * (40 * x).sin()

    flow = ss.published.ScoreSDEFlow(ss.VPSDE(), max_evaluations=200)
    with pytest.raises(ss.errors.DivergenceError, match="gave up"):
        flow.decode(rough, torch.ones(2, 2))
