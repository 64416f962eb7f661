"""Every door of the sampling side, opened with the wrong thing: a typed error, in time.

A refusal names what was expected and what came, derives from the built-in error a caller
would expect, and comes before the first call of the network.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

import sdescore as ss
from tests.helpers.requests import SAMPLER, TABLE, VP, NonLinear, X, untouched


class Net(nn.Module):
    def forward(self, x: Tensor, c: Tensor, *label: Tensor) -> Tensor:
        pytest.fail("the network was called before the request was refused")


MODEL = ss.ScoreModel(Net(), VP, prediction="epsilon")


@pytest.mark.guards("B15")
@pytest.mark.parametrize("way", ["sample", "iterate"])
@pytest.mark.parametrize("model", [untouched, MODEL], ids=["score", "model"])
@pytest.mark.parametrize(
    ("error", "match", "options"),
    [
        (ss.errors.ShapeError, r"shape \(B, \*E\)", {"shape": None}),
        (ss.errors.ShapeError, r"shape \(B, \*E\)", {"shape": ()}),
        (ss.errors.ShapeError, r"shape \(B, \*E\)", {"shape": 3}),
        (ss.errors.ShapeError, r"shape \(B, \*E\)", {"shape": "23"}),
        (ss.errors.ShapeError, r"shape \(B, \*E\)", {"shape": (2, -3)}),
        (ss.errors.ShapeError, r"shape \(B, \*E\)", {"shape": (2.0, 3)}),
        (ss.errors.ShapeError, r"shape \(B, \*E\)", {"shape": (True, 3)}),
        (ss.errors.ShapeError, "float32 or float64", {"dtype": torch.float16}),
        (ss.errors.ShapeError, "float32 or float64", {"dtype": torch.bfloat16}),
        (ss.errors.ShapeError, "float32 or float64", {"dtype": torch.int64}),
        (ss.errors.ShapeError, "float32 or float64", {"dtype": "float32"}),
        (ss.errors.ShapeError, "device", {"device": "nonsense"}),
        (ss.errors.ShapeError, "device", {"device": 1.5}),
        (ss.errors.ShapeError, "device", {"device": "cuda:99"}),
        (ss.errors.ShapeError, "init", {"init": torch.zeros(2, 3, dtype=torch.int64)}),
        (ss.errors.ShapeError, "init", {"init": torch.zeros(())}),
        (ss.errors.ShapeError, "init", {"init": [[0.0]]}),
        (ss.errors.ShapeError, "init", {"init": torch.zeros(3, 2)}),
        (ss.errors.ShapeError, "label", {"label": torch.zeros(3, dtype=torch.int64)}),
        (ss.errors.ShapeError, "label", {"label": torch.zeros(1, 2, dtype=torch.int64)}),
        (ss.errors.ShapeError, "label", {"label": torch.tensor(1)}),
        (ss.errors.ShapeError, "label", {"label": [0, 1]}),
        (ss.errors.ParameterError, "seed", {"seed": 1.5}),
        (ss.errors.ParameterError, "seed", {"seed": "0"}),
        (ss.errors.ParameterError, "seed", {"seed": True}),
        (ss.errors.ParameterError, "seed", {"seed": None}),
        (ss.errors.IncompatibleError, "NoiseSource", {"noise": torch.zeros(9, 2, 3)}),
        (
            ss.errors.ShapeError,
            "replayed noise",
            {"noise": ss.noise.ReplayNoise(torch.zeros(4, 2, 3))},
        ),
        (
            ss.errors.ShapeError,
            "replayed noise",
            {"noise": ss.noise.ReplayNoise(torch.zeros(9, 1, 3))},
        ),
        (
            ss.errors.ShapeError,
            "replayed noise",
            {"noise": ss.noise.ReplayNoise(torch.zeros(9, 2, 4))},
        ),
        (ss.errors.ShapeError, "replayed noise", {"noise": ss.noise.ReplayNoise(torch.zeros(9))}),
        (ss.errors.TimeError, "Brownian", {"noise": ss.noise.BrownianNoise(0, T=0.5)}),
        (TypeError, "steps", {"steps": 3}),
        (TypeError, "sead", {"sead": 3}),
    ],
)
def test_requests(way: str, model: object, error: type, match: str, options: dict) -> None:
    options = {"shape": (2, 3)} | options
    with pytest.raises(error, match=match):
        getattr(SAMPLER, way)(model, **options)


@pytest.mark.parametrize("way", ["sample", "iterate"])
def test_labels_for_a_score_that_takes_none(way: str) -> None:
    def unlabelled(x: Tensor, c: Tensor) -> Tensor:
        pytest.fail("the model was called before the request was refused")

    class Module(nn.Module):
        def forward(self, x: Tensor, c: Tensor) -> Tensor:
            return unlabelled(x, c)

    exact = ss.GaussianScore([0.0] * 3, 1.0, VP)
    label = torch.zeros(2, dtype=torch.int64)
    for model in (
        exact,
        unlabelled,
        Module(),
        ss.ScoreModel(Module(), VP, prediction="epsilon"),
        ss.guidance.condition(MODEL, 1),
    ):
        with pytest.raises(ss.errors.IncompatibleError, match=r"takes .*label"):
            getattr(SAMPLER, way)(model, (2, 3), label=label)
    with pytest.raises(ss.errors.IncompatibleError, match="GaussianScore"):
        ss.ProbabilityFlow(VP).sample(exact, (2, 3), label=label)


def test_labels_for_a_score_that_takes_them_in_its_own_way() -> None:
    label = torch.zeros(2, dtype=torch.int64)

    class Module(nn.Module):
        def forward(self, x: Tensor, c: Tensor, y: Tensor | None = None) -> Tensor:
            return x

    for model in (
        lambda x, t, y: -x,
        lambda *given: -given[0],
        partial(lambda scale, x, t, y: scale * x, -1.0),
        Module(),
        ss.ScoreModel(Module(), VP, prediction="epsilon"),
        ss.ScoreModel(lambda x, c, y: x, VP, prediction="epsilon"),
    ):
        assert SAMPLER.sample(model, (2, 3), label=label).shape == (2, 3)


@pytest.mark.parametrize("max_batch", [0, -1, 1.5, True, "2"])
def test_chunk_sizes(max_batch: object) -> None:
    with pytest.raises(ss.errors.ParameterError, match="max_batch"):
        SAMPLER.sample(untouched, (2, 3), max_batch=max_batch)


def test_noise_that_runs_out_in_a_later_chunk_is_refused_at_the_door() -> None:
    with pytest.raises(ss.errors.ShapeError, match="B >= 8"):
        SAMPLER.sample(
            untouched, (8, 3), noise=ss.noise.ReplayNoise(torch.zeros(9, 4, 3)), max_batch=4
        )


@pytest.mark.parametrize("way", ["sample", "iterate"])
@pytest.mark.parametrize("model", [None, 3, "score", torch.zeros(2)])
def test_models_that_are_not_callable(way: str, model: object) -> None:
    with pytest.raises(ss.errors.IncompatibleError, match="callable"):
        getattr(SAMPLER, way)(model, (2, 3))


@pytest.mark.parametrize("other", [ss.VESDE(), ss.VPSDE(beta_max=19.0), TABLE], ids=repr)
def test_a_model_on_another_sde(other: ss.LinearSDE) -> None:
    with pytest.raises(ss.errors.IncompatibleError, match="SDE"):
        SAMPLER.sample(ss.ScoreModel(Net(), other, prediction="epsilon"), (2, 3))


def test_a_network_of_integer_levels_between_levels() -> None:
    model = ss.ScoreModel(Net(), TABLE, time_input="level", prediction="epsilon")
    sampler = ss.PredictorCorrector(
        TABLE, predictor=ss.ReverseDiffusion(), grid=ss.UniformGrid(), steps=7
    )
    with pytest.raises(ss.errors.TimeError, match="LevelGrid"):
        sampler.sample(model, (2, 3))


def test_a_convention_that_has_no_score_at_the_last_time() -> None:
    sampler = ss.PredictorCorrector(VP, predictor=ss.ReverseDiffusion(), grid=[1.0, 0.5, 0.0])
    with pytest.raises(ss.errors.TimeError, match="sigma_t > 0"):
        sampler.sample(MODEL, (2, 3))


@pytest.mark.parametrize("start", ["state", torch.zeros(2, 3)])
def test_a_start_that_is_no_state(start: object) -> None:
    with pytest.raises(ss.errors.IncompatibleError, match="SamplerState"):
        SAMPLER.iterate(untouched, start=start)
    state = ss.samplers.SamplerState(0, 1.0, X, None, [])
    with pytest.raises(ss.errors.IncompatibleError, match="both"):
        SAMPLER.iterate(untouched, start=state, init=X)


def test_a_nonlinear_sde_needs_a_start() -> None:
    sampler = ss.PredictorCorrector(
        NonLinear(), predictor=ss.EulerMaruyama(), steps=3, denoise=False
    )
    with pytest.raises(ss.errors.IncompatibleError, match="init="):
        sampler.sample(untouched, (2, 3))
