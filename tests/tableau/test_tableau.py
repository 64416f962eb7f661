"""What a tableau means: its step by hand, its step against the optimised loop, what it costs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import sdescore as ss
from sdescore.score.parameterization import conversion, pair
from sdescore.tableau.tableau import Tableau, no_stages
from tests.helpers import methods

pytestmark = pytest.mark.fast

F64 = torch.float64
SDE = ss.VPSDE()
SCORE = ss.MixtureScore(
    torch.tensor([0.3, 0.7], dtype=F64),
    torch.tensor([[1.0, -1.0, 0.5], [-0.5, 0.8, 0.0]], dtype=F64),
    torch.tensor([[0.2, 0.5, 1.0], [0.4, 0.1, 0.3]], dtype=F64),
    SDE,
)


def output(kind: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The exact score, in the representation that a tableau asks for."""

    def model(y: Tensor, t: Tensor) -> Tensor:
        alpha_t, sigma_t = SDE.marginal(t)
        u, w = conversion(
            alpha_t, sigma_t, pair("score", alpha_t, sigma_t), pair(kind, alpha_t, sigma_t)
        )
        return u * y + w * SCORE(y, t)

    return model


def by_steps(sampler: ss.PredictorCorrector, z: Tensor) -> Tensor:
    """The predictor-first chain of affine parts by ``Tableau.step``, each noise drawn in turn."""
    moves = sampler.predictor.tableau(SDE, sampler.times)
    corrections = sampler.corrector.tableau(SDE, sampler.times)
    ending = sampler.predictor.ending(SDE, sampler.times)
    x, draws = SDE.prior_std() * z[0], iter(z[1:])
    outputs: list[Tensor] = []

    def step(tableau: Tableau, n: int, past: list[Tensor]) -> Tensor:
        used = (tableau.c[n] != 0).any(0)
        if tableau.start is not None:
            used = used | (tableau.start[1][n] != 0)
        own = [next(draws) if u else torch.full_like(x, torch.nan) for u in used]
        own = [torch.zeros_like(o) if bool(o.isnan().any()) else o for o in own]
        return tableau.step(n, x, past, output(tableau.output), own)

    for n in range(len(moves)):
        x = step(moves, n, outputs)
        for _ in range(sampler.corrector.calls):
            x = step(corrections, n + 1, [])
    return step(ending, 0, outputs) if sampler.denoise else x


AFFINE = [c for c in methods.CORRECTORS if c.is_affine(SDE) and c.steps < 10]


@pytest.mark.parametrize("corrector", AFFINE, ids=repr)
@pytest.mark.parametrize("predictor", methods.PREDICTORS, ids=repr)
def test_the_loop_computes_what_the_tableaux_say(
    predictor: ss.Predictor, corrector: ss.Corrector
) -> None:
    """Every predictor with every corrector on data that are not Gaussian, in float64."""
    steps = predictor.grid_times or 6
    sampler = ss.PredictorCorrector(SDE, predictor=predictor, corrector=corrector, steps=steps)
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(len(sampler.program.spans), 5, 3, dtype=F64, generator=generator)
    got = sampler.sample(SCORE, (5, 3), noise=ss.noise.ReplayNoise(z), dtype=F64)
    torch.testing.assert_close(got, by_steps(sampler, z), rtol=1e-11, atol=1e-11)


def numbers(*shape: int) -> Tensor:
    return torch.arange(1, 1 + torch.Size(shape).numel(), dtype=F64).reshape(shape) / 10


def test_one_step_by_hand() -> None:
    """Two stages, three outputs, two noises and a start, each number its own."""
    times, a, b, c = numbers(4, 2), numbers(4, 2), numbers(4, 2, 3), numbers(4, 2, 2)
    tableau = Tableau(times, a, b, c, start=(numbers(4), numbers(4, 2)))
    x, first, second, *z = torch.randn(5, 3, 2, dtype=F64)
    outputs, before = [first, second], x.clone()
    got = tableau.step(1, x, outputs, lambda y, t: t * y.sin(), z)
    y0 = 0.2 * x + 0.3 * z[0] + 0.4 * z[1]
    o0 = 0.3 * y0.sin()
    y1 = 0.3 * x + 0.7 * o0 + 0.8 * first + 0.9 * second + 0.5 * z[0] + 0.6 * z[1]
    o1 = 0.4 * y1.sin()
    expected = 0.4 * x + 1.0 * o1 + 1.1 * o0 + 1.2 * first + 0.7 * z[0] + 0.8 * z[1]
    torch.testing.assert_close(got, expected, rtol=1e-14, atol=1e-14)
    assert torch.equal(x, before)
    assert len(outputs) == 3
    torch.testing.assert_close(torch.stack(outputs), torch.stack([o1, o0, first]))


def test_no_stages_are_the_identity() -> None:
    x = torch.randn(3, 2)
    assert no_stages(4).step(2, x, [], lambda y, t: y, []) is x
    assert (len(no_stages(4)), no_stages(4).evaluations, no_stages(4).noises) == (4, 0, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_step_keeps_the_dtype_of_the_state(dtype: torch.dtype) -> None:
    tableau = ss.predictors.Heun().tableau(SDE, torch.tensor([0.9, 0.5], dtype=F64))
    x = torch.ones(2, 3, dtype=dtype)
    assert tableau.step(0, x, [], lambda y, t: y, []).dtype == dtype


@pytest.mark.parametrize("method", [*methods.PREDICTORS, *AFFINE], ids=repr)
def test_what_a_method_costs_is_what_a_sampler_pays(
    method: ss.Predictor | ss.Corrector,
) -> None:
    """Counted calls of the model, and draws of the program."""
    calls = 0

    def counted(x: Tensor, t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return SCORE(x, t)

    n = (method.grid_times or 5) - 1
    part = "predictor" if isinstance(method, ss.Predictor) else "corrector"
    parts = {"predictor": ss.NoPredictor(), part: method}
    sampler = ss.PredictorCorrector(SDE, **parts, steps=n, denoise=False, grid=SDE.default_grid)
    times = len(sampler.times) - 1
    runs = times * (method.calls if part == "corrector" else 1)
    sampler.sample(counted, (2, 3))
    assert calls == sampler.evaluations == runs * method.evaluations
    assert len(sampler.program.spans) == 1 + runs * method.noises - churn_at_the_start(method)
    assert method.stochastic == (method.noises > 0)


def churn_at_the_start(method: ss.Predictor | ss.Corrector) -> int:
    """A churned step that starts at T has nowhere to go back to, and draws nothing."""
    return int(isinstance(method, ss.predictors.Heun) and method.s_churn > 0)


def test_a_noise_without_weight_costs_nothing() -> None:
    c = torch.zeros(2, 1, 3, dtype=F64)
    c[1, 0, 1] = 1.0
    one = torch.ones(2, 1, dtype=F64)
    assert Tableau(one, one, one[..., None], c).noises == 1
    start = one[:, 0], torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]], dtype=F64)
    assert Tableau(one, one, one[..., None], c, start=start).noises == 2
