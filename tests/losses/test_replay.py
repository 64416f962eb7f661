"""The buffer of persistent chains."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

import sdescore as ss
from sdescore.losses import ReplayBuffer
from tests.helpers.contrastive import INF, NAN, noise


def test_chains_persist_and_only_what_is_put_back_changes() -> None:
    buffer = ReplayBuffer(10, noise, reinit=0.0)
    before = buffer.chains.clone()
    index, x = buffer.draw(4)
    assert torch.equal(x, before[index])
    x.add_(100)
    assert torch.equal(buffer.chains, before)  # what is drawn is a copy
    buffer.update(index, x.requires_grad_())
    assert not buffer.chains.requires_grad
    expected = before.clone()
    expected[index] += 100
    assert torch.equal(buffer.chains, expected)
    again, y = buffer.draw(10)
    assert sorted(again.tolist()) == list(range(10))
    assert torch.equal(y, expected[again])
    assert not torch.equal(again, torch.arange(10))


def test_the_share_started_afresh() -> None:
    """Each drawn chain by itself, wherever it lies; 1e-6 for each of the four tests."""
    buffer = ReplayBuffer(50, lambda n, g: torch.zeros(n, 1), reinit=0.2)
    buffer.update(torch.arange(50), torch.ones(50, 1))
    drawn = [buffer.draw(20) for _ in range(200)]
    afresh = torch.stack([x[:, 0] == 0 for _, x in drawn]).double()
    assert stats.binomtest(int(afresh.sum()), 4000, 0.2).pvalue > 1e-6
    for mean, variance, dim in ((4, 3.2, 1), (40, 32, 0)):  # per draw, then per row of a draw
        pearson = ((afresh.sum(dim) - mean).square() / variance).sum().item()
        assert pearson < stats.chi2.isf(1e-6, afresh.shape[1 - dim])
    # 80 expected at each of 50 places, drawn without replacement: variance below binomial.
    places = torch.bincount(torch.cat([index for index, _ in drawn]), minlength=50)
    assert (places - 80).abs().max() < stats.norm.isf(1e-6 / 100) * math.sqrt(200 * 0.4 * 0.6)
    assert torch.equal(buffer.chains, torch.ones(50, 1))  # until they are put back


@pytest.mark.parametrize(("reinit", "share"), [(0.0, 0), (0, 0), (1.0, 8), (1, 8)])
def test_none_or_all_afresh(reinit: float, share: int) -> None:
    buffer = ReplayBuffer(8, lambda n, g: torch.zeros(n), reinit=reinit)
    buffer.update(torch.arange(8), torch.ones(8))
    for _ in range(50):
        assert int((buffer.draw(8)[1] == 0).sum()) == share


def test_starts_may_be_data() -> None:
    data = torch.arange(5.0)[:, None]
    buffer = ReplayBuffer(
        300, lambda n, g: data[torch.randint(len(data), (n,), generator=g)], reinit=1.0
    )
    assert set(buffer.chains.flatten().tolist()) == set(range(5))
    assert len({tuple(buffer.draw(300)[1].flatten().tolist()) for _ in range(3)}) == 3
    assert len(buffer) == 300
    assert buffer.chains.dtype == data.dtype


def test_the_starts_stay_as_they_were() -> None:
    data = torch.ones(4, 2, requires_grad=True)
    buffer = ReplayBuffer(4, lambda n, g: data[:n], reinit=0.0)
    buffer.update(torch.arange(4), torch.zeros(4, 2))
    assert torch.equal(data, torch.ones(4, 2))
    assert not buffer.chains.requires_grad


def test_a_seed_means_the_same_buffer() -> None:
    def run(seed: int) -> list[Tensor]:
        buffer = ReplayBuffer(20, noise, reinit=0.3, seed=seed)
        drawn = [buffer.chains.clone()]
        for _ in range(5):
            index, x = buffer.draw(7)
            buffer.update(index, x + 1)
            drawn += [index.double(), x]
        return drawn

    one, two, other = run(3), run(3), run(4)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_buffer_goes_on_from_its_saved_state() -> None:
    buffer = ReplayBuffer(20, noise, reinit=0.3)
    index, x = buffer.draw(6)
    buffer.update(index, x + 1)
    state = buffer.state_dict()
    assert all(isinstance(v, Tensor) for v in state.values())

    def go_on(some: ReplayBuffer) -> list[Tensor]:
        drawn = []
        for _ in range(3):
            index, x = some.draw(6)
            some.update(index, 2 * x)
            drawn += [index, x]
        return [*drawn, some.chains.clone()]

    first = go_on(buffer)
    other = ReplayBuffer(20, noise, reinit=0.3, seed=99)
    other.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(first, go_on(other), strict=True))
    other.load_state_dict(state)  # and what ran since has not changed the saved state
    assert all(torch.equal(a, b) for a, b in zip(first, go_on(other), strict=True))


def test_a_state_of_another_buffer_is_refused() -> None:
    buffer = ReplayBuffer(4, noise)
    state = buffer.state_dict()
    for bad, error in (
        ({}, ss.errors.IncompatibleError),
        ({"chains": state["chains"]}, ss.errors.IncompatibleError),
        ({**state, "more": state["chains"]}, ss.errors.IncompatibleError),
        ({**state, "chains": torch.zeros(5, 2)}, ss.errors.ShapeError),
        ({**state, "chains": torch.full((4, 2), NAN)}, ss.errors.ParameterError),
        (
            {**state, "chains": torch.full((4, 2), 1e300, dtype=torch.float64)},
            ss.errors.ParameterError,
        ),
        ({**state, "chains": None}, ss.errors.ShapeError),
        ({**state, "generator": state["generator"][:-1]}, ss.errors.IncompatibleError),
        ({**state, "generator": state["generator"].float()}, ss.errors.IncompatibleError),
        ({**state, "generator": torch.zeros_like(state["generator"])}, ss.errors.IncompatibleError),
        ({**state, "generator": None}, ss.errors.IncompatibleError),
        (None, ss.errors.IncompatibleError),
        (["chains", "generator"], ss.errors.IncompatibleError),
    ):
        with pytest.raises(error):
            buffer.load_state_dict(bad)
    assert torch.equal(buffer.chains, state["chains"])
    assert torch.equal(buffer.state_dict()["generator"], state["generator"])


def test_draws_and_updates_that_do_not_fit_are_refused() -> None:
    buffer = ReplayBuffer(4, noise)
    before = buffer.chains.clone()
    for n in (0, 5, -1, True, 2.0, None):
        with pytest.raises(ss.errors.ParameterError, match="n >= 1 and at most 4"):
            buffer.draw(n)
    bad = [[0, 0], [0, 4], [-1, 0]]
    for index in (*map(torch.tensor, bad), torch.zeros(2), torch.tensor(1), [0, 1]):
        with pytest.raises(ss.errors.ShapeError, match="index"):
            buffer.update(index, torch.zeros(2, 2))
    for x in (torch.zeros(2, 3), torch.zeros(3, 2), None):
        with pytest.raises(ss.errors.ShapeError):
            buffer.update(torch.tensor([0, 1]), x)
    for value in (NAN, INF, 1e300):  # the last is finite until it is kept in float32
        with pytest.raises(ss.errors.ParameterError, match="finite"):
            buffer.update(torch.tensor([0, 1]), torch.full((2, 2), value, dtype=torch.float64))
    assert torch.equal(buffer.chains, before)
    calls = []
    fickle = ReplayBuffer(
        4, lambda n, g: torch.zeros(n, 2 if calls.append(n) or len(calls) == 1 else 3), reinit=1.0
    )
    with pytest.raises(ss.errors.ShapeError, match="fresh"):
        fickle.draw(2)
