"""A loss: its values, their mean, and weights, by numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sdescore.losses import Loss

pytestmark = pytest.mark.fast

VALUES = torch.tensor([0.5, -2.0, 7.25, 1.0], dtype=torch.float64)


@pytest.mark.parametrize("weight", [2.5, [0.0, 1.0, 3.0, 0.5]])
def test_each_value_times_its_weight_and_the_mean_of_them(weight: float | list[float]) -> None:
    loss = Loss.of(VALUES).weighted(torch.tensor(weight))
    expected = np.array(weight) * VALUES.numpy()
    np.testing.assert_allclose(loss.per_sample, expected, rtol=1e-15)
    assert loss.mean.item() == pytest.approx(expected.sum() / 4, rel=1e-15)
    assert loss.per_sample.dtype == torch.float64  # the weight's float32 does not win


def test_no_weight_leaves_it_alone() -> None:
    loss = Loss.of(VALUES)
    assert loss.weighted(None) is loss
    per_sample, mean = loss
    assert torch.equal(per_sample, VALUES) and mean.item() == pytest.approx(6.75 / 4)


def test_a_weight_weighs_the_gradient() -> None:
    """∂/∂x of the mean of w x² is 2 w x / 4."""
    x, w = VALUES.clone().requires_grad_(), torch.tensor([0.0, 1.0, 3.0, 0.5])
    Loss.of(x.square()).weighted(w).mean.backward()
    torch.testing.assert_close(x.grad, w * VALUES / 2)
