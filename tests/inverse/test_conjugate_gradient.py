"""Conjugate gradients: each sample stops alone, also where a matrix is no covariance."""

from __future__ import annotations

import torch

from sdescore.inverse.conjugate_gradient import conjugate_gradient
from tests.helpers.posteriors import F64


def test_conjugate_gradients_stop_alone_and_where_a_matrix_is_no_covariance() -> None:
    H = torch.tensor([[4.0, 1.0, 0.0], [1.0, 3.0, 0.0], [0.0, 0.0, -2.0]], dtype=F64)
    b = torch.tensor(
        [[1.0, 2.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]], dtype=F64
    )
    together = conjugate_gradient(lambda u: u @ H, b, 9, 1e-12)
    assert not together[1:3].any()
    torch.testing.assert_close(together[::3] @ H, b[::3])
    for i in range(4):
        alone = conjugate_gradient(lambda u: u @ H, b[i : i + 1], 9, 1e-12)
        torch.testing.assert_close(together[i], alone[0], rtol=1e-12, atol=1e-14)
    short = conjugate_gradient(lambda u: u @ H, b[:1], 1, 0.0)  # the steepest descent from 0
    torch.testing.assert_close(short, b[:1] * (b[0] @ b[0]) / (b[0] @ H @ b[0]))
