"""Wrappers of a score: what is known through them, and a call that writes to its arguments."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sdescore as ss
from sdescore.errors import IncompatibleError

VP, EDM = ss.VPSDE(), ss.EDMSDE()
SAMPLER = ss.PredictorCorrector(VP, predictor=ss.DDIM(), steps=10)
MEAN, STD = 100.0, 5.0


class Denoiser(nn.Module):
    """x̂₀ of N(0, 1), or ``label`` where it has one; with dropout that is seen in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        if label is not None:
            return 0 * x + label[:, None]
        return self.drop(ss.GaussianScore([0.0], 1.0, VP).denoise(x, t))


def scaled(**options: Any) -> ss.ScoreModel:
    options = {"data_mean": MEAN, "data_std": STD} | options
    return ss.ScoreModel(Denoiser(), VP, "x0", "t", **options)


WRAPPED: dict[str, Callable[[ss.ScoreModel], Any]] = {
    "partial": lambda model: functools.partial(model, label=None),
    "forward": lambda model: model.forward,
    "DataParallel": nn.DataParallel,
}


@pytest.mark.parametrize("how", WRAPPED)
def test_a_wrapper_hides_neither_the_datas_scale_nor_eval_mode(how: str) -> None:
    """The data are N(100, 25): the flow's log density is that of the closed form."""
    model = scaled().train()
    wrapped = WRAPPED[how](model)
    assert torch.equal(SAMPLER.sample(wrapped, (4, 1)), SAMPLER.sample(model, (4, 1)))
    x = torch.tensor([[100.0], [104.0]])
    found = ss.ProbabilityFlow(VP).log_likelihood(wrapped, x).log_prob
    exact = torch.distributions.Normal(MEAN, STD).log_prob(x[:, 0])
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-3)


@pytest.mark.parametrize("how", WRAPPED)
def test_a_wrapper_hides_no_number_of_the_model(how: str) -> None:
    wrapped = WRAPPED[how](scaled(data_range=(0.0, 255.0), sigma_data=0.5))
    assert "range=(0, 255)" in repr(ss.guidance.clipped(wrapped))
    assert "range=(0, 255)" in repr(ss.guidance.clipped(ss.under(wrapped, EDM)))
    seen = ss.inverse.Measurement(torch.ones(1), ss.inverse.Mask(torch.ones(1).bool()), 0.3)
    for score in (wrapped, ss.guidance.product([wrapped]), ss.under(wrapped, EDM)):
        assert ss.inverse.pigdm(score, seen).data_std == 0.5


def test_a_module_of_ones_own_is_not_what_it_holds() -> None:
    """It may change the score: here to that of another temperature, whose density is another."""

    class Tempered(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return 0.25 * self.module(x, t)

    energy = ss.EnergyModel(lambda x, c: -0.5 * x.square().sum(1) + 0 * c)
    tempered = Tempered(ss.ScoreModel(energy, VP, "score", "t"))
    with pytest.raises(IncompatibleError, match="knows its log density"):
        ss.langevin.chains(tempered, torch.zeros(4, 1), 0.3, 3, t=0.5, method="mala")
    with pytest.raises(IncompatibleError, match="a model on the sampler's SDE"):  # the SDE it has
        ss.PredictorCorrector(EDM, steps=2).sample(tempered, (2, 1))


@pytest.mark.parametrize("how", WRAPPED)
def test_a_reversal_looks_through_wrappers(how: str) -> None:
    with pytest.raises(IncompatibleError, match=r"a score on VPSDE.*one on EDMSDE"):
        VP.reverse(WRAPPED[how](ss.ScoreModel(Denoiser(), EDM)))


def test_models_of_one_network_are_evaluated_alike() -> None:
    """The network is shared; each model has a mode of its own."""
    model = scaled()
    other = model.under(EDM).eval()
    model.train()
    sampler = ss.PredictorCorrector(EDM, predictor=ss.DDIM(), steps=5)
    assert torch.equal(sampler.sample(other, (3, 1)), sampler.sample(other, (3, 1)))
    assert model.training and model.net.training and not other.training


def test_what_training_measures_is_true_of_all_models_of_a_network() -> None:
    model = ss.ScoreModel(ss.MLP(1, hidden=8, classes=2), VP)
    others = model.under(EDM), ss.guidance.perturbed(model, ["net.blocks.0"])
    data, labels = MEAN + STD * torch.randn(64, 1), torch.arange(64) % 2
    ss.train(model, data, labels=labels, steps=2, progress=False)
    assert model.data_scale.mean != 0 and model.label_required
    for other in others:
        assert (other.data_scale, other.label_required) == (model.data_scale, True)
    copied = ss.EMA(model.net), model.under(EDM)  # and a copy for a run that is refused is apart
    with pytest.raises(ss.errors.ParameterError):
        ss.train(model, data, labels=labels, steps=2, lr=-1.0, progress=False)
    assert copied[1].data_scale == model.data_scale


class Writes(nn.Module):
    """A network that writes to one of its arguments."""

    def __init__(self, which: int) -> None:
        super().__init__()
        self.which = which

    def forward(self, *arguments: Tensor) -> Tensor:
        if self.which < len(arguments):
            arguments[self.which].mul_(0).add_(1)
        return 0 * arguments[0]


RUNS: dict[str, Callable[[Any, Tensor], object]] = {
    "chain": lambda model, label: SAMPLER.sample(model, (3, 1), label=label),
    "flow": lambda model, label: ss.ProbabilityFlow(VP).sample(model, (3, 1), label=label),
}
COPIES: dict[str, Callable[[Any, Tensor], object]] = {
    "adaptive": lambda model, label: ss.AdaptiveSampler(VP).sample(model, (3, 1), label=label),
    "loss": lambda model, label: ss.denoising_loss(model, torch.zeros(3, 1), label=label),
    "call": lambda model, label: model(torch.zeros(3, 1), 0.5, label),
    "guided": lambda model, label: ss.classifier_free(model, model, 2.0, batched=False)(
        torch.zeros(3, 1), 0.5, label
    ),
    "condition": lambda model, label: ss.guidance.condition(model, 0)(torch.zeros(1, 1), 0.5),
}


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("inference", [False, True])
def test_a_network_that_writes_to_its_label_is_refused(run: str, inference: bool) -> None:
    label = torch.tensor([0, 1, 2])
    model = ss.ScoreModel(Writes(2), VP, "x0", "t")
    mode = torch.inference_mode(inference and run == "chain")
    with mode, pytest.raises(IncompatibleError, match="leave its input as it is"):
        RUNS[run](model, label)


@pytest.mark.parametrize("call", COPIES)
def test_a_call_of_a_network_that_writes_to_its_label_leaves_the_callers_alone(call: str) -> None:
    label = torch.tensor([0, 1, 2])
    COPIES[call](ss.ScoreModel(Writes(2), VP, "x0", "t"), label)
    assert label.tolist() == [0, 1, 2]


def test_a_score_that_writes_to_its_state_is_refused_in_inference_mode_too() -> None:
    def score(x: Tensor, t: Tensor) -> Tensor:
        y = -x.clone()
        x.mul_(0.5)
        return y

    refused = pytest.raises(IncompatibleError, match="leave its input as it is")
    with torch.inference_mode(), refused:
        SAMPLER.sample(score, (2, 1))
    with pytest.raises(IncompatibleError, match="leave its input as it is"):
        ss.simulate(VP.reverse(score), torch.zeros(2, 1), steps=3, start=1.0, end=0.5)


def test_a_score_may_return_one_buffer_again_and_again() -> None:
    """s₁ = 2 − x and s₀ = −x with ω = 3 at x = 0: 3 · 2 − 2 · 0 = 6."""

    class Buffered:
        sde, buffer = VP, torch.zeros(1, 1)

        def __call__(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
            return self.buffer.copy_(-x if label is None else 2 - x)

    score = Buffered()
    guided = ss.classifier_free(score, score, 3.0)
    assert guided(torch.zeros(1, 1), torch.tensor(0.5), torch.tensor([0])).item() == 6.0


def test_a_predictor_may_write_to_its_noise() -> None:
    class Rough(ss.Predictor):
        noises = 1

        def step(self, sde: Any, x: Tensor, score: Any, t: float, s: float, z: Tensor) -> Tensor:
            return x + 0.1 * z.mul_(2)

    sampler = ss.PredictorCorrector(VP, Rough(), steps=4, denoise=False)
    z = torch.ones(9, 2, 1)
    before = z.clone()
    sampler.sample(lambda x, t: -x, (2, 1), noise=ss.noise.ReplayNoise(z))
    assert torch.equal(z, before)
