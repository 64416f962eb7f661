"""What samplers ask of a model: eval mode in any thread, and an answer like its input."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

import sdescore as ss
from sdescore.samplers.request import evaluating

VP = ss.VPSDE()


class Dropping(nn.Module):
    """Dropout and batch norm, which differ between train and eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2, 32), nn.BatchNorm1d(32), nn.Dropout(), nn.Linear(32, 2)
        )

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return self.layers(x)


@pytest.mark.guards("W04")
def test_eight_threads_sample_one_network_in_train_mode() -> None:
    torch.manual_seed(0)
    model = ss.ScoreModel(Dropping(), VP, prediction="epsilon")
    model.net.layers[0].eval()  # a part that its owner has frozen
    modes = [m.training for m in model.modules()]
    sampler = ss.PredictorCorrector(VP, predictor=ss.DDIM(), steps=30)
    alone = [sampler.sample(model, (4, 2), seed=seed) for seed in range(4)]
    with ThreadPoolExecutor(8) as pool:
        runs = [pool.submit(sampler.sample, model, (4, 2), seed=n % 4) for n in range(32)]
        for n, run in enumerate(runs):
            assert torch.equal(run.result(), alone[n % 4])
    assert [m.training for m in model.modules()] == modes


def test_the_last_run_to_end_restores_train_mode() -> None:
    """Also where one model is part of another, and where a run fails."""
    net = Dropping()
    one, two = nn.Sequential(net), nn.Sequential(net)
    with evaluating(one):
        with pytest.raises(ValueError, match="mine"), evaluating(two):
            assert not net.training and not two.training
            raise ValueError("mine")
        assert not net.training and two.training and not net.layers[2].training
    assert all(m.training for m in [*one.modules(), *two.modules()])
    frozen = Dropping().eval()
    with evaluating(frozen):
        pass
    assert not any(m.training for m in frozen.modules())


@pytest.mark.parametrize(
    ("init", "match"),
    [
        (torch.zeros(2, 3, dtype=torch.complex64), "view_as_real"),
        (torch.zeros(2, 3).to(torch.float8_e4m3fn), "float8"),
        (torch.zeros(2, 3).to_sparse(), "dense"),
        (torch.zeros(2, 3, device="meta"), "real tensor with numbers"),
    ],
)
def test_starts_without_real_numbers(init: Tensor, match: str) -> None:
    def untouched(x: Tensor, t: Tensor) -> Tensor:
        pytest.fail("the model was called before the request was refused")

    for run in (
        ss.PredictorCorrector(VP, predictor=ss.ReverseDiffusion(), steps=3).sample,
        ss.AdaptiveSampler(VP).sample,
        ss.ProbabilityFlow(VP).sample,
    ):
        with pytest.raises(ss.errors.ShapeError, match=match):
            run(untouched, init=init)
    with pytest.raises(ss.errors.ShapeError, match=match):
        ss.ProbabilityFlow(VP).encode(untouched, init)
    with pytest.raises(ss.errors.ShapeError, match=match):
        ss.simulate(VP, init, steps=3)


@pytest.mark.slow
def test_a_real_level_fits_every_sampler_and_likelihood() -> None:
    """The error that an integer level raises names the time input with which all of these run."""
    table = ss.DiscreteVPSDE.linear(20, 1e-3, 0.3)
    exact = ss.GaussianScore([0.5], 0.2, table)

    def by_sines(x: Tensor, level: Tensor) -> Tensor:  # any function of a real level
        return exact.epsilon(x, (level + 1) / 20)

    integer = ss.ScoreModel(by_sines, table, "epsilon", "level")
    with pytest.raises(
        ss.errors.TimeError, match=r"by sines.*declare time_input='continuous_level'"
    ):
        integer(torch.ones(1, 1), 0.33)
    model = ss.ScoreModel(by_sines, table, "epsilon", "continuous_level")
    x = torch.tensor([[0.3]], dtype=torch.float64)
    for sampler in (
        ss.PredictorCorrector(table, grid=ss.LogSNRGrid(), steps=5),
        ss.recommended_sampler(table, data=torch.randn(64, 1), evaluations=5),
        ss.AdaptiveSampler(table),
    ):
        want = sampler.sample(exact, (2, 1), seed=3)
        torch.testing.assert_close(sampler.sample(model, (2, 1), seed=3), want, rtol=0, atol=1e-3)
    flow = ss.ProbabilityFlow(table)
    got, want = (flow.log_likelihood(m, x).log_prob.item() for m in (model, exact))
    assert abs(got - want) < 1e-4
    ve = ss.VESDE(sigma_min=0.05, sigma_max=3.0)
    moved = model.under(ve)(x, 0.4)
    torch.testing.assert_close(moved, exact.under(ve)(x, 0.4), rtol=1e-5, atol=1e-6)
