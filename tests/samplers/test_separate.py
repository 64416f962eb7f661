"""Where samples have times of their own, a score that sees more than its sample is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import sdescore as ss
from sdescore.errors import IncompatibleError
from sdescore.samplers.request import require_separate

VP = ss.VPSDE()
EXACT = ss.GaussianScore([1.0, -0.5, 2.0], 0.25, VP)
X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))

RUNS: dict[str, Callable[[Any, Tensor], object]] = {
    "encode": lambda score, x: ss.ProbabilityFlow(VP).encode(score, x),
    "decode": lambda score, x: ss.ProbabilityFlow(VP).decode(score, x),
    "likelihood": lambda score, x: ss.ProbabilityFlow(VP).log_likelihood(score, x),
    "adaptive": lambda score, x: ss.AdaptiveSampler(VP).sample(score, init=x),
    "adaptive, noise": lambda score, x: ss.AdaptiveSampler(VP, eta=1.0).sample(score, init=x),
}


def first_time(x: Tensor, t: Tensor) -> Tensor:
    return EXACT(x, t.reshape(-1)[0])


def batch_mean(x: Tensor, t: Tensor) -> Tensor:
    return EXACT(x - x.mean(0), t)


class FirstTime(torch.nn.Module):
    """A network that predicts ε and reads one time."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return EXACT.epsilon(x, t[0].double())


SEEN = {
    "one time": first_time,
    "the mean of the batch": batch_mean,
    "a network that reads one time": ss.ScoreModel(FirstTime(), VP, "epsilon"),
}


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("score", SEEN)
def test_a_score_that_sees_the_batch_is_refused(score: str, run: str) -> None:
    with pytest.raises(IncompatibleError, match=r"by itself, at its own time .* t.reshape"):
        RUNS[run](SEEN[score], X)


class Softmax(torch.nn.Module):
    """The log probability of a class by a softmax over the batch, in place of one over classes."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return (2 * x[:, 0]).log_softmax(0)


SEEN_SECOND = ss.inverse.Measurement(
    torch.tensor([1.0]), ss.inverse.Mask(torch.tensor([False, True, False])), 0.3
)
MADE: dict[str, Callable[[], Any]] = {
    "classifier": lambda: ss.classifier_guidance(EXACT, Softmax(), 2.0),
    "classifier-free": lambda: ss.classifier_free(COUPLED, EXACT, 2.0),
    "dps": lambda: ss.inverse.dps(COUPLED, SEEN_SECOND),
    "diffpir": lambda: ss.inverse.diffpir(COUPLED, SEEN_SECOND),
}


def coupled(x: Tensor, t: Tensor) -> Tensor:
    return batch_mean(x, t)


COUPLED: Any = coupled
COUPLED.sde = VP


@pytest.mark.parametrize("how", ["sample", "iterate"])
@pytest.mark.parametrize("made", MADE)
def test_a_score_made_of_others_that_sees_the_batch_is_refused(made: str, how: str) -> None:
    sampler = ss.PredictorCorrector(VP, steps=20)
    with pytest.raises(IncompatibleError, match=r"changes by .* beside another"):
        if how == "sample":
            sampler.sample(MADE[made](), (4, 3), max_batch=2)
        else:
            next(sampler.iterate(MADE[made](), (4, 3)))
    assert sampler.sample(MADE[made](), (1, 3)).isfinite().all()  # alone it sees no other


def test_it_is_asked_where_noise_and_data_are_alike() -> None:
    """Of a VE SDE up to σ = 50: at σ near 1, of states as large as they are there."""
    sde, seen = ss.VESDE(sigma_max=50.0), list[tuple[float, float]]()

    class Recorded(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sde, self.exact = sde, ss.GaussianScore(torch.zeros(1000), 1.0, sde)

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            seen.append((sde.marginal(t)[1].item(), x.std().item()))
            return self.exact(x, t)

    guided = ss.guidance.product([Recorded()])
    ss.PredictorCorrector(sde, steps=40).sample(guided, (2, 1000))
    for sigma, std in seen[:2]:
        assert 0.8 < sigma < 1.25
        assert std == pytest.approx((1 + sigma**2) ** 0.5, rel=0.1)  # 1000 numbers: ± 2.3 %
    assert seen[2][0] == pytest.approx(50, rel=1e-3)  # then the chain begins


def test_particles_whose_guide_sees_the_batch_are_refused() -> None:
    smc = ss.inverse.TwistedSMC(VP, steps=10)
    with pytest.raises(IncompatibleError, match=r"changes by .* beside another"):
        smc.sample(ss.inverse.mmps(COUPLED, SEEN_SECOND), 8)


@pytest.mark.parametrize("run", RUNS)
def test_with_one_sample_there_is_nothing_to_see(run: str) -> None:
    RUNS[run](first_time, X[:1])


@pytest.mark.parametrize("method", ["rk4", "dopri8"])
def test_one_time_serves_where_all_samples_have_it(method: str) -> None:
    steps = {"steps": 8} if method == "rk4" else {}
    flow = ss.ProbabilityFlow(VP, method=method, **steps)
    assert torch.equal(flow.encode(first_time, X), flow.encode(EXACT, X))


def test_labels_are_those_of_the_two_samples() -> None:
    def score(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return EXACT(x - label[:, None], t)

    label = torch.tensor([0, 50, 3, 4])
    flow, sampler = ss.ProbabilityFlow(VP), ss.AdaptiveSampler(VP)
    flow.encode(score, X, label=label)
    sampler.sample(score, init=X, label=label)


def test_how_much_is_rounding() -> None:
    """A twentieth of the output passes, and any share of an output that cancels to nearly 0."""
    both = torch.tensor([[1.0, 1.0], [3.0, 4.0]])
    require_separate(both, 1.04 * both[1:])
    require_separate(both, 0.0 * both[1:] + 1e-9 + both[1:])
    require_separate(torch.tensor([[1e-9], [2e-9]]), torch.tensor([[7e-9]]))
    require_separate(torch.tensor([[1.0], [2e-6]]), torch.tensor([[-2e-6]]))
    require_separate(both * torch.nan, both[1:])
    for alone in (1.07 * both[1:], -both[1:], 0.0 * both[1:]):
        with pytest.raises(IncompatibleError, match="changes by"):
            require_separate(both, alone)
