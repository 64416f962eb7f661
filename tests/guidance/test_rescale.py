"""The rescaled guidance of Lin et al. 2023, by the formulas of the paper on v."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sdescore as ss

VP = ss.VPSDE()
SHAPE = (4, 2, 3, 3)


class Network(nn.Module):
    def forward(self, x: Tensor, c: Tensor, label: Tensor | None = None) -> Tensor:
        shift = 0 if label is None else label.to(x)[:, None, None, None]
        return torch.tanh(2 * x + shift) + 0.3 * shift * x.flip(3) + c[:, None, None, None]


MODEL = ss.ScoreModel(Network(), VP, prediction="v")
LABEL = torch.tensor([1, 2, 3, -2])


def noise(seed: int = 0) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("phi", [0.3, 0.7, 1.0])
@pytest.mark.parametrize("t", [torch.tensor(0.1), torch.tensor([0.05, 0.3, 0.7, 1.0])])
def test_the_guided_v_has_the_papers_standard_deviation(phi: float, t: Tensor) -> None:
    """numpy on the network's own v, each sample by itself; the std of its elements."""
    x, times = noise(), t.double().expand(4)
    with torch.no_grad():
        v1 = Network()(x, times, LABEL).numpy()
        v0 = Network()(x, times).numpy()
    expected = []
    for one, zero in zip(v1, v0, strict=True):
        guided = zero + 4.0 * (one - zero)
        rescaled = guided * (np.std(one, ddof=1) / np.std(guided, ddof=1))
        expected.append(phi * rescaled + (1 - phi) * guided)
    score = ss.classifier_free(MODEL.double(), MODEL, 4.0, rescale=phi)(x, times, LABEL)
    found = ss.convert(score, x, *VP.marginal(times), "score", "v")
    torch.testing.assert_close(found, torch.from_numpy(np.stack(expected)), rtol=1e-5, atol=1e-5)


def test_two_numbers_are_rescaled() -> None:
    """The least that have a spread: half the difference is all of it."""
    one, zero = (ss.GaussianScore([m, 0.0], 0.5, VP) for m in (2.0, -1.0))
    x, t = noise().reshape(-1, 2)[:5], torch.tensor(0.4, dtype=torch.float64)
    plain, found = (
        ss.convert(score(x, t), x, *VP.marginal(t), "score", "v")
        for score in (one, ss.classifier_free(one, zero, 3.0, rescale=1.0))
    )
    spread, wanted = ((v[:, 0] - v[:, 1]).abs() for v in (found, plain))
    torch.testing.assert_close(spread, wanted, rtol=1e-9, atol=0)


def test_nothing_to_rescale() -> None:
    """φ = 0, ω = 1, an event of one number, and a v that is 0 in all elements."""
    x, t = noise(), torch.tensor(0.4)
    plain, one = ss.classifier_free(MODEL, MODEL, 3.0), MODEL(x, t, LABEL)
    none = ss.classifier_free(MODEL, MODEL, 3.0, rescale=0.0)
    assert torch.equal(plain(x, t, LABEL), none(x, t, LABEL))
    same = ss.classifier_free(MODEL, MODEL, lambda t: 1.0, rescale=0.9)(x, t, LABEL)
    torch.testing.assert_close(same, one)
    single, wide = (ss.GaussianScore([0.0], v, VP) for v in (1.0, 2.0))
    y = torch.ones(3, 1)
    pair = [ss.classifier_free(single, wide, 3.0, rescale=phi)(y, t) for phi in (0.0, 1.0)]
    assert torch.equal(*pair)
    flat = ss.GaussianScore(torch.zeros(2), 1.0, VP)  # x + s = 0
    assert ss.classifier_free(flat, flat, 3.0, rescale=1.0)(y.expand(3, 2), t).isfinite().all()
