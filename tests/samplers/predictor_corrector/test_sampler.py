"""The sampler's loop: chunks, seeds, hand-stepping, resuming, divergence, any SDE."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

import sdescore as ss
from sdescore.score.mixture import GaussianScore
from tests.helpers.methods import Heun, Multistep

VP = ss.VPSDE()


def elementwise(x: Tensor, t: Tensor) -> Tensor:
    """Not affine, and each element on its own."""
    return -torch.tanh(x) / (0.1 + t)


def pc(**options: object) -> ss.PredictorCorrector:
    options = {"corrector": ss.Langevin(0.15, steps=2), "steps": 7} | options
    return ss.PredictorCorrector(VP, **options)


# Batch invariance.


@pytest.mark.guards("B10")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", ["expected", "sample"])
@pytest.mark.parametrize("max_batch", [1, 7, 64, 128])
def test_chunks_change_no_bit(max_batch: int, norm: str, dtype: torch.dtype) -> None:
    sampler = pc(corrector=ss.Langevin(0.15, norm=norm))
    whole = sampler.sample(elementwise, (70, 3), seed=9, dtype=dtype)
    parts = sampler.sample(elementwise, (70, 3), seed=9, dtype=dtype, max_batch=max_batch)
    assert whole.dtype == dtype
    assert torch.equal(whole, parts)


@pytest.mark.parametrize("k", [0, 1, 2, 33])
def test_a_smaller_request_is_a_prefix(k: int) -> None:
    sampler = pc()
    assert torch.equal(
        sampler.sample(elementwise, (34, 2, 3), seed=4)[:k],
        sampler.sample(elementwise, (k, 2, 3), seed=4),
    )


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_chunks_with_a_network(dtype: torch.dtype, atol: float) -> None:
    """A matrix product depends on the batch in its last bits."""
    net = ss.UNet(1, width=8, multipliers=(1, 2), blocks=1)
    for p in net.parameters():  # the last layer is zero when made
        torch.nn.init.normal_(p, std=0.1)
    model = ss.ScoreModel(net.to(dtype), VP)
    sampler = pc(
        corrector=ss.NoCorrector(), predictor=ss.DDIM(0.5), steps=None, grid=[0.4, 0.2, 0.1]
    )
    whole = sampler.sample(model, (9, 1, 8, 8), seed=1)
    assert whole.dtype == dtype and 0.1 < whole.std() < 3
    for max_batch in (1, 4, 9):
        parts = sampler.sample(model, (9, 1, 8, 8), seed=1, max_batch=max_batch)
        torch.testing.assert_close(parts, whole, rtol=0, atol=atol)


def test_seeds_differ_and_repeat() -> None:
    sampler = pc()
    one, two = (sampler.sample(elementwise, (5, 2), seed=s) for s in (1, 2))
    assert not (one == two).any()
    assert torch.equal(one, sampler.sample(elementwise, (5, 2), seed=1))
    assert torch.equal(one, sampler.sample(elementwise, (5, 2), noise=ss.noise.SeededNoise(1)))


def test_labels_init_and_noise_are_chunked_with_the_samples() -> None:
    label = torch.arange(6)
    init, z = torch.randn(6, 2), torch.randn(20, 6, 2)

    def score(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return label[:, None] - x

    sampler = pc(corrector=ss.NoCorrector())
    options = {"init": init, "label": label, "noise": ss.noise.ReplayNoise(z)}
    whole = sampler.sample(score, **options)
    assert torch.equal(whole, sampler.sample(score, max_batch=4, **options))
    one = sampler.sample(
        score, init=init[5:], label=label[5:], noise=ss.noise.ReplayNoise(z[:, 5:])
    )
    assert torch.equal(whole[5:], one)


def test_what_is_given_is_not_changed() -> None:
    init, z = torch.randn(3, 2), torch.randn(20, 3, 2)
    copies = init.clone(), z.clone()
    pc().sample(elementwise, init=init, noise=ss.noise.ReplayNoise(z))
    pc().sample(elementwise, (3, 2), noise=ss.noise.ReplayNoise(z))
    assert torch.equal(init, copies[0]) and torch.equal(z, copies[1])


def test_a_score_that_returns_its_input_or_keeps_its_output() -> None:
    kept = []

    def identity(x: Tensor, t: Tensor) -> Tensor:
        return x

    def keeping(x: Tensor, t: Tensor) -> Tensor:
        kept.append((-x, x.clone()))
        return kept[-1][0]

    sampler = pc(corrector=ss.NoCorrector(), predictor=ss.DDIM(), steps=3)
    torch.testing.assert_close(
        sampler.sample(identity, (4, 2)), sampler.sample(lambda x, t: x.clone(), (4, 2))
    )
    sampler.sample(keeping, (4, 2))
    assert all(torch.equal(o, -x) for o, x in kept)


def test_a_method_with_two_noises_keeps_the_first_while_the_second_is_drawn(monkeypatch) -> None:
    """A draw is valid until the next, and with a short buffer the next overwrites it."""

    class TwoNoises(ss.EulerMaruyama):
        def tableau(self, sde: ss.LinearSDE, times: Tensor) -> ss.Tableau:
            base = super().tableau(sde, times)
            c = base.c * torch.tensor([0.6, 0.8])
            return ss.Tableau(base.times, base.a, base.b, c)

    sampler = pc(predictor=TwoNoises())
    long = sampler.sample(elementwise, (3, 2))
    monkeypatch.setattr(ss.noise.sources, "_BUFFER", 1)
    assert torch.equal(sampler.sample(elementwise, (3, 2)), long)


# One step at a time.

METHODS = [
    {"predictor": ss.EulerMaruyama()},
    {"predictor": ss.DDIM(), "corrector": ss.Langevin(norm="sample")},
    {"predictor": Heun()},
    {"predictor": Multistep(), "corrector": ss.Langevin(0.1)},
    {"predictor": ss.NoPredictor(), "corrector_first": True},
    {"predictor": ss.Ancestral(), "corrector_first": True},
    {"predictor": ss.Ancestral(), "denoise": False},
]


@pytest.mark.parametrize("options", METHODS, ids=lambda o: type(o["predictor"]).__name__)
def test_iterate_is_sample_and_resumes_from_anywhere(options: dict) -> None:
    sampler = pc(**options)
    score = GaussianScore([1.0, -1.0], 0.5, VP)
    end = sampler.sample(score, (3, 2), seed=8)
    states = list(sampler.iterate(score, (3, 2), seed=8))
    assert torch.equal(states[-1].x, end)
    assert [s.step for s in states] == sorted({s.step for s in states})
    assert all(len(s.outputs) <= 2 for s in states)  # no more than the method looks back
    assert states[-1].t == (sampler.times[-1].item() if options.get("denoise") is False else 0.0)
    for stop in range(len(states)):
        chain = sampler.iterate(score, (3, 2), seed=8)
        state = [next(chain) for _ in range(stop + 1)][-1]  # the latest of a run that was left
        saved = copy.deepcopy(state)
        for start in (state, saved):
            rest = list(sampler.iterate(score, start=start, seed=8))
            assert torch.equal((rest or [state])[-1].x, end)
            assert [s.step for s in rest] == [s.step for s in states if s.step > state.step]


def test_a_kept_state_does_not_change() -> None:
    copies, states = [], []
    for state in pc(predictor=Multistep()).iterate(elementwise, (2, 2)):
        states.append(state)
        copies.append((state.step, state.t, state.x.clone(), state.denoised.clone()))
    for state, (step, t, x, denoised) in zip(states, copies, strict=True):
        assert (state.step, state.t) == (step, t)
        assert torch.equal(state.x, x) and torch.equal(state.denoised, denoised)


def test_times_and_the_denoised_of_each_state() -> None:
    """``denoised`` is Tweedie's mean at the last evaluation: before the move, exact score."""
    score = GaussianScore([1.0, -1.0], 0.5, VP)
    sampler = pc(corrector=ss.NoCorrector(), steps=5)
    before = VP.prior_std() * ss.noise.standard_normal(2, range(3), range(1), (2,))[0]
    for state, t in zip(sampler.iterate(score, (3, 2), seed=2), sampler.times, strict=True):
        torch.testing.assert_close(state.denoised, score.denoise(before, t), rtol=1e-4, atol=1e-4)
        before = state.x.clone()
    torch.testing.assert_close(state.x, state.denoised)
    assert [s.t for s in sampler.iterate(score, (3, 2))] == [*sampler.times[1:].tolist(), 0.0]


def test_denoised_folds_a_networks_convention() -> None:
    model = ss.ScoreModel(lambda x, c: torch.full_like(x, 0.25), VP, prediction="x0")
    for state in pc().iterate(model, (2, 3)):
        torch.testing.assert_close(state.denoised, torch.full((2, 3), 0.25), atol=1e-4, rtol=0)


def test_steering_changes_what_follows_and_nothing_before() -> None:
    sampler = pc(corrector=ss.NoCorrector(), predictor=ss.EulerMaruyama())
    plain = list(sampler.iterate(elementwise, (2, 2), seed=3))
    steered = []
    for state in sampler.iterate(elementwise, (2, 2), seed=3):
        if state.step == 3:
            state.x = state.x + 1
        steered.append(state)
    assert torch.equal(plain[1].x, steered[1].x)
    assert torch.equal(plain[2].x + 1, steered[2].x)
    assert not (plain[3].x == steered[3].x).any()
    by_hand = ss.PredictorCorrector(VP, predictor=ss.EulerMaruyama(), grid=sampler.times[3:])
    noise = ss.noise.ReplayNoise(
        torch.cat([torch.zeros(1, 2, 2), ss.noise.standard_normal(3, range(2), range(4, 7), (2,))])
    )
    again = by_hand.sample(elementwise, init=steered[2].x, noise=noise)
    torch.testing.assert_close(again, steered[-1].x)


# The start.


@pytest.mark.parametrize("sde", [ss.VESDE(sigma_min=0.1, sigma_max=4.0), VP], ids=["ve", "vp"])
def test_the_prior_is_the_first_times_and_may_remember_the_data(sde: ss.LinearSDE) -> None:
    z = torch.randn(2, 3, 2)
    for grid, t in (([1.0, 0.2], 1.0), ([0.5, 0.2], 0.5)):
        for data_std in (0.0, 3.0):
            sampler = ss.PredictorCorrector(
                sde, predictor=ss.NoPredictor(), grid=grid, data_std=data_std, denoise=False
            )
            x = sampler.sample(elementwise, (3, 2), noise=ss.noise.ReplayNoise(z))
            alpha, sigma = (v.item() for v in sde.marginal(t))
            torch.testing.assert_close(x, math.hypot(sigma, alpha * data_std) * z[0])


# Divergence.


def breaks_at(t_break: float, rows: list[int]):
    def score(x: Tensor, t: Tensor) -> Tensor:
        s = -x.clone()
        if t <= t_break + 1e-6:
            s[[r for r in rows if r < len(x)]] = math.nan
        return s

    return score


@pytest.mark.parametrize("step", [0, 1, 15, 16, 17, 30, 39])
@pytest.mark.parametrize("way", ["sample", "iterate"])
def test_divergence_names_the_step_the_time_and_the_samples(step: int, way: str) -> None:
    sampler = ss.PredictorCorrector(VP, steps=40)
    t = sampler.times[step].item()
    with pytest.raises(ss.errors.DivergenceError, match=f"step {step} ") as caught:
        score = breaks_at(t, [1, 3])
        if way == "sample":
            sampler.sample(score, (5, 2))
        else:
            list(sampler.iterate(score, (5, 2)))
    error = caught.value
    assert (error.step, error.samples, error.finished) == (step, [1, 3], None)
    assert error.t == pytest.approx(t, abs=1e-12)


@pytest.mark.parametrize("predictor", [ss.EulerMaruyama(0.0), Multistep()], ids=repr)
def test_a_state_that_grows_out_of_range_is_named_at_the_step_it_does(predictor) -> None:
    """``sample`` looks every few rows and goes back; ``iterate`` looks at each."""
    sampler = ss.PredictorCorrector(VP, predictor=predictor, steps=80)
    errors = []
    for run in (sampler.sample, lambda *a, **o: list(sampler.iterate(*a, **o))):
        with pytest.raises(ss.errors.DivergenceError) as caught:
            run(lambda x, t: x + x**3, init=torch.tensor([[1e-6], [1e-3]]))
        errors.append((caught.value.step, caught.value.t, caught.value.samples))
    assert errors[0] == errors[1]
    assert errors[0][0] > 17 and errors[0][2] == [1]


def test_a_broken_score_stops_the_run_soon() -> None:
    calls = []

    def score(x: Tensor, t: Tensor) -> Tensor:
        calls.append(t)
        return x * math.nan

    with pytest.raises(ss.errors.DivergenceError, match="step 0 "):
        ss.PredictorCorrector(VP, steps=1000).sample(score, (2, 2))
    assert len(calls) <= 50


def test_divergence_in_a_later_chunk_keeps_what_was_finished() -> None:
    sampler = ss.PredictorCorrector(VP, steps=5)
    calls = []

    def score(x: Tensor, t: Tensor) -> Tensor:
        calls.append(t)
        return x * math.inf if len(calls) > 10 else -x

    whole = ss.PredictorCorrector(VP, steps=5).sample(lambda x, t: -x, (9, 2))
    with pytest.raises(ss.errors.DivergenceError) as caught:
        sampler.sample(score, (9, 2), max_batch=4)
    assert torch.equal(caught.value.finished, whole[:8])
    assert caught.value.samples == [8]


def test_a_corrector_that_diverges_is_named_too() -> None:
    with pytest.raises(ss.errors.DivergenceError, match="corrector") as caught:
        pc(corrector=ss.Langevin(snr=1e12, steps=2), steps=5).sample(lambda x, t: -x, (1, 2))
    assert caught.value.step == 0 and caught.value.t == pc(steps=5).times[1].item()


# A diffusion that is not linear.


class DoubleWell(ss.SDE):
    """``dx = (x − x³) dt + 0.7 dw``."""

    T = 1.0

    def drift(self, x: Tensor, t: ss.typing.Time) -> Tensor:
        return x - x**3

    def diffusion(self, t: ss.typing.Time) -> Tensor:
        return torch.full_like(torch.as_tensor(t, dtype=torch.float64), 0.7)


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_a_nonlinear_sde_runs_and_is_reverse_sde_by_hand(eta: float) -> None:
    sde, n = DoubleWell(), 20
    sampler = ss.PredictorCorrector(sde, predictor=ss.EulerMaruyama(eta), steps=n, denoise=False)
    init, z = torch.randn(2, 5, 2).double(), torch.randn(n + 1, 5, 2).double()

    def score(x: Tensor, t: Tensor) -> Tensor:
        """Of the stationary density, exp(2 (x²/2 − x⁴/4) / 0.49)."""
        return 2 * (x - x**3) / 0.49

    got = sampler.sample(score, init=init[0], noise=ss.noise.ReplayNoise(z), dtype=torch.float64)
    reverse, x = sde.reverse(score, eta), init[0]
    for k in range(n):
        t, h = torch.tensor(1 - k / n).double(), 1 / n
        x = x - h * reverse.drift(x, t) + math.sqrt(h) * reverse.diffusion(t) * z[k + 1]
    torch.testing.assert_close(got, x, rtol=1e-12, atol=1e-12)
    states = list(sampler.iterate(score, init=init[0], dtype=torch.float64))
    assert states[-1].denoised is None and len(states) == n
    if not eta:
        assert len(sampler.program.spans) == 1


def test_a_progress_bar_counts_every_move(capsys: pytest.CaptureFixture[str]) -> None:
    """39 moves and the last denoise, in each of three parts of the batch."""
    pytest.importorskip("tqdm")
    sampler = ss.PredictorCorrector(ss.VPSDE(), predictor=ss.DDIM(), steps=40)
    quiet = sampler.sample(lambda x, t: -x, (5, 2), max_batch=2)
    assert capsys.readouterr().err == ""
    shown = sampler.sample(lambda x, t: -x, (5, 2), max_batch=2, progress=True)
    assert "120/120" in capsys.readouterr().err and torch.equal(shown, quiet)
