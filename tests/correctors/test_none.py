"""A sampler with no corrector is its predictor, step by step."""

from __future__ import annotations

import pytest
import torch

import sdescore as ss
from tests.helpers.strategies import REPRESENTATIVES

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("name", REPRESENTATIVES)
@pytest.mark.parametrize("predictor", [ss.Ancestral(), ss.DDIM()], ids=repr)
def test_the_samples_are_the_predictors_steps(name: str, predictor: ss.Predictor) -> None:
    """Predictor.step by hand, each noise once, and no more evaluations than steps."""
    sde = REPRESENTATIVES[name]
    score = ss.GaussianScore([0.3, -1.0], 0.5, sde)
    grid = sde.T * torch.tensor([1.0, 0.6, 0.3, 0.1], dtype=torch.float64)
    sampler = ss.PredictorCorrector(
        sde, predictor=predictor, corrector=ss.NoCorrector(), grid=grid.tolist(), denoise=False
    )
    z = torch.randn(4, 3, 2, dtype=torch.float64)
    noise = ss.noise.ReplayNoise(z if predictor.stochastic else z[:1])
    got = sampler.sample(score, init=z[0], noise=noise, dtype=torch.float64)
    x = z[0]
    for n, (t, s) in enumerate(zip(grid[:-1].tolist(), grid[1:].tolist(), strict=True)):
        x = predictor.step(sde, x, lambda y, n=n: score(y, grid[n]), t, s, z[n + 1])
    torch.testing.assert_close(got, x, rtol=1e-11, atol=1e-12)
    assert sampler.evaluations == 3


def test_a_sampler_without_a_corrector_is_the_same_bit_for_bit() -> None:
    sde = ss.VPSDE()
    score = ss.GaussianScore([0.3, -1.0], 0.5, sde)
    options = {"predictor": ss.Ancestral(), "steps": 7}
    plain, none = (
        ss.PredictorCorrector(sde, **options, **more)
        for more in ({}, {"corrector": ss.NoCorrector()})
    )
    assert torch.equal(plain.sample(score, (5, 2), seed=3), none.sample(score, (5, 2), seed=3))
    assert none.evaluations == plain.evaluations
    assert [row.move.corrects for row in none.program.rows] == [False] * len(none.program.rows)


def test_its_tableau_is_the_identity() -> None:
    sde, x = ss.VPSDE(), torch.randn(3, 2, dtype=torch.float64)
    times = torch.tensor([1.0, 0.5, 0.1], dtype=torch.float64)
    tableau = ss.NoCorrector().tableau(sde, times)
    assert (len(tableau), tableau.evaluations, tableau.noises) == (3, 0, 0)
    for n in range(3):
        assert torch.equal(tableau.step(n, x, [], lambda y, t: y / 0, []), x)
    assert (ss.NoCorrector().calls, ss.NoCorrector().stochastic) == (0, False)
