"""Preconditioned chains."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import sdescore as ss
from sdescore.langevin.chains import chains
from sdescore.langevin.diagnostics import effective_sample_size
from sdescore.langevin.preconditioner import Preconditioner
from tests.helpers.langevin import METHODS, replay, spd


@pytest.mark.parametrize("method", METHODS)
def test_a_preconditioned_chain_is_a_plain_one_in_other_coordinates(method: str) -> None:
    """x̃ = P^{-1/2} x, whose log density is f(P^{1/2} x̃)."""
    d, n, P = 4, 7, spd(4)
    values, vectors = torch.linalg.eigh(P)
    root = vectors @ values.sqrt().diag() @ vectors.T
    x, noise = torch.randn(6, d, dtype=torch.float64), replay(15, 6, d)

    def f(x: Tensor) -> Tensor:
        return -0.3 * (x**2).sum(1) - 0.05 * (x**4).sum(1) + torch.sin(x[:, 0] * x[:, 1])

    options: dict[str, Any] = {"method": method, "noise": noise, "temperature": 1.3}
    one = chains(ss.EnergyModel(f), x, 0.2, n, preconditioner=P, **options)
    start = torch.linalg.solve(root, x.T).T
    two = chains(ss.EnergyModel(lambda y: f(y @ root)), start, 0.2, n, **options)
    torch.testing.assert_close(one.x, two.x @ root, rtol=1e-9, atol=1e-9)
    if method == "mala":
        assert torch.equal(one.acceptance, two.acceptance)


def test_a_matrix_acts_on_the_flattened_event_and_a_diagonal_on_its_elements() -> None:
    x, noise, values = torch.randn(5, 2, 3), replay(6, 5, 2, 3), torch.rand(2, 3) + 0.1
    runs = [
        chains(torch.sin, x, 0.2, 5, preconditioner=P, noise=noise).x
        for P in (values, values.flatten().diag(), Preconditioner.diagonal(values))
    ]
    torch.testing.assert_close(runs[0], runs[1], rtol=1e-5, atol=1e-5)
    assert torch.equal(runs[0], runs[2])
    plain = chains(torch.sin, x, 0.2, 5, noise=noise).x
    half = chains(torch.sin, x, 0.4, 5, preconditioner=0.5, noise=noise).x
    torch.testing.assert_close(plain, half, rtol=1e-6, atol=1e-6)


def test_an_ill_conditioned_distribution_mixes_with_its_covariance() -> None:
    """Condition 10⁴: the plain step crosses the wide direction in 10⁴ steps, P = C in a few."""
    turn = torch.linalg.qr(torch.randn(2, 2, dtype=torch.float64))[0]
    C = turn @ torch.diag(torch.tensor([1e-4, 1.0], dtype=torch.float64)) @ turn.T
    precision = torch.linalg.inv(C)
    well = ss.EnergyModel(lambda x: -0.5 * ((x @ precision) * x).sum(1))
    x = torch.zeros(8, 2, dtype=torch.float64)

    def worth(step: float, P: Tensor | None) -> float:
        run = chains(
            well, x, step, 800, method="mala", preconditioner=P, burn_in=100, return_path=True
        )
        along = run.path @ turn
        return float(effective_sample_size(along).min())

    assert worth(0.5, C) > 1500  # of 6400
    assert worth(5e-5, None) < 200


def test_a_preconditioner_and_its_parts() -> None:
    P = spd(3)
    full, v = Preconditioner.full(P), torch.randn(5, 3, dtype=torch.float64)
    torch.testing.assert_close(full.apply(v), v @ P)
    torch.testing.assert_close(full.sqrt_apply(full.sqrt_apply(v)), v @ P)
    torch.testing.assert_close(full.quadratic(v), torch.einsum("bi,ij,bj->b", v, P, v))
    moved = full.affine(2.0, 0.5)
    torch.testing.assert_close(moved.apply(v), v @ (2 * P + 0.5 * torch.eye(3)))
    diagonal = Preconditioner.diagonal([1.0, 2.0, 4.0])
    torch.testing.assert_close(diagonal.quadratic(v), (v**2 * torch.tensor([1.0, 2, 4])).sum(1))
    assert diagonal == Preconditioner.diagonal([1.0, 2.0, 4.0]) and diagonal != full
    assert len({diagonal, Preconditioner.diagonal([1.0, 2.0, 4.0]), full}) == 2
    assert diagonal != Preconditioner.diagonal([[1.0, 2.0, 4.0]]) and diagonal != 1.0
    turned = Preconditioner(full.eigenvalues, full.vectors.flip(0))
    assert turned != full and hash(turned) != hash(full)
    assert (
        Preconditioner.full(P.float() + 1e-7 * torch.randn(3, 3)).to(v.float()).vectors is not None
    )


@pytest.mark.parametrize("d", [1, 2, 5])
def test_a_matrix_is_symmetric_up_to_its_rounding(d: int) -> None:
    """16 d eps of the largest element is rounding, the next number is not."""
    P, eps = torch.eye(d, dtype=torch.float64), 2.0**-52
    bound = 16 * d * eps
    if d > 1:
        P[0, 1] = bound
        Preconditioner.full(P)
        P[0, 1] = bound * (1 + eps)
        with pytest.raises(ss.errors.ParameterError, match="symmetric"):
            Preconditioner.full(P)
    P = torch.eye(d)
    P[0, -1] += 16 * d * 2.0**-23 if d > 1 else 0.0
    Preconditioner.full(P)  # the rounding of float32
