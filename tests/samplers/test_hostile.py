"""Scores, states and parts that misbehave: refused or made harmless, never silently wrong."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy
import pytest
import torch
from torch import Tensor

import sdescore as ss
from sdescore.__main__ import main

SDE = ss.VPSDE()
SAMPLER = ss.PredictorCorrector(
    SDE, predictor=ss.ReverseDiffusion(), corrector=ss.Langevin(snr=0.1), steps=6
)


def last_row(x: Tensor, t: Tensor) -> Tensor:
    """A view of the state that does not start where the state does."""
    return x[-1:].expand_as(x)


@pytest.mark.parametrize("score", [lambda x, t: x, last_row, lambda x, t: x.view_as(x)])
def test_a_score_may_return_a_view_of_the_state(score: Callable[..., Tensor]) -> None:
    got = SAMPLER.sample(score, (5, 2), seed=1)
    assert torch.equal(got, SAMPLER.sample(lambda x, t: score(x, t).clone(), (5, 2), seed=1))


def test_a_score_that_changes_the_state_is_refused() -> None:
    def score(x: Tensor, t: Tensor) -> Tensor:
        out = -x
        x.zero_()
        return out

    with pytest.raises(ss.errors.IncompatibleError, match="clone"):
        SAMPLER.sample(score, (5, 2))
    with pytest.raises(ss.errors.IncompatibleError, match="clone"):
        ss.ProbabilityFlow(SDE).sample(score, (5, 2))


def test_numpy_inside_a_marginal_is_refused() -> None:
    def sigma(t: Tensor) -> Tensor:
        return torch.from_numpy(numpy.asarray(t.tolist())) + 0.1  # autodiff cannot see through

    with pytest.raises(ss.errors.ScheduleError):
        ss.LinearSDE.from_marginal(torch.ones_like, sigma)


@pytest.mark.parametrize("x", [numpy.zeros((3, 2)), None, torch.zeros(2, 2)])
def test_steering_with_something_else_is_refused(x: object) -> None:
    with pytest.raises(ss.SDEScoreError):
        for state in SAMPLER.iterate(lambda x, t: -x, (3, 2)):
            state.x = x


def test_steering_in_another_dtype_keeps_the_state_s_own() -> None:
    for state in SAMPLER.iterate(lambda x, t: -x, (3, 2)):
        state.x = state.x.double()
    *_, last = SAMPLER.iterate(lambda x, t: -x, (3, 2))
    assert torch.equal(state.x.float(), last.x)


def test_a_custom_step_of_another_shape_is_refused() -> None:
    @dataclass(frozen=True)
    class Shrinks(ss.Predictor):
        order = 1

        def is_affine(self, sde: ss.SDE) -> bool:
            return False

        def step(self, sde, x, score, t, s, z):  # type: ignore[no-untyped-def]
            return x[:1]

    with pytest.raises(ss.SDEScoreError):
        ss.PredictorCorrector(SDE, predictor=Shrinks(), steps=3).sample(lambda x, t: -x, (3, 2))


def test_errors_and_samplers_survive_pickling_and_copying() -> None:
    error = ss.errors.DivergenceError("broke", step=3, t=0.5, samples=[1], finished=torch.ones(1))
    for again in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
        assert (str(again), again.step, again.t, again.samples) == ("broke", 3, 0.5, [1])
        assert torch.equal(again.finished, error.finished)
    sampler = ss.PredictorCorrector(
        SDE, predictor=ss.ReverseDiffusion(), corrector=ss.Langevin(norm="batch"), steps=4
    )
    for again in (pickle.loads(pickle.dumps(sampler)), copy.deepcopy(sampler)):
        assert again == sampler
        assert torch.equal(
            again.sample(lambda x, t: -x, (3, 2)), sampler.sample(lambda x, t: -x, (3, 2))
        )


@pytest.mark.parametrize("name", ["picture.xyz", "missing/folder/x.png", "model.safetensors/below"])
def test_the_command_line_refuses_an_unwritable_target_before_sampling(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.safetensors"
    net = ss.UNet(1, width=8, multipliers=(1,), blocks=1)
    ss.save(path, ss.ScoreModel(net, SDE, prediction="epsilon"), info={"event_shape": [1, 4, 4]})
    monkeypatch.setattr(
        ss.PredictorCorrector, "sample", lambda *_, **__: pytest.fail("sampled first")
    )
    assert main(["sample", str(path), "--out", str(tmp_path / name)]) == 2
    assert "expected" in capsys.readouterr().err
