"""Times, weights, dtypes and generators of every objective."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

import sdescore as ss
from sdescore.losses import (
    explicit_loss,
    finite_difference_loss,
    implicit_loss,
    sliced_loss,
)
from tests.helpers.objectives import (
    F64,
    SCORE_ONLY,
    cloud,
    draw,
    networks,
    still,
)


@pytest.mark.parametrize("name", SCORE_ONLY)
def test_time_and_weight(name: str) -> None:
    objective, x = SCORE_ONLY[name], cloud(5)
    seen: list[Tensor] = []

    def score(x: Tensor, t: Tensor) -> Tensor:
        seen.append(t)
        return -x * t[:, None]

    t = torch.tensor([0.1, 0.2, 0.5, 1.0, 3.0])
    many = objective(score, x, t=t, **still(x)).per_sample
    assert all(s.shape == (5,) and s.dtype == F64 for s in seen)
    for i in range(5):
        alone = objective(lambda x, i=i: -x * t[i].double(), x).per_sample[i]
        torch.testing.assert_close(many[i], alone)
    seen.clear()
    objective(score, x, t=0.5, **still(x))
    assert all(s.tolist() == [0.5] * 5 for s in seen)
    plain = lambda x: -x  # noqa: E731
    weight = torch.tensor([0.0, 1.0, 2.0, 0.5, 3.0])
    whole = objective(plain, x)
    torch.testing.assert_close(whole.mean, whole.per_sample.mean())
    loss = objective(plain, x, weight=weight)
    torch.testing.assert_close(loss.per_sample, weight.double() * whole.per_sample)
    torch.testing.assert_close(loss.mean, loss.per_sample.mean())
    torch.testing.assert_close(objective(plain, x, weight=2.0).mean, 2 * whole.mean)
    timed = objective(score, x, t=t, weight=weight, **still(x)).per_sample
    torch.testing.assert_close(timed, weight.double() * many)


class Placed:
    """A score with an SDE of its own, and no checks."""

    sde = ss.VPSDE()

    def __init__(self) -> None:
        self.times: list[Tensor] = []

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.times.append(t)
        return -x


@pytest.mark.parametrize("name", SCORE_ONLY)
def test_an_sde_s_times_are_checked_and_keep_their_precision(name: str) -> None:
    score = Placed()
    with pytest.raises(ss.errors.TimeError, match="expected"):
        SCORE_ONLY[name](score, cloud(5), t=2.0)
    assert not score.times
    SCORE_ONLY[name](score, cloud(5).float(), t=0.1)
    assert all(t.tolist() == [0.1] * 5 for t in score.times) and score.times


@pytest.mark.parametrize("name", SCORE_ONLY)
def test_values_do_not_need_autograd_switched_on(name: str) -> None:
    model, x, t = networks()["mlp"]
    t64 = torch.tensor(t, dtype=F64)
    noise = torch.zeros_like(x)
    outside = SCORE_ONLY[name](model, x, t=t64, noise=noise)
    assert outside.mean.requires_grad
    with torch.no_grad():
        inside = SCORE_ONLY[name](model, x, t=t64, noise=noise, weight=torch.ones(4))
    assert not inside.mean.requires_grad and not inside.per_sample.requires_grad
    torch.testing.assert_close(inside.per_sample, outside.per_sample)
    with torch.inference_mode():
        again = SCORE_ONLY[name](
            model, x.clone(), t=t64.clone(), noise=noise.clone(), weight=torch.ones(4)
        )
    torch.testing.assert_close(again.per_sample, outside.per_sample)


def test_inference_mode_s_probes_and_times() -> None:
    model, x, _ = networks()["mlp"]
    with torch.inference_mode():
        t, v = torch.full((4,), 0.4, dtype=F64), draw(2, 4, 3)
        a = sliced_loss(model, x, t=t, probes=v, noise=0 * x).mean
        b = implicit_loss(model, x, t=t, probes=v, trace="hutchinson", noise=0 * x).mean
        sliced_loss(model, x, t=t)
    c = sliced_loss(model, x, t=0.4, probes=draw(2, 4, 3), noise=0 * x).mean
    torch.testing.assert_close(a.clone(), c)
    assert a != b


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_are_at_least_float32(dtype: torch.dtype) -> None:
    """States and probes are exact in both dtypes and so is s = −x: only sums may round."""
    x, v = cloud(5, 3).to(dtype), draw(2, 5, 3, seed=1).to(dtype)
    for objective in (
        lambda s, x: explicit_loss(s, x, torch.ones_like(x)),
        implicit_loss,
        lambda s, x: implicit_loss(s, x, trace="hutchinson", probes=v),
        lambda s, x: sliced_loss(s, x, probes=v),
    ):
        loss, oracle = (objective(lambda x: -x, y) for y in (x, x.double()))
        assert loss.per_sample.dtype == loss.mean.dtype == torch.float32
        assert oracle.mean.dtype == F64
        torch.testing.assert_close(
            loss.per_sample.double(), oracle.per_sample, rtol=1e-5, atol=1e-5
        )


def test_the_generator_draws_the_probes() -> None:
    x, score = cloud(), lambda x: torch.sin(x)
    for objective in (
        sliced_loss,
        functools.partial(implicit_loss, trace="hutchinson", probe_distribution="gaussian"),
        finite_difference_loss,
    ):
        a, b, c = (
            objective(score, x, generator=torch.Generator().manual_seed(k)).mean for k in (1, 1, 2)
        )
        assert a == b != c
        state = torch.get_rng_state()
        objective(score, x, generator=torch.Generator().manual_seed(1))
        assert torch.equal(state, torch.get_rng_state())
        assert objective(score, x).mean != objective(score, x).mean
    rows = sliced_loss(score, x[:1].expand(9, 3), generator=torch.Generator()).per_sample
    assert len(rows.unique()) == 9  # each sample has directions of its own


@pytest.mark.parametrize("name", SCORE_ONLY)
def test_a_score_that_writes_to_its_input_harms_nothing(name: str) -> None:
    def careless(x: Tensor, t: Tensor) -> Tensor:
        s = -x * t[:, None]
        x.mul_(0.0)
        return s

    x, t = cloud(5), torch.full((5,), 2.0, dtype=F64)
    got = SCORE_ONLY[name](careless, x, t=t, **still(x)).per_sample
    assert torch.equal(x, cloud(5))
    torch.testing.assert_close(got, SCORE_ONLY[name](lambda x: -2 * x, x).per_sample)
    SCORE_ONLY[name](lambda x, t: t.zero_()[:, None] * x, x, t=t, **still(x))
    assert t.tolist() == [2.0] * 5
    writes = lambda y: y.mul_(1.0).square().sum(1).mul_(-1.0) + 0 * y.zero_().sum(1)  # noqa: E731
    finite_difference_loss(ss.EnergyModel(writes), x)
    explicit_loss(lambda y: -y, x, lambda y: y.zero_())
    assert torch.equal(x, cloud(5))


@pytest.mark.parametrize("name", SCORE_ONLY)
def test_the_states_are_data(name: str) -> None:
    x, scale = cloud(5).requires_grad_(), torch.ones((), dtype=F64, requires_grad=True)
    SCORE_ONLY[name](lambda x: -scale * x, x).mean.backward()
    assert scale.grad is not None and x.grad is None
