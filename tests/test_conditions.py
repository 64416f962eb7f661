"""Conditions that are a dict of tensors: from a data set to samples, likelihoods and guidance."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import sdescore as ss
from sdescore.guidance import classifier_free, classifier_guidance
from sdescore.losses import sliced_loss
from sdescore.samplers.description import described

SDE = ss.VPSDE()
CHAIN = ss.PredictorCorrector(SDE, predictor=ss.DDIM(), steps=10)
SAMPLERS = (CHAIN, ss.AdaptiveSampler(SDE), ss.ProbabilityFlow(SDE))
ROWS = torch.arange(6)


class Obeying(nn.Module):
    """Says that x₀ is the sum of what its condition holds; without one 7, the null one's sum."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        null = {"text": torch.full((3, 2), -2.0)}
        self.null_condition: Any = null | {"more": {"kind": torch.tensor(9), "image": None}}
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor, c: Tensor, label: Any = None) -> Tensor:
        if label is None:
            return self.scale * torch.full_like(x, 7.0)
        text, kind = label["text"].flatten(1), label["more"]["kind"]
        assert label["more"]["image"] is None and len(text) == len(kind) == len(x)
        self.seen.append(torch.cat([text, kind[:, None].to(text)], 1))
        return self.scale * (text.mean(1) + kind)[:, None].to(x).expand(x.shape) + 0 * x


def model() -> ss.ScoreModel:
    return ss.ScoreModel(Obeying(), SDE, prediction="x0")


def conditions(n: int = 6) -> dict[str, Any]:
    """Sequences (n, 3, 2) of i/2, and classes of 2i: together 2.5 i."""
    rows = torch.arange(n)
    text = (rows / 2)[:, None, None].expand(n, 3, 2).clone()
    return {"text": text, "more": {"kind": 2 * rows, "image": None}}


def obeys(x: Tensor, rows: Tensor) -> bool:
    return torch.allclose(x, 2.5 * rows.to(x)[:, None].expand(x.shape), atol=0.05)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: type(s).__name__)
def test_every_sampler_gives_each_sample_its_own(sampler: Any, tmp_path: Path) -> None:
    label, score = conditions(), model()
    sample = partial(sampler.sample, score, (6, 2), label=label)
    assert obeys(sample(), ROWS)
    assert obeys(sample(max_batch=4), ROWS)
    assert obeys(sample(samples=range(2, 5)), ROWS[2:5])
    for rows, x in ss.samplers.iterate_chunks(sampler, score, (6, 2), max_batch=4, label=label):
        assert obeys(x, torch.tensor(rows))
    assert obeys(ss.sample_distributed(sampler, score, (6, 2), label=label, max_batch=4), ROWS)
    shards = ss.samplers.sample_to_folder(
        sampler, score, (6, 2), tmp_path, label=label, shard_size=4
    )  # fmt: skip
    assert obeys(torch.cat([torch.from_numpy(np.load(shard)) for shard in shards]), ROWS)
    with pytest.raises(ss.errors.CheckpointError, match="by label"):
        other = label | {"text": label["text"] + 1}
        ss.samplers.sample_to_folder(sampler, score, (6, 2), tmp_path, label=other, shard_size=4)


def test_steps_and_the_pure_function_take_them() -> None:
    label, score = conditions(), model()
    for sampler in SAMPLERS[:2]:
        *_, last = sampler.iterate(score, (6, 2), label=label)
        assert obeys(last.x, ROWS)
    assert obeys(
        ss.samplers.pure_function(CHAIN, score, (6, 2), label=label)(torch.randn(1, 6, 2)), ROWS
    )


class Rough(Obeying):
    """The larger a sample's class, the shorter an adaptive sampler's steps."""

    def forward(self, x: Tensor, c: Tensor, label: Any = None) -> Tensor:
        target = super().forward(x, c, label)
        return target + 0.3 * torch.sin(label["more"]["kind"][:, None] * (x - target))


def test_samples_that_finish_at_different_times_keep_their_own() -> None:
    score, label = ss.ScoreModel(Rough(), SDE, prediction="x0"), conditions()
    sampler = ss.AdaptiveSampler(SDE, rtol=0.01, atol=0.01)
    found = sampler.solve(score, (6, 2), label=label)
    assert len(set(found.accepted.tolist())) > 2
    for i in range(6):
        alone = sampler.sample(score, (6, 2), label=label, samples=range(i, i + 1))
        torch.testing.assert_close(found.x[i : i + 1], alone, rtol=0, atol=1e-4)


def test_the_likelihood_and_the_losses_take_them() -> None:
    label, score = conditions(), model()
    x = 2.5 * ROWS[:, None].expand(6, 2)
    flow = ss.ProbabilityFlow(SDE)
    other = label | {"text": label["text"] + 0.5}
    own = flow.log_likelihood(score, x, label=label).log_prob
    assert bool((own > flow.log_likelihood(score, x, label=other, max_batch=4).log_prob).all())
    assert ss.denoising_loss(score, x, label=label).mean < 1e-6
    assert ss.denoising_loss(score, x, label=other).mean > 0.1
    far = label | {"text": label["text"] + 9}
    near, off = (sliced_loss(score, x, t=0.5, label=y).mean for y in (label, far))
    assert near < off


def test_guidance_takes_them() -> None:
    """w = 2 goes twice as far from the null's 7 as the condition; a classifier reads the dict."""
    label, score = conditions(), model()
    x = CHAIN.sample(classifier_free(score, score, 2.0), (6, 2), label=label)
    assert torch.allclose(x[:, 0], 7 + 2 * (2.5 * ROWS - 7), atol=0.05)

    table = nn.Embedding(11, 2)

    def log_prob(x: Tensor, t: Tensor, y: Mapping[str, Any]) -> Tensor:
        return (x * table(y["more"]["kind"])).sum(1)

    guided = classifier_guidance(lambda x, t: torch.zeros_like(x), log_prob)
    with torch.inference_mode():
        gradient = guided(torch.ones(6, 2), torch.tensor(0.5), conditions())
    torch.testing.assert_close(gradient, table.weight[::2])


def test_an_ensemble_of_levels_takes_them() -> None:
    nets = ss.nets.LevelEnsemble([Obeying() for _ in range(3)])
    y = nets(torch.zeros(6, 2), torch.tensor([2, 0, 1, 0, 2, 1]), conditions())
    assert torch.equal(y[:, 0], 2.5 * ROWS)


# ---------------------------------------------------------------- training

OPTIONS: dict[str, Any] = {"batch_size": 500, "progress": False, "lr": 1e-9, "standardize": False}


class Pairs(Dataset[Any]):
    """Six samples and their conditions, in one of the two forms that a sample may have."""

    def __init__(self, named: bool) -> None:
        self.named = named

    def __len__(self) -> int:
        return 6

    def __getitem__(self, i: int) -> Any:
        x, label = torch.full((2,), 2.5 * i), {"text": np.full((3, 2), i / 2, dtype=np.float32)}
        label["more"] = Absent(kind=2 * i)
        return {"x": x, "label": label} if self.named else (x, label)


class Absent(dict[str, Any]):
    """A condition without an image, which a Dataset cannot say by None: it cannot be stacked."""


class Plain(Obeying):
    def forward(self, x: Tensor, c: Tensor, label: Any = None) -> Tensor:
        if label is not None:
            label = {"text": label["text"], "more": {**label["more"], "image": None}}
        return super().forward(x, c, label)


def test_training_takes_them_in_every_form() -> None:
    """Data and conditions stay paired: the exact network has no loss."""
    x = 2.5 * ROWS[:, None].expand(6, 2).float()
    arrays = {"text": conditions()["text"].numpy(), "more": {"kind": (2 * ROWS).numpy()}}
    batches = [(x, conditions())] * 2
    pairs, named = Pairs(False), Pairs(True)
    loader = DataLoader(pairs, batch_size=4, shuffle=True)
    for data in (pairs, named, loader, batches, [{"x": x, "label": conditions()}]):
        score = ss.ScoreModel(Plain(), SDE, prediction="x0")
        own = OPTIONS if data in (pairs, named) else {**OPTIONS, "batch_size": None}
        result = ss.train(score, data, steps=4, accumulate=3, validation=named, **own)
        assert max(result.losses) < 1e-6 and score.label_required
    score = ss.ScoreModel(Plain(), SDE, prediction="x0")
    assert max(ss.train(score, x, labels=arrays, steps=4, **OPTIONS).losses) < 1e-6


def test_training_drops_a_condition_whole() -> None:
    """30 % of 8,000 within 5 standard errors (false alarm 6e-7)."""
    score, x = model(), 2.5 * ROWS[:, None].expand(6, 2).float()
    ss.train(score, x, labels=conditions(), label_dropout=0.3, steps=16, **OPTIONS)
    seen = torch.cat(score.net.seen)
    dropped = (seen == torch.tensor([-2.0] * 6 + [9.0])).all(1)
    whole = (seen[:, :6] == seen[:, :1]).all(1) & (seen[:, 6] == 4 * seen[:, 0])
    assert bool((dropped | whole).all()) and len(seen) == 8000
    assert abs(dropped.double().mean().item() - 0.3) < 5 * (0.21 / 8000) ** 0.5
    assert not score.label_required
    assert bool(CHAIN.sample(score, (3, 2)).isfinite().all())


def test_a_resume_is_of_the_same_conditions(tmp_path: Path) -> None:
    x, label, path = torch.randn(6, 2), conditions(), tmp_path / "net.safetensors"
    run = partial(ss.train, model(), x, path=path, **OPTIONS)
    run(steps=2, labels=label, schedule="constant")
    again = {"more": dict(reversed(label["more"].items())), "text": label["text"]}
    assert len(run(steps=3, labels=again, schedule="constant", resume=True).losses) == 1
    with pytest.raises(ss.errors.CheckpointError, match="labels"):
        other = label | {"more": {"kind": 2 * ROWS + 1, "image": None}}
        run(steps=4, labels=other, schedule="constant", resume=True)


# ---------------------------------------------------------------- refusals

SHORT = conditions() | {"text": torch.zeros(5, 3, 2)}


@pytest.mark.parametrize(
    ("label", "name"),
    [
        (SHORT, r"label\['text'\]"),
        (conditions() | {"more": {"kind": 3}}, r"label\['more'\]\['kind'\]"),
        ({}, "label to hold"),
        ({"image": None}, "label to hold"),
        (conditions() | {0: ROWS}, "strings as the keys of label; got 0"),
    ],
)
def test_the_batch_length_is_checked_at_every_door(label: Any, name: str) -> None:
    score, x = model(), torch.ones(6, 2)
    for sampler in SAMPLERS:
        with pytest.raises(ss.errors.ShapeError, match=name) as refused:
            sampler.sample(score, (6, 2), label=label)
        assert len(str(refused.value).splitlines()) == 1
    for call in (
        partial(ss.denoising_loss, score, x, label=label),
        partial(ss.train, score, x, labels=label, steps=1, progress=False),
        partial(ss.train, score, [(x, label)], steps=1, progress=False),
        partial(ss.ProbabilityFlow(SDE).log_likelihood, score, x, label=label),
    ):
        with pytest.raises(ss.errors.ShapeError, match=name):
            call()
    assert score.net.seen == []


@pytest.mark.parametrize("kind", [torch.tensor(9), 9])
def test_a_null_class_may_be_a_number(kind: Any) -> None:
    """Where every label is dropped the network sees the null condition alone."""
    score = model()
    score.net.null_condition["more"]["kind"] = kind
    ss.train(
        score, torch.ones(6, 2), labels=conditions(), label_dropout=1.0, steps=1, **OPTIONS
    )  # fmt: skip
    assert all(bool((row == torch.tensor([-2.0] * 6 + [9.0])).all()) for row in score.net.seen)
    assert score.net.seen


def test_what_made_a_condition_is_not_trained() -> None:
    """Its graph could be followed once only, in the first step."""
    encoder, x = nn.Linear(2, 2), torch.ones(6, 2, requires_grad=True)
    label = conditions() | {"text": encoder(conditions()["text"])}
    assert len(ss.train(model(), x, labels=label, steps=3, **OPTIONS).losses) == 3
    assert x.grad is None and encoder.weight.grad is None


def test_an_untrained_null_condition_is_refused() -> None:
    score, x = model(), torch.ones(6, 2)
    ss.train(score, x, labels=conditions(), steps=1, **OPTIONS)
    with pytest.raises(ss.errors.IncompatibleError, match="trained with labels alone"):
        CHAIN.sample(score, (6, 2))
    with pytest.raises(ss.errors.IncompatibleError, match="trained with labels alone"):
        classifier_free(score, score, 2.0)


@pytest.mark.parametrize(
    ("null", "match"),
    [
        ({"text": torch.zeros(3, 2)}, r"keys \['more', 'text'\]; got"),
        (torch.zeros(3, 2), "keys"),
        ({"text": torch.zeros(4, 2), "more": {"kind": torch.tensor(0), "image": None}}, "shaped"),
        ({"text": torch.zeros(3, 2), "more": {"kind": None, "image": None}}, "shaped"),
        ({"text": torch.zeros(3, 2), "more": {"kind": 0.5, "image": None}}, "integers"),
    ],
)
def test_a_null_condition_of_another_form_is_refused(null: Any, match: str) -> None:
    score = model()
    score.net.null_condition = null
    with pytest.raises(ss.errors.SDEScoreError, match=match):
        ss.train(
            score, torch.ones(6, 2), labels=conditions(), label_dropout=0.5, steps=1, **OPTIONS
        )
    assert score.net.seen == []


def test_held_out_data_have_the_parts_of_the_data() -> None:
    score, x = model(), torch.ones(6, 2)
    less = {"text": conditions()["text"]}
    with pytest.raises(ss.errors.IncompatibleError, match="same labels in data and validation"):
        ss.train(
            score, x, labels=conditions(), validation=[(x, less)], steps=1, **OPTIONS
        )  # fmt: skip
    assert score.net.seen == []


def test_a_request_is_told_apart_by_what_its_condition_holds() -> None:
    def label_of(label: Any) -> Any:
        return described(CHAIN, model(), (6, 2), 0, None, label, None)["label"]

    label = conditions()
    assert label_of(label) == label_of(dict(reversed(label.items())))
    assert label_of(label) != label_of({"words": label["text"], "more": label["more"]})
    assert label_of(label) != label_of(label | {"text": label["text"] + 1})
