"""Projection and RePaint: the measured part, the part that was not, the noise, the requests.

Statistical bounds are 5 standard errors, each with a false-positive rate of 6e-7.
"""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor

import sdescore as ss
from tests.helpers.exact_scores import every_sde, normal

inverse, VP = ss.inverse, ss.VPSDE()
F64 = torch.float64
FIRST = inverse.Mask(torch.tensor([True, False]))
C = torch.tensor([[1.0, 0.9], [0.9, 1.0]], dtype=F64)
CORRELATED = ss.GaussianScore(torch.zeros(2), C, VP)


def seen(y: float, noise: float = 0.0) -> ss.inverse.Measurement:
    return inverse.Measurement(torch.tensor([y]), FIRST, noise)


OPERATORS = {
    "mask": inverse.Mask(torch.arange(16).reshape(1, 4, 4) % 3 == 0),
    "blur": inverse.Blur(torch.tensor([0.2, 0.6, 0.2]), (1, 4, 4)),
    "downsample": inverse.Downsample(2, (1, 4, 4)),
    "matrix": inverse.Matrix(normal(5, 16), (1, 4, 4)),
}


@pytest.mark.parametrize("A", OPERATORS.values(), ids=OPERATORS)
@pytest.mark.parametrize("kind", [inverse.Projection, inverse.RePaint])
def test_without_noise_the_result_is_what_was_measured(A, kind):
    y = A(normal(1, 1, 4, 4, seed=3))[0]
    sampler = kind(VP, measurement=inverse.Measurement(y, A, 0.0), steps=12)
    score = ss.GaussianScore(torch.zeros(1, 4, 4), 1.0, VP)
    x = sampler.sample(score, (3, 1, 4, 4), dtype=F64)
    assert (A(x) - y).abs().max() <= 1e-10
    assert x.std(0).max() > 0.1 or isinstance(A, inverse.Blur)  # which leaves nothing to draw


@every_sde
def test_every_sde(sde):
    """Independent elements: what is not seen is a draw of the prior."""
    score = ss.GaussianScore(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.25]), sde)
    measurement = inverse.Measurement(torch.tensor([0.5]), FIRST, 0.0)
    options = {} if hasattr(sde, "levels") else {"steps": 60}
    x = inverse.Projection(sde, measurement=measurement, **options).sample(score, (2000, 2))
    assert (x[:, 0] - 0.5).abs().max() <= 1e-6
    assert abs(x[:, 1].mean() - 1) <= 5 * 0.5 / 2000**0.5 + 0.01
    assert abs(x[:, 1].std() - 0.5) <= 5 * 0.5 / 4000**0.5 + 0.06  # 17 levels lose some


@pytest.mark.guards("M07")
@pytest.mark.parametrize("kind", [inverse.Projection, inverse.RePaint])
def test_the_rest_is_denoised_and_not_mixed_with_noise(kind):
    """Two data: each result is one of them, although the grid ends at much noise."""
    data = torch.tensor([[-1.0, -1.0], [1.0, 1.0]])
    score = ss.EmpiricalScore(data, VP)
    t = VP.time_at_log_snr(torch.tensor([-8.0, -4.0, 0.0, 2.8])).tolist()  # σ/α ends at 0.25
    x = kind(VP, measurement=seen(1.0), grid=t).sample(score, (500, 2))
    assert (x[:, 0] - 1).abs().max() <= 1e-6
    assert (x[:, 1].abs() - 1).abs().median() <= 1e-4


def test_noise_of_the_measurement_is_a_noised_state():
    """y = x₀ + n of all elements: projection down to its noise, then the score: no bias."""
    score = ss.GaussianScore(torch.zeros(2), C, VP)
    y, noise = torch.tensor([1.0, -0.5], dtype=F64), 0.5
    measurement = inverse.Measurement(y, inverse.Matrix(torch.eye(2)), noise)
    x = inverse.Projection(VP, measurement=measurement, steps=400).sample(score, (8000, 2))
    exact = C - C @ torch.linalg.solve(C + noise**2 * torch.eye(2), C)
    mean = C @ torch.linalg.solve(C + noise**2 * torch.eye(2), y)
    error = 5 * exact.diagonal().sqrt() / 8000**0.5
    assert bool(((x.mean(0) - mean).abs() <= error + 0.01).all())
    assert (torch.cov(x.T) - exact).abs().max() <= 5 * 2**0.5 * exact.max() / 8000**0.5 + 0.005


def conditional_error(sampler: ss.inverse.Projection) -> tuple[float, float]:
    """Of mean and std of x₂ | x₁ = 1 on correlated data."""
    x = sampler.sample(CORRELATED, (4000, 2))[:, 1]
    return abs(x.mean().item() - 0.9), abs(x.std().item() - 0.19**0.5)


def test_rewinds_make_the_rest_fit():
    """Bounds: 5 standard errors of 4,000 draws (0.034, 0.024), and what is left after 20 runs."""
    few = conditional_error(inverse.Projection(VP, measurement=seen(1.0), steps=50))
    options = {"measurement": seen(1.0), "steps": 50, "jump": 5, "resamplings": 20}
    many = conditional_error(inverse.RePaint(VP, **options))
    assert few[0] > 0.1
    assert many[0] <= 0.034 + 0.02
    assert many[1] <= 0.024 + 0.02


def test_a_rewind_draws_noise_of_its_own():
    sampler = inverse.RePaint(VP, measurement=seen(1.0), steps=9, jump=4, resamplings=3)
    draws = [draw for row in sampler.program.rows for draw in row.draws if draw >= 0]
    assert draws == list(range(1, len(sampler.program.spans)))
    # 24 moves and 4 rewinds; a projection before each move and at the last time.
    assert len(draws) == 24 + 4 + 25


def test_one_run_is_projection():
    score, y = CORRELATED, seen(1.0)
    one = inverse.RePaint(VP, measurement=y, steps=9, resamplings=1).sample(score, (5, 2))
    assert torch.equal(one, inverse.Projection(VP, measurement=y, steps=9).sample(score, (5, 2)))


@pytest.mark.parametrize(
    ("jump", "resamplings", "evaluations"), [(1, 3, 31), (5, 2, 21), (7, 2, 21)]
)
def test_what_a_sample_costs(jump, resamplings, evaluations):
    sizes = {"jump": jump, "resamplings": resamplings}
    sampler = inverse.RePaint(VP, measurement=seen(1.0), steps=11, **sizes)
    assert sampler.evaluations == evaluations


def test_rewinds_end_where_the_state_alone_remembers():
    grid = VP.time_at_log_snr(torch.tensor([-6.0, -4.0, -2.0, 0.0, 2.0, 4.0])).tolist()
    options = {"grid": grid, "jump": 1, "resamplings": 2}
    # The noise 1 is that of the state at log-SNR 0: 3 of 5 moves are run twice.
    assert inverse.RePaint(VP, measurement=seen(1.0, 1.0), **options).evaluations == 3 + 5 + 1
    assert inverse.RePaint(VP, measurement=seen(1.0, 0.0), **options).evaluations == 5 + 5 + 1


def elementwise(x: Tensor, t: Tensor) -> Tensor:
    return -torch.tanh(x) / (0.1 + t)


@pytest.mark.parametrize("kind", [inverse.Projection, inverse.RePaint])
def test_a_sample_depends_on_its_seed_and_index_alone(kind):
    options = {"corrector": ss.Langevin(0.1), "steps": 8, "measurement": seen(0.3, 0.1)}
    sampler = kind(VP, **options)
    x = sampler.sample(elementwise, (7, 2), seed=3)
    assert torch.equal(x, sampler.sample(elementwise, (7, 2), seed=3, max_batch=2))
    assert torch.equal(x[2:5], sampler.sample(elementwise, (7, 2), seed=3, samples=range(2, 5)))
    assert not torch.equal(x, sampler.sample(elementwise, (7, 2), seed=4))
    states = list(sampler.iterate(elementwise, (7, 2), seed=3))
    assert torch.equal(states[-1].x, x)
    assert [state.step for state in states] == list(range(1, len(states) + 1))
    middle = copy.deepcopy(states[len(states) // 2])
    rest = list(sampler.iterate(elementwise, (7, 2), seed=3, start=middle))
    assert not torch.equal(rest[-1].x, x)  # a rewind by hand draws noise of its own as well
    for made in (pickle.loads(pickle.dumps(sampler)), copy.copy(sampler)):
        assert torch.equal(made.sample(elementwise, (7, 2), seed=3), x)


@pytest.mark.parametrize("noise", [0.0, 1.5])
def test_a_standardised_model_is_measured_in_the_units_of_the_data(noise):
    """x = 30 + 4 z, y = 30 + 4 y′ + 4 n′: the same numbers as of z, on another scale."""
    model = ss.ScoreModel(Correlated(), VP, "score", data_mean=30.0, data_std=4.0)
    scaled = inverse.Projection(VP, measurement=seen(33.0, 4 * noise), steps=20)
    plain = inverse.Projection(VP, measurement=seen(0.75, noise), steps=20)
    x, z = scaled.sample(model, (50, 2)), plain.sample(CORRELATED, (50, 2))
    assert (x - (30 + 4 * z)).abs().max() <= 1e-4


class Correlated(torch.nn.Module):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return CORRELATED(x, t)
