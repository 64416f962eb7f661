"""DiffPIR: the denoised state is the minimiser that the paper says, without a derivative."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import sdescore as ss
from tests.helpers.exact_scores import close, every_sde, normal

inverse, VP, F64 = ss.inverse, ss.VPSDE(), torch.float64
C = torch.tensor([[1.0, 0.6, 0.1], [0.6, 0.8, 0.3], [0.1, 0.3, 0.5]], dtype=F64)
PRIOR = ss.GaussianScore(torch.tensor([0.5, -1.0, 0.2]), C, VP)
A, Y = normal(2, 3, seed=1), normal(2, seed=2)
SEEN = inverse.Measurement(Y, inverse.Matrix(A), 0.3)


@every_sde
def test_the_denoised_state_is_the_least_of_the_papers_objective(sde):
    """Normal equations of |y − A x|²/σ_y² + ζ α²/σ² |x − x̂₀|², solved by torch."""
    prior, x, zeta = PRIOR.under(sde), normal(5, 3, seed=3), 4.0
    t = sde.time_at_log_snr(0.7)
    alpha, sigma = sde.marginal(t)
    x0 = prior.denoise(x, t)
    weight = zeta * (alpha / sigma) ** 2
    matrix = A.T @ A / 0.3**2 + weight * torch.eye(3, dtype=F64)
    expected = torch.linalg.solve(matrix, (Y @ A / 0.3**2 + weight * x0).T).T
    guided = inverse.diffpir(prior, SEEN, strength=zeta)
    close((x + sigma.square() * guided(x, t)) / alpha, expected, 1e-9)


def test_without_noise_it_explains_the_measurement():
    exact = inverse.Measurement(Y, inverse.Matrix(A), 0.0)
    sampler = ss.PredictorCorrector(VP, predictor=ss.DDIM(eta=1.0), steps=10)
    x = sampler.sample(inverse.diffpir(PRIOR, exact), (4, 3), dtype=F64, max_batch=3)
    close(x @ A.T, Y.expand(4, 2), 1e-9)


def test_a_nonlinear_operator_stands_in_by_its_derivative():
    """One Gauss–Newton step: the linear operator J about x̂₀, with the residual there."""
    square = inverse.Callable(lambda x: x[:, :2] ** 2, (3,))
    x, t = normal(1, 3, seed=3), 0.4
    x0 = PRIOR.denoise(x, t)[0]
    J = torch.zeros(2, 3, dtype=F64)
    J[0, 0], J[1, 1] = 2 * x0[0], 2 * x0[1]
    shifted = Y - x0[:2] ** 2 + J @ x0
    linear = inverse.diffpir(PRIOR, inverse.Measurement(shifted, inverse.Matrix(J), 0.3))
    found = inverse.diffpir(PRIOR, inverse.Measurement(Y, square, 0.3))
    close(found(x, t), linear(x, t), 1e-5)


def test_it_asks_for_no_derivative_and_one_call():
    class Counting(torch.nn.Module):
        sde, calls = VP, 0

        @torch.no_grad()
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            self.calls += 1
            return PRIOR(x, t)

    score = Counting()
    guided = inverse.diffpir(score, SEEN)
    with torch.inference_mode():
        guided(normal(2, 3), torch.tensor(0.5))
    assert score.calls == 1


def test_rows_of_y_follow_their_samples():
    y, x = normal(4, 2, seed=5), normal(4, 3)
    guided = inverse.diffpir(PRIOR, SEEN)
    found = guided(x, 0.5, {"measurement": y})
    for row in range(4):
        one = inverse.diffpir(PRIOR, inverse.Measurement(y[row], inverse.Matrix(A), 0.3))
        close(found[row], one(x, 0.5)[row], 1e-9)


def test_a_standardised_model_is_pulled_in_the_units_of_the_data():
    class Net(torch.nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return PRIOR(x, t)

    model = ss.ScoreModel(Net(), VP, "score", data_mean=10.0, data_std=2.0)
    scaled = inverse.Measurement(10 * A.sum(1) + 2 * Y, inverse.Matrix(A), 0.6)
    x = normal(4, 3)
    close(inverse.diffpir(model, scaled)(x, 0.5), inverse.diffpir(PRIOR, SEEN)(x, 0.5), 1e-6)


@pytest.mark.parametrize("strength", [0.5, 3.0])
def test_the_strength_is_that_of_the_prior(strength):
    """Gaussian data of small variance: the covariance of x₀ given the state is σ²/(α² ζ)."""
    x, t = normal(3, 3), 0.5
    alpha, sigma = VP.marginal(t)
    mean = PRIOR.denoise(x, t)
    for row in range(3):
        near = ss.GaussianScore(mean[row], (sigma / alpha) ** 2 / strength, VP)
        expected = near.posterior(A, Y, 0.3).means[0]
        guided = inverse.diffpir(PRIOR, SEEN, strength=strength)(x, t)[row]
        close((x[row] + sigma**2 * guided) / alpha, expected, 1e-9)
