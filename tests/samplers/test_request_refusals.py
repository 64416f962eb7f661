"""A bad request, at each argument of ``sample`` and ``iterate``: refused before the first call."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import sdescore as ss
from sdescore.errors import (
    IncompatibleError,
    ParameterError,
    ShapeError,
    TimeError,
)
from tests.helpers.requests import SAMPLER, VP, untouched


class Net(nn.Module):
    def forward(self, x: Tensor, c: Tensor, *label: Tensor) -> Tensor:
        return untouched(x, c)


MODEL = ss.ScoreModel(Net(), VP, prediction="epsilon")


@pytest.mark.guards("B15")
@pytest.mark.parametrize("way", ["sample", "iterate"])
@pytest.mark.parametrize("model", [untouched, MODEL], ids=["score", "model"])
@pytest.mark.parametrize(
    ("error", "match", "options"),
    [
        (ShapeError, r"shape \(B, \*E\)", {"shape": None}),
        (ShapeError, r"shape \(B, \*E\)", {"shape": ()}),
        (ShapeError, r"shape \(B, \*E\)", {"shape": 3}),
        (ShapeError, r"shape \(B, \*E\)", {"shape": "23"}),
        (ShapeError, r"shape \(B, \*E\)", {"shape": (2, -3)}),
        (ShapeError, r"shape \(B, \*E\)", {"shape": (2.0, 3)}),
        (ShapeError, r"shape \(B, \*E\)", {"shape": (True, 3)}),
        (ShapeError, "float32 or float64", {"dtype": torch.float16}),
        (ShapeError, "float32 or float64", {"dtype": torch.bfloat16}),
        (ShapeError, "float32 or float64", {"dtype": torch.int64}),
        (ShapeError, "float32 or float64", {"dtype": "float32"}),
        (ShapeError, "device", {"device": "nonsense"}),
        (ShapeError, "device", {"device": 1.5}),
        (ShapeError, "device", {"device": "cuda:99"}),
        (ShapeError, "init", {"init": torch.zeros(2, 3, dtype=torch.int64)}),
        (ShapeError, "init", {"init": torch.zeros(())}),
        (ShapeError, "init", {"init": [[0.0]]}),
        (ShapeError, "init", {"init": torch.zeros(3, 2)}),
        (ShapeError, "label", {"label": torch.zeros(3, dtype=torch.int64)}),
        (ShapeError, "label", {"label": torch.zeros(1, 2, dtype=torch.int64)}),
        (ShapeError, "label", {"label": torch.tensor(1)}),
        (ShapeError, "label", {"label": [0, 1]}),
        (ParameterError, "seed", {"seed": 1.5}),
        (ParameterError, "seed", {"seed": "0"}),
        (ParameterError, "seed", {"seed": True}),
        (ParameterError, "seed", {"seed": None}),
        (IncompatibleError, "NoiseSource", {"noise": torch.zeros(9, 2, 3)}),
        (
            ShapeError,
            "replayed noise",
            {"noise": ss.noise.ReplayNoise(torch.zeros(4, 2, 3))},
        ),
        (
            ShapeError,
            "replayed noise",
            {"noise": ss.noise.ReplayNoise(torch.zeros(9, 1, 3))},
        ),
        (
            ShapeError,
            "replayed noise",
            {"noise": ss.noise.ReplayNoise(torch.zeros(9, 2, 4))},
        ),
        (ShapeError, "replayed noise", {"noise": ss.noise.ReplayNoise(torch.zeros(9))}),
        (TimeError, "Brownian", {"noise": ss.noise.BrownianNoise(0, T=0.5)}),
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
        with pytest.raises(IncompatibleError, match=r"takes .*label"):
            getattr(SAMPLER, way)(model, (2, 3), label=label)
    with pytest.raises(IncompatibleError, match="GaussianScore"):
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


SCORE = ss.GaussianScore([0.0, 0.0], 1.0, VP)
FLOW = ss.ProbabilityFlow(VP)
CHAIN = ss.PredictorCorrector(VP, steps=20)


@pytest.mark.parametrize("progress", ["no", 1, None])
@pytest.mark.parametrize(
    "call",
    [
        partial(CHAIN.sample, SCORE, (2, 2)),
        partial(ss.AdaptiveSampler(VP).sample, SCORE, (2, 2)),
        partial(FLOW.sample, SCORE, (2, 2)),
        partial(FLOW.log_likelihood, SCORE, torch.zeros(2, 2)),
        partial(ss.sample_distributed, CHAIN, SCORE, (2, 2)),
        partial(ss.samplers.edit, CHAIN, SCORE, torch.zeros(2, 2), strength=0.5),
    ],
)
def test_a_flag_that_is_none(call: Callable[..., object], progress: object) -> None:
    with pytest.raises(ParameterError, match="progress as True or False"):
        call(progress=progress)


def test_a_folder_is_not_begun_with_a_flag_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="progress as True or False"):
        ss.samplers.sample_to_folder(CHAIN, SCORE, (2, 2), tmp_path / "out", progress="no")
    assert not list(tmp_path.iterdir())
