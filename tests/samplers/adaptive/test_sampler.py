"""The adaptive sampler on any model, dtype and shape; what it refuses."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import sdescore as ss
from sdescore.samplers.adaptive import run as run_module
from sdescore.samplers.adaptive.path import NoisePath
from sdescore.samplers.adaptive.sampler import AdaptiveSampler
from tests.helpers.adaptive import BIMODAL, F64, VP, Watched


@pytest.mark.parametrize("prediction", ["score", "epsilon", "x0", "v"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_any_prediction_is_the_same_score(prediction: str, eta: float) -> None:
    def net(x: Tensor, c: Tensor) -> Tensor:
        assert c.shape == x.shape[:1]
        t = VP.time_at_log_snr(c.double())
        alpha, sigma = VP.marginal(t)
        return ss.convert(BIMODAL(x, t), x, alpha, sigma, "score", prediction)

    class Net(nn.Module):
        """In float64, so that nothing is rounded on the way."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones((), dtype=F64))
            self.modes: list[bool] = []

        def forward(self, x: Tensor, c: Tensor) -> Tensor:
            self.modes.append(self.training)
            return net(x, c)

    model = ss.ScoreModel(Net(), VP, prediction=prediction, time_input="log_snr")
    sampler = AdaptiveSampler(VP, eta=eta)
    ours = sampler.solve(model, (5, 2), seed=2)
    plain = sampler.solve(BIMODAL, (5, 2), seed=2, dtype=F64)
    torch.testing.assert_close(ours.x, plain.x, rtol=1e-6, atol=1e-8)
    assert torch.equal(ours.evaluations, plain.evaluations)
    assert ours.x.dtype == F64 and not ours.x.requires_grad
    assert not any(model.net.modes) and model.training


@pytest.mark.parametrize("shape", [(0, 3), (2,), (3, 0), (2, 1, 2, 2)])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_any_shape(shape: tuple[int, ...], eta: float) -> None:
    result = AdaptiveSampler(VP, eta=eta).solve(lambda x, t: -x, shape, progress=False)
    assert result.x.shape == shape and result.x.dtype == torch.float32
    for counts in (result.accepted, result.rejected, result.evaluations):
        assert counts.shape == shape[:1] and counts.dtype == torch.int64
    assert bool((result.evaluations > 0).all())


def test_an_init_is_where_it_starts_and_stays_as_it_is() -> None:
    init = VP.prior_std() * ss.noise.standard_normal(5, range(3), range(1), (2,))[0]
    kept = init.clone()
    sampler = AdaptiveSampler(VP)
    # The noise of a run from init is another; without noise the start is all there is.
    flow = AdaptiveSampler(VP, eta=0.0)
    assert torch.equal(flow.sample(BIMODAL, init=init), flow.sample(BIMODAL, (3, 2), seed=5))
    drawn = sampler.sample(BIMODAL, (3, 2), seed=5)
    assert not (sampler.sample(BIMODAL, init=init, seed=5) == drawn).any()
    chunks = sampler.sample(BIMODAL, init=init, seed=5, max_batch=2)
    assert torch.equal(chunks, sampler.sample(BIMODAL, init=init, seed=5))
    assert torch.equal(init, kept)
    other = sampler.sample(BIMODAL, init=init, seed=6)
    assert not torch.equal(other, sampler.sample(BIMODAL, init=init, seed=5))
    assert sampler.sample(BIMODAL, init=init, dtype=F64).dtype == F64


def test_progress_counts_samples_and_draws_are_used_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Draw 0 is the start's; each trial has two of its own."""
    drawn: list[list[int]] = []
    run = run_module.run

    class Recorded:
        def __init__(self, stream) -> None:
            self.stream = stream

        def draw(self, k: int) -> Tensor:
            drawn[-1].append(k)
            return self.stream.draw(k)

    def spy(rules, at, stream, evaluate, samples):
        drawn.append([])
        return run(rules, at, Recorded(stream), evaluate, samples)

    monkeypatch.setattr("sdescore.samplers.adaptive.sampler.run", spy)
    result = AdaptiveSampler(VP).solve(BIMODAL, (5, 2), progress=True, max_batch=2)
    assert "5/5" in capsys.readouterr().err
    trials = (result.accepted + result.rejected).split(2)
    assert drawn == [list(range(1, 1 + 2 * int(chunk.max()))) for chunk in trials]


def test_what_was_passed_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many steps take no more memory than few."""
    slots: list[int] = []
    honest = NoisePath.normal

    def spy(self: NoisePath, t: Tensor, s: Tensor) -> Tensor:
        slots.append(self.lam.shape[1])
        return honest(self, t, s)

    monkeypatch.setattr(NoisePath, "normal", spy)
    result = AdaptiveSampler(VP, max_step_size=0.1).solve(lambda x, t: -x, (2, 2))
    assert result.accepted.min() > 80 and max(slots) < 12


def test_a_sampler_is_a_value() -> None:
    sampler = AdaptiveSampler(VP, eta=0.5, rtol=0.1)
    assert eval(repr(sampler), {name: getattr(ss, name) for name in ss.__all__}) == sampler
    assert hash(sampler) == hash(AdaptiveSampler(ss.VPSDE(), eta=0.5, rtol=0.1))


# Refusals.


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_score_that_is_not_finite(value: float) -> None:
    """Which samples and when; the chunks before are kept."""
    label = torch.arange(6)

    def score(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        broken = (label[:, None] == 4) & (t[:, None] < 0.3)
        return torch.where(broken, value, BIMODAL(x, t))

    sampler = AdaptiveSampler(VP)
    with pytest.raises(ss.errors.DivergenceError, match=r"1 samples: 4 \(t = 0\.") as caught:
        sampler.sample(score, (6, 2), label=label, max_batch=3)
    error = caught.value
    assert error.samples == [4] and error.t < 0.3 and error.step > 1
    assert torch.equal(error.finished, sampler.sample(BIMODAL, (3, 2)))
    with pytest.raises(ss.errors.DivergenceError) as caught:
        sampler.sample(score, (6, 2), label=label)
    assert caught.value.finished is None


@pytest.mark.parametrize("n", [1, 4])
def test_a_divergence_names_the_trial(n: int) -> None:
    """Whichever evaluation it is in; the last denoise comes after the trials of all samples."""
    calls = 0

    def failing(at: float, x: Tensor, t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return BIMODAL(x, t) if calls < at else torch.full_like(x, math.nan)

    sampler = AdaptiveSampler(VP, rtol=0.3, atol=0.1)
    whole = sampler.solve(partial(failing, math.inf), (n, 2), seed=2)
    trials = (whole.accepted + whole.rejected).tolist()
    assert n == 1 or min(trials) < max(trials)
    found, door = [], 0 if n == 1 else 2  # whose two calls see whether samples are separate
    for call in range(door + 1, calls + 1):
        calls, seen = 0, []
        with pytest.raises(ss.errors.DivergenceError) as caught:
            seen += sampler.iterate(partial(failing, call), (n, 2), seed=2)
        found.append(caught.value.step)
        assert found[-1] == len(seen) + 1
    assert sorted({*found}) == [*range(1, max(trials) + 2)] and found.count(max(trials) + 1) == 1


def test_a_tolerance_out_of_reach_ends() -> None:
    sampler = AdaptiveSampler(VP, rtol=0.0, atol=1e-9, max_steps=7)
    score = Watched(BIMODAL)
    with pytest.raises(ss.errors.DivergenceError, match=r"max_steps=7.*Raise rtol") as caught:
        sampler.sample(score, (2, 2), label=torch.arange(2))
    assert caught.value.samples == [0, 1] and caught.value.step == 7
    assert len(score.calls) <= 2 * 7
    # A sample that is done with its last allowed trial is done.
    easy = AdaptiveSampler(VP, denoise=False).solve(lambda x, t: -x, (3, 1))
    most = int((easy.accepted + easy.rejected).max())
    exact = AdaptiveSampler(VP, max_steps=most, denoise=False).sample(lambda x, t: -x, (3, 1))
    assert torch.equal(exact, easy.x)
    with pytest.raises(ss.errors.DivergenceError):
        AdaptiveSampler(VP, max_steps=most - 1).sample(lambda x, t: -x, (3, 1))


def test_a_score_that_no_step_is_short_enough_for() -> None:
    """It jumps by 1e20 from call to call: given up when steps vanish, not when trials run out."""
    calls = [0]

    def score(x: Tensor, t: Tensor) -> Tensor:
        calls[0] += 1
        return torch.full_like(x, 1e20 * (-1) ** calls[0])

    with pytest.raises(ss.errors.DivergenceError, match="longer than") as caught:
        AdaptiveSampler(VP, rtol=0.0).sample(score, (1, 1))
    assert caught.value.step < 20 and caught.value.t == VP.T


def test_a_progress_bar_counts_samples(capsys: pytest.CaptureFixture[str]) -> None:
    """Also those that arrive together."""
    pytest.importorskip("tqdm")
    AdaptiveSampler(VP, eta=0.0).sample(BIMODAL, init=torch.ones(5, 2), max_batch=3, progress=True)
    assert "5/5" in capsys.readouterr().err


def test_a_run_from_t_max_starts_from_the_prior_there() -> None:
    """With the data's standard deviation known, Gaussian data come out as they are.

    From the prior at T they would come out 1.7 times as wide. 2,000 numbers give a standard
    deviation to 8 % at 5 standard errors.
    """
    sde = ss.VPSDE()
    sampler = ss.AdaptiveSampler(sde, eta=0.0, t_max=0.1, data_std=0.5)
    x = sampler.sample(ss.GaussianScore(torch.zeros(1), 0.25, sde), (2000, 1))
    assert abs(x.std().item() - 0.5) < 0.05
    times = next(sampler.iterate(lambda x, t: -x, (3, 1))).t
    assert bool((times < 0.1).all())
