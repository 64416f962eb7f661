"""The likelihood of data that the model standardises: the Jacobian of a change of variables."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import Covariance, multivariate_normal
from torch import Tensor, nn

import sdescore as ss
from tests.helpers.standardised import MEAN, STD, VP, by_hand, exact, plain

# With data_std=1 the prior is p_T itself, so the density is exact up to the solver.
FLOW = ss.ProbabilityFlow(VP, data_std=1.0, rtol=1e-7, atol=1e-7)


def data(n: int = 6) -> Tensor:
    return by_hand(torch.randn(n, 3, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_it_is_scipys_normal_density(divergence: str) -> None:
    """Hutchinson's probes are exact here, for the score's Jacobian is −I."""
    x = data()
    found = FLOW.log_likelihood(exact(), x, divergence=divergence, probes=2)
    density = multivariate_normal(MEAN, Covariance.from_diagonal([s**2 for s in STD]))
    assert found.log_prob.numpy() == pytest.approx(density.logpdf(x.numpy()), abs=1e-4)
    normal = torch.distributions.Normal(0.0, 1.0)
    by_latent = normal.log_prob(found.latent).sum(1) + found.log_det
    assert found.log_prob.numpy() == pytest.approx(by_latent.numpy(), abs=1e-4)


def test_through_wrappers_too() -> None:
    x, own = data(2), FLOW.log_likelihood(exact(), data(2)).log_prob
    for score in (nn.DataParallel(exact()), ss.classifier_free(exact(), exact(), 1.0)):
        assert torch.allclose(FLOW.log_likelihood(score, x).log_prob, own)


def test_channels_count_with_all_their_elements() -> None:
    model = ss.ScoreModel(lambda x, c: -x, VP, "score", data_mean=[1.0, 2.0], data_std=[0.1, 5.0])
    x = torch.randn(2, 2, 3, 4, dtype=torch.float64)
    mean, std = (torch.tensor(v).double().reshape(2, 1, 1) for v in ([1.0, 2.0], [0.1, 5.0]))
    expected = torch.distributions.Normal(mean, std).log_prob(x).sum((1, 2, 3))
    found = FLOW.log_likelihood(model, x).log_prob
    assert found.numpy() == pytest.approx(expected.numpy(), rel=1e-6)


def test_bits_are_those_of_the_data() -> None:
    """Bytes in [−1, 1] of which the model takes 2 for its unit: a bit more than of its states."""
    model = ss.ScoreModel(lambda x, c: -x, VP, "score", data_std=2.0)
    x = torch.full((1, 3), 0.4, dtype=torch.float64)
    own = FLOW.log_likelihood(model, x).log_prob
    states = FLOW.log_likelihood(plain(), x / 2).log_prob
    bits, fewer = (ss.bits_per_dim(p, 3, levels=256, width=2.0) for p in (own, states))
    assert (bits - fewer).item() == pytest.approx(1.0)
    assert (own - states).item() == pytest.approx(-3 * math.log(2))


def test_encoding_takes_data_and_decoding_gives_them() -> None:
    x = data()
    latent = FLOW.encode(exact(), x)
    z = (x - torch.tensor(MEAN, dtype=torch.float64)) / torch.tensor(STD, dtype=torch.float64)
    assert torch.allclose(latent, FLOW.encode(plain(), z), atol=1e-9)
    back = FLOW.decode(exact(), latent)
    assert torch.allclose(back, x, rtol=1e-5, atol=1e-8)
