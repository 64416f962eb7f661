"""Samples do not depend on their batch; the start; diffusions that are not linear."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import sdescore as ss
from tests.helpers.chunks import VP, elementwise, pc


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
    model = ss.ScoreModel(net.to(dtype), VP, prediction="epsilon")
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
