"""Preconditioned Langevin, and what the correctors refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import sdescore as ss
from sdescore.correctors.mala import MALA
from sdescore.correctors.underdamped import Underdamped
from sdescore.langevin.preconditioner import Preconditioner
from sdescore.score.mixture import MixtureScore
from tests.helpers.correctors import SDE


def covariance(d: int) -> Tensor:
    root = torch.randn(d, d, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
    return root @ root.T + 0.1 * torch.eye(d, dtype=torch.float64)


@pytest.mark.parametrize("norm", ["expected", "sample", "batch"])
@pytest.mark.parametrize("full", [True, False])
def test_the_preconditioned_step_is_the_plain_one_of_whitened_states(full: bool, norm: str) -> None:
    """With P_t = α²C + σ²I, x̃ = P_t^{-1/2}x has the score P_t^{1/2}s: the plain step with σ = 1."""
    d, B, t, snr = 3, 6, 0.3, 0.2
    C = covariance(d) if full else torch.diag(torch.tensor([0.1, 0.5, 2.0], dtype=torch.float64))
    alpha, sigma = (v.item() for v in SDE.marginal(t))
    P = alpha**2 * C + sigma**2 * torch.eye(d, dtype=torch.float64)
    values, vectors = np.linalg.eigh(P.numpy())
    root = torch.from_numpy(vectors @ np.diag(np.sqrt(values)) @ vectors.T)
    x, s, z = torch.randn(3, B, d, dtype=torch.float64)
    given = Preconditioner.full(C) if full else Preconditioner.diagonal(C.diagonal())
    corrector = ss.Langevin(snr=snr, norm=norm, preconditioner=given)
    assert not corrector.is_affine(SDE)
    got = corrector.step(SDE, x, lambda _: s, t, z)

    tilde, white = torch.linalg.solve(root, x.T).T, s @ root
    z_norm, s_norm = z.square().sum(1).sqrt(), white.square().sum(1).sqrt()
    if norm == "batch":
        z_norm, s_norm = z_norm.mean(), s_norm.mean()
    ratio = torch.ones((), dtype=torch.float64) if norm == "expected" else z_norm / s_norm
    tau = (2 * (snr * ratio) ** 2).reshape(-1, 1)
    expected = (tilde + tau * white + (2 * tau).sqrt() * z) @ root
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)


def test_a_wide_and_a_narrow_direction_are_corrected_alike() -> None:
    """Gaussian data of condition 10⁴, at t where σ is small: exact distribution of many steps,
    mode by mode.

    The step is linear in x and z: ones in turn give its coefficients. Each mode of the exact
    score then has the factor 1 − 2 snr², whatever its variance.
    """
    t, snr = 0.01, 0.4
    C = torch.tensor([1e-2, 1e2], dtype=torch.float64)
    sde = ss.VESDE(sigma_min=1e-3, sigma_max=50.0)
    exact = ss.GaussianScore([0.0, 0.0], C, sde)
    corrector = ss.Langevin(snr=snr, preconditioner=Preconditioner.diagonal(C))
    one, zero = torch.ones(1, 2, dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64)
    a = corrector.step(sde, one, lambda x: exact(x, t), t, zero)
    c = corrector.step(sde, zero, lambda x: exact(x, t), t, one)
    torch.testing.assert_close(a, (1 - 2 * snr**2) * one, rtol=1e-12, atol=0.0)
    S = C + sde.marginal(t)[1] ** 2
    torch.testing.assert_close(c**2 / (1 - a**2), (S / (1 - snr**2))[None], rtol=1e-12, atol=0.0)


def test_a_preconditioner_in_a_sampler() -> None:
    C = Preconditioner.full([[0.5, 0.4], [0.4, 0.5]])
    score = MixtureScore([1.0], [[0.0, 0.0]], [[[0.5, 0.4], [0.4, 0.5]]], SDE)
    sampler = ss.PredictorCorrector(
        SDE,
        predictor=ss.ReverseDiffusion(),
        corrector=ss.Langevin(snr=0.2, steps=2, preconditioner=C),
        steps=100,
    )
    x = sampler.sample(score, (20_000, 2))
    got = torch.cov(x.T)
    # Bias of the step 4 %, of the predictor less; 1e-6 band of a variance 5 %.
    torch.testing.assert_close(got, torch.tensor([[0.5, 0.4], [0.4, 0.5]]), rtol=0.09, atol=0)
    assert sampler.evaluations == 100 + 2 * 99


def test_correctors_compare_and_hash() -> None:
    def make() -> ss.Langevin:
        return ss.Langevin(preconditioner=Preconditioner.diagonal([0.3, 1.0]))

    assert make() == make() and len({make(), make(), ss.Langevin()}) == 2
    assert Underdamped() == Underdamped() != Underdamped(friction=2.0)
    assert MALA() == MALA() and len({MALA(), MALA(steps=2)}) == 2


@pytest.mark.parametrize("first", [False, True])
def test_a_preconditioner_of_another_shape_is_refused(first: bool) -> None:
    calls: list[int] = []
    for P in (Preconditioner.diagonal([0.3, 1.0]), Preconditioner.full([[1.0]])):
        corrector = ss.Langevin(preconditioner=P)
        with pytest.raises(ss.errors.ShapeError, match="preconditioner"):
            corrector.check_event((3,))
        sampler = ss.PredictorCorrector(
            SDE,
            predictor=ss.ReverseDiffusion(),
            corrector=corrector,
            steps=4,
            corrector_first=first,
        )
        with pytest.raises(ss.errors.ShapeError, match="preconditioner"):
            sampler.sample(lambda x, t: calls.append(1) or -x, (2, 3))  # type: ignore[func-returns-value]
    assert not calls
    ss.Langevin().check_event((3,))
    MALA().check_event((3,))
