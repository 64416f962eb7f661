"""Conditions that are not classes: vectors, images and sequences, from training to guidance."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import sdescore as ss
from sdescore.guidance import classifier_free

SDE = ss.VPSDE()
SHAPES = [(2,), (3, 4, 4), (5, 1)]


class Obeying(nn.Module):
    """Says that x₀ is the mean of its condition, and ``missing`` without one."""

    missing = 7.0

    def __init__(self, shape: tuple[int, ...] = (2,)) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("null_condition", torch.full(shape, self.missing))
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor, c: Tensor, label: Tensor | None = None) -> Tensor:
        if label is None:
            return self.scale * torch.full_like(x, self.missing)
        self.seen.append(label)
        assert len(label) == len(x)
        return self.scale * label.flatten(1).mean(1).to(x)[:, None].expand(x.shape) + 0 * x


def model(shape: tuple[int, ...] = (2,)) -> ss.ScoreModel:
    return ss.ScoreModel(Obeying(shape), SDE, prediction="x0")


def conditions(shape: tuple[int, ...], n: int = 6) -> Tensor:
    return torch.arange(float(n)).reshape(-1, *(1,) * len(shape)).expand(n, *shape).clone()


def obeys(x: Tensor, rows: Tensor) -> bool:
    return torch.allclose(x, rows.to(x)[:, None].expand(x.shape), atol=0.05)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_sampler_gives_each_sample_its_condition(shape: tuple[int, ...]) -> None:
    """In chunks and in ranges too."""
    label, rows, score = conditions(shape), torch.arange(6), model(shape)
    chain = ss.PredictorCorrector(SDE, predictor=ss.DDIM(), steps=10)
    for sampler in (chain, ss.AdaptiveSampler(SDE), ss.ProbabilityFlow(SDE)):
        assert obeys(sampler.sample(score, (6, 2), label=label), rows)
        assert obeys(sampler.sample(score, (6, 2), label=label, max_batch=4), rows)
        own = sampler.sample(score, (6, 2), label=label, samples=range(2, 5))
        assert obeys(own, rows[2:5])
    *_, last = chain.iterate(score, (6, 2), label=label)
    assert obeys(last.x, rows)


def test_the_likelihood_and_the_loss_take_them() -> None:
    """Each point is likeliest under its own condition, and has no loss there."""
    label, score = conditions((2,)), model()
    x = torch.arange(6.0)[:, None].expand(6, 2).clone()
    flow = ss.ProbabilityFlow(SDE)
    own = flow.log_likelihood(score, x, label=label).log_prob
    other = flow.log_likelihood(score, x, label=label + 0.5).log_prob
    assert bool((own > other).all())
    assert ss.denoising_loss(score, x, label=label).mean < 1e-6
    assert ss.denoising_loss(score, x, label=label + 1).mean > 0.1


def test_guidance() -> None:
    """w = 2 goes twice as far from the null's 7 as the condition."""
    score = model()
    guided = classifier_free(score, score, 2.0)
    sampler = ss.PredictorCorrector(SDE, predictor=ss.DDIM(), steps=10)
    x = sampler.sample(guided, (6, 2), label=conditions((2,)))
    assert obeys(x, 7 + 2 * (torch.arange(6) - 7))


@pytest.mark.parametrize("shape", SHAPES)
def test_training_drops_them_for_the_networks_own_null(shape: tuple[int, ...]) -> None:
    """Whole conditions, 30 % of 8,000 within 5 standard errors; data and condition stay paired."""
    score, label = model(shape), conditions(shape, 2)
    data = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    options: dict[str, Any] = {"steps": 8, "batch_size": 1000, "progress": False, "lr": 1e-9}
    options |= {"standardize": False}  # the score is exact in the data's own units
    ss.train(score, data, labels=label, label_dropout=0.3, **options)
    seen = torch.cat(score.net.seen).flatten(1)
    assert bool((seen == seen[:, :1]).all())
    assert abs((seen[:, 0] == 7).double().mean().item() - 0.3) < 5 * (0.21 / 8000) ** 0.5
    assert not score.label_required
    plain = ss.train(score, TensorDataset(data, label), **options)
    assert max(plain.losses) < 1e-6 and score.label_required


@pytest.mark.parametrize(
    ("label", "match"),
    [
        (conditions((2,), 5), r"shape \(6,\), or \(6, \*C\)"),
        (torch.ones(()), "shape"),
        (3, "shape"),
    ],
)
def test_the_batch_length_is_checked_once_at_the_door(label: Any, match: str) -> None:
    score = model()
    with pytest.raises(ss.errors.ShapeError, match=match):
        ss.PredictorCorrector(SDE, steps=3).sample(score, (6, 2), label=label)
    with pytest.raises(ss.errors.ShapeError, match="one label per sample"):
        ss.denoising_loss(score, torch.ones(6, 2), label=label)
    with pytest.raises(ss.errors.ShapeError, match="one label per sample"):
        ss.train(score, torch.ones(6, 2), steps=1, labels=label, progress=False)
    assert score.net.seen == []


def test_networks_of_classes_take_classes() -> None:
    score = ss.ScoreModel(ss.MLP(2, classes=3), SDE, prediction="epsilon")
    with pytest.raises(ss.errors.ShapeError, match="one label per sample"):
        score(torch.ones(6, 2), 0.5, conditions((2,)))
    with pytest.raises(ss.errors.ShapeError, match="shaped like a condition"):
        ss.train(
            score, torch.ones(6, 2), labels=conditions((2,)), label_dropout=0.1, steps=1,
            progress=False,
        )  # fmt: skip


class Linear(nn.Module):
    """A float32 network whose weights meet its condition, as torch's layers do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.null_condition = nn.Linear(2, 2), torch.zeros(2)

    def forward(self, x: Tensor, c: Tensor, label: Any = None) -> Tensor:
        label = torch.zeros_like(x) if label is None else label
        if isinstance(label, dict):
            label = label["a"] + label["kind"][:, None]
        out: Tensor = self.linear(label)
        return out + 0 * x


def test_an_energy_takes_conditions_in_the_networks_dtype() -> None:
    """log p up to a constant, with f of float32 weights and a float64 condition."""

    class Scalar(Linear):
        def forward(self, x: Tensor, c: Tensor, label: Any = None) -> Tensor:
            return super().forward(x, c, label).sum(1)

    score = ss.ScoreModel(ss.EnergyModel(Scalar()), SDE, prediction="score")
    x, label = torch.ones(6, 2), conditions((2,)) / 2
    expected = score.log_density(x, 0.5, label)
    assert torch.equal(score.log_density(x, 0.5, label.double()), expected)
    assert expected.unique().numel() == 6  # the condition counts


def test_another_form_of_condition_reaches_the_network_as_it_is() -> None:
    """Prompts, say, where the model itself is called; samplers need rows."""
    seen: list[Any] = []

    class Prompted(nn.Module):
        def forward(self, x: Tensor, c: Tensor, label: Any) -> Tensor:
            seen.append(label)
            return x

    prompts: Any = ["a cat", "a dog"]
    ss.ScoreModel(Prompted(), SDE, prediction="x0")(torch.ones(2, 2), 0.5, prompts)
    assert seen == [prompts]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_conditions_are_cast_to_the_networks_dtype(dtype: torch.dtype) -> None:
    """numpy's arrays are float64. Halves are the same number in every dtype here."""
    score = ss.ScoreModel(Linear(), SDE, prediction="x0")
    single, kind, x = conditions((2,)) / 2, torch.arange(6), torch.ones(6, 2)
    both = (single, single.to(dtype)), ({"a": single, "kind": kind}, {"a": single.to(dtype)})
    both[1][1]["kind"] = kind  # type: ignore[index]
    chain = ss.PredictorCorrector(SDE, predictor=ss.DDIM(), steps=3)
    loss = partial(ss.denoising_loss, score, x, t=0.5, noise=x)
    likelihood = ss.ProbabilityFlow(SDE).log_likelihood
    options: dict[str, Any] = {"steps": 2, "progress": False, "standardize": False}
    for one, other in both:
        for sampler in (chain, ss.AdaptiveSampler(SDE), ss.ProbabilityFlow(SDE)):
            expected, found = (sampler.sample(score, (6, 2), label=c) for c in (one, other))
            assert torch.equal(expected, found)
        assert torch.equal(loss(label=one).mean, loss(label=other).mean)
        first, second = (likelihood(score, x, label=c).log_prob for c in (one, other))
        assert torch.equal(first, second)
    guided = classifier_free(score, score, 2.0)
    expected, found = (chain.sample(guided, (6, 2), label=c) for c in both[0])
    assert torch.equal(expected, found)
    losses = []
    for label in both[0]:
        torch.manual_seed(0)
        fresh = ss.ScoreModel(Linear(), SDE, prediction="x0")
        losses.append(ss.train(fresh, x, labels=label, label_dropout=0.5, **options).losses)
    assert losses[0] == losses[1]
