"""The training loop learns, repeats, and says what happens."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sdescore as ss
from sdescore.borrowed import step_seed
from sdescore.checkpoint.store import read_manifest
from sdescore.training.guards import Recipe
from tests.helpers.training import Dropping, cloud, make, run


@pytest.mark.slow
def test_finds_the_score_of_a_gaussian() -> None:
    """A linear network's optimum is known; the loss nears its closed-form minimum."""
    sde, mean, std = ss.VPSDE(), 1.0, 0.5
    model = ss.ScoreModel(
        ss.MLP(2, hidden=32, depth=2), sde, time_input="log_snr", prediction="epsilon"
    )
    data = mean + std * torch.randn(4000, 2, generator=torch.Generator().manual_seed(1))
    options: dict[str, Any] = {"progress": False, "standardize": False}
    result = ss.train(model, data, steps=800, lr=5e-3, ema_decay=0.99, **options)
    exact = ss.GaussianScore(torch.full((2,), mean), std**2 * torch.eye(2), sde)

    generator = torch.Generator().manual_seed(2)
    x0 = mean + std * torch.randn(20_000, 2, generator=generator)
    noise = torch.randn(20_000, 2, generator=generator)
    t = ss.losses.UniformTimes().sample(sde, 20_000, generator)
    with torch.no_grad():
        learned = ss.denoising_loss(result.model, x0, t=t, noise=noise).mean.item()
        least = ss.denoising_loss(exact, x0, t=t, noise=noise).mean.item()
        zero = ss.denoising_loss(lambda x, t: 0 * x, x0, t=t, noise=noise, sde=sde).mean.item()
    assert least < learned < least + 0.03 * (zero - least)
    assert result.finished and result.step == 800 and len(result.losses) == 800
    assert sum(result.losses[-100:]) / 100 == pytest.approx(least, rel=0.15)


@pytest.mark.slow
def test_labels_are_learned() -> None:
    """Two classes at ±2: with the label the mean is known, without it the null label's is 0."""
    sde = ss.VPSDE()
    torch.manual_seed(0)
    net = ss.MLP(1, hidden=32, depth=2, classes=2)
    model = ss.ScoreModel(net, sde, prediction="x0", time_input="log_snr")
    labels = torch.arange(400) % 2
    data = (4.0 * labels - 2.0)[:, None] + 0.05 * torch.randn(400, 1)
    result = ss.train(
        model, data, labels=labels, label_dropout=0.3, steps=400, progress=False, ema_decay=0.98,
        standardize=False,
    )  # fmt: skip
    x = torch.randn(200, 1)
    means = [result.model.denoise(x, 1.0, torch.full((200,), y)).mean().item() for y in (0, 1, 2)]
    assert means == pytest.approx([-2.0, 2.0, 0.0], abs=0.3)


def test_the_step_is_adamw_on_the_clipped_gradient() -> None:
    """Three steps of the documented recipe, written out again."""
    ours, theirs = make(), make()
    for model in (ours, theirs):
        model.net.body[2].p = 0.0
    options = {"lr": 0.02, "warmup": 2, "clip": 0.05, "weight_decay": 0.1, "batch_size": 8}
    options["standardize"] = False
    result = ss.train(ours, cloud(), steps=3, seed=5, progress=False, ema_decay=0.5, **options)

    net, sde = theirs.net, theirs.sde
    parameters = [*net.body.parameters(), net.unused]
    optimizer = torch.optim.AdamW(parameters, lr=1.0, weight_decay=0.1)
    ema = ss.EMA(net, 0.5)
    losses = []
    for n in range(3):
        generator = torch.Generator().manual_seed((5 * 0x9E3779B1 + n) % 2**32)
        x0 = cloud()[torch.randint(64, (8,), generator=generator)]
        t = 1e-3 + (1 - 1e-3) * torch.rand(8, generator=generator, dtype=torch.float64)
        z = torch.randn(8, 2, generator=generator)
        output = theirs.epsilon(sde.perturb(x0, t, z), t)
        loss = 0.5 * (output - z).square().sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        norm = torch.cat([p.grad.flatten() for p in net.body.parameters()]).norm()
        assert norm > 0.05
        for p in net.body.parameters():
            p.grad.mul_(0.05 / (norm + 1e-6))
        factor = (n + 1) / 3 if n < 2 else 1.0
        optimizer.param_groups[0]["lr"] = 0.02 * factor * (1 + math.cos(math.pi * n / 3)) / 2
        optimizer.step()
        ema.update(net)
        losses.append(loss.item())
    assert result.losses == pytest.approx(losses, rel=1e-5)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    ema.copy_to(net)
    for a, b in zip(result.model.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_the_result_holds_the_average_and_the_model_the_raw_weights(tmp_path: Path) -> None:
    model = make()
    result = run(model, tmp_path / "m.safetensors")
    raw = ss.load(tmp_path / "m.safetensors", weights="raw", net=Dropping())
    averaged = ss.load(tmp_path / "m.safetensors", net=Dropping())
    assert torch.equal(raw.net.body[0].weight, model.net.body[0].weight)
    assert torch.equal(averaged.net.body[0].weight, result.model.net.body[0].weight)
    assert torch.equal(result.ema.shadow["body.0.weight"], averaged.net.body[0].weight)
    assert not torch.equal(raw.net.body[0].weight, averaged.net.body[0].weight)
    assert not result.model.training and model.net.training
    assert torch.equal(model.net.frozen, torch.ones(2))


def test_trains_in_training_mode_and_gives_the_mode_back() -> None:
    modes: list[bool] = []
    model = make().eval()
    run(model, steps=2, callback=lambda seen: modes.append(model.net.body[2].training))
    assert modes == [True, True] and not model.net.training


def recipe(**options: Any) -> Recipe:
    defaults: dict[str, Any] = {
        "label_dropout": 0, "weighting": "sigma2", "times": "UniformTimes()", "batch_size": 8,
        "lr": 1.0, "schedule": "constant", "warmup": 0, "weight_decay": 0, "clip": None,
        "ema_decay": 0, "seed": 0, "standardize": True,
    }  # fmt: skip
    return Recipe(**defaults | options)


def test_learning_rate() -> None:
    constant = [recipe(warmup=3).learning_rate(1.0, n, 10) for n in range(10)]
    assert constant == pytest.approx([0.25, 0.5, 0.75] + [1.0] * 7)
    cosine = [recipe(schedule="cosine").learning_rate(2.0, n, 10) for n in range(10)]
    assert cosine == pytest.approx([1 + math.cos(math.pi * n / 10) for n in range(10)])


def test_step_seeds_are_far_apart() -> None:
    """No two of 1,000 seeds and three domains share a step's seed within a million steps."""
    starts = sorted(step_seed(s, 0, d) for s in range(1000) for d in (0, 1, 2))
    gaps = [b - a for a, b in zip(starts, [*starts[1:], starts[0] + 2**32], strict=True)]
    assert min(gaps) > 10**6
    assert step_seed(3, 17) - step_seed(3, 0) == 17


# Randomness.


def test_runs_repeat_and_seeds_differ() -> None:
    a, b, c = run(make()), run(make()), run(make(), seed=1)
    assert a.losses == b.losses and a.losses != c.losses


def test_the_global_generator_is_left_alone(tmp_path: Path) -> None:
    model = ss.ScoreModel(ss.MLP(2, hidden=8, depth=1), ss.VPSDE(), prediction="epsilon")
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    run(model, tmp_path / "m.safetensors")
    ss.load(tmp_path / "m.safetensors")
    assert torch.equal(torch.rand(3), expected)


def test_dropout_is_seeded_apart_from_the_noise() -> None:
    """Whatever the caller's generator, dropout repeats; and it never draws the noise's numbers."""
    losses = []
    for state in (1, 2):
        model = make()
        torch.manual_seed(state)
        losses.append(run(model).losses)
    assert losses[0] == losses[1]
    seeds: set[int] = set()

    class Net(Dropping):
        def forward(self, x: Tensor, c: Tensor, label: Tensor | None = None) -> Tensor:
            seeds.add(torch.initial_seed())  # of the generator that dropout draws from
            return super().forward(x, c, label)

    run(ss.ScoreModel(Net(), ss.VPSDE(), prediction="epsilon"))
    assert len(seeds) == 30
    assert not seeds & {step_seed(0, step) for step in range(30)}


def test_label_dropout() -> None:
    """Of 24,000 labels 30 % become null: within 5.6 standard errors, alpha = 1e-6 and less."""
    model = make()
    labels = torch.arange(64) % 3
    ss.train(
        model, cloud(), labels=labels, label_dropout=0.3, steps=30, batch_size=800, progress=False
    )
    seen = torch.cat(model.net.labels)
    share = (seen == 3).double().mean().item()
    assert abs(share - 0.3) < 5.6 * math.sqrt(0.21 / len(seen))
    assert set(seen.tolist()) == {0, 1, 2, 3}


def test_labels_go_with_their_data() -> None:
    class Net(Dropping):
        def forward(self, x: Tensor, c: Tensor, label: Tensor | None = None) -> Tensor:
            assert label is not None
            assert ((x[:, 0] > 0) == (label == 1)).all()
            return super().forward(x, c, label)

    labels = torch.arange(64) % 2
    data = (200.0 * labels - 100.0)[:, None].expand(64, 2).clone()
    model = ss.ScoreModel(Net(), ss.VESDE(sigma_max=1.0), prediction="epsilon")
    with pytest.warns(RuntimeWarning, match="standardize=True"):
        ss.train(model, data, labels=labels, steps=3, standardize=False, progress=False)


# Divergence.


class Exploding(Dropping):
    """Its loss (or only its gradient) is not finite from the tenth call on."""

    gradient = False

    def forward(self, x: Tensor, c: Tensor, label: Tensor | None = None) -> Tensor:
        y = super().forward(x, c, label)
        if self.calls <= 9:
            return y
        if self.gradient:
            return y + (0 * y).clamp(min=0).sqrt()
        return torch.where(torch.arange(len(y))[:, None] == 3, math.inf * y, y)


@pytest.mark.parametrize("gradient", [False, True])
def test_divergence_keeps_the_last_good_weights(tmp_path: Path, gradient: bool) -> None:
    path = tmp_path / "m.safetensors"
    model = ss.ScoreModel(Exploding(), ss.VPSDE(), prediction="epsilon")
    model.net.gradient = gradient
    torch.manual_seed(123)
    state = torch.random.get_rng_state()
    with pytest.raises(ss.errors.DivergenceError, match=r"step 9 .*m\.safetensors") as caught:
        run(model, path)
    assert caught.value.step == 9 and 0 <= caught.value.t <= 1
    assert len(caught.value.samples) == (0 if gradient else 1)
    assert all(p.isfinite().all() for p in model.parameters())
    assert read_manifest(path)["training"]["step"] == 7
    assert torch.equal(torch.random.get_rng_state(), state)
    ss.load(path, net=Exploding())


def test_divergence_without_a_file() -> None:
    with pytest.raises(ss.errors.DivergenceError, match="no checkpoint was written"):
        run(ss.ScoreModel(Exploding(), ss.VPSDE(), prediction="epsilon"))


# Watching.


def test_progress_bar_shows_the_running_loss(capsys: pytest.CaptureFixture[str]) -> None:
    run(make(), progress=True)
    shown = capsys.readouterr().err
    assert "training" in shown and "30/30" in shown and "relative_loss=" in shown
    run(make(), progress=False)
    assert capsys.readouterr().err == ""
