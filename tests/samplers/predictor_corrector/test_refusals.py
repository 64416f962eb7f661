"""Samplers and parts that cannot be made, and answers of networks that do not fit."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

import sdescore as ss
from sdescore.errors import (
    IncompatibleError,
    ParameterError,
    ScheduleError,
    ShapeError,
    TimeError,
)
from tests.helpers.refusals import Refusal, rows
from tests.helpers.requests import SAMPLER, TABLE, VP, NonLinear, X, untouched

NAN, INF = math.nan, math.inf

REFUSALS: dict[str, tuple[Refusal, ...]] = {
    "samplers": (
        *(
            (
                lambda options=options: ss.PredictorCorrector(
                    **({"sde": VP, "predictor": ss.ReverseDiffusion(), "steps": 5} | options)
                ),
                error,
                match,
            )
            for error, match, options in [
                *(
                    (ScheduleError, "steps", {"steps": s})
                    for s in (0, -1, 1.5, True, None, "9", NAN)
                ),
                *(
                    (ScheduleError, "steps|two grid times", {"steps": s, "denoise": False})
                    for s in (0, -1, 1.5, True)
                ),
                (
                    ScheduleError,
                    "two grid times",
                    {"steps": None, "grid": [1.0], "denoise": False},
                ),
                (ScheduleError, "falling", {"steps": None, "grid": [0.1, 1.0]}),
                (ScheduleError, "falling", {"steps": None, "grid": [1.0, 0.5, 0.5]}),
                (ScheduleError, "dimension", {"steps": None, "grid": [[1.0, 0.5]]}),
                (ScheduleError, "dimension", {"steps": None, "grid": []}),
                (ScheduleError, "steps=", {"steps": 3, "grid": [1.0, 0.5]}),
                (TimeError, r"\[0, 1\]", {"steps": None, "grid": [1.2, 0.5]}),
                (TimeError, r"\[0, 1\]", {"steps": None, "grid": [1.0, -0.1]}),
                (ScheduleError, "finite numbers", {"steps": None, "grid": [1.0, NAN]}),
                (IncompatibleError, "discrete", {"grid": ss.LevelGrid()}),
                (ScheduleError, "at most 10", {"sde": TABLE, "steps": 11}),
                (IncompatibleError, "sde", {"sde": "vp"}),
                (IncompatibleError, "sde", {"sde": ss.VPSDE}),
                (IncompatibleError, "predictor", {"predictor": ss.EulerMaruyama}),
                (IncompatibleError, "predictor", {"predictor": ss.Langevin()}),
                (IncompatibleError, "corrector", {"corrector": ss.Ancestral()}),
                (IncompatibleError, "corrector", {"corrector": None}),
                (IncompatibleError, "corrector_first", {"corrector_first": "yes"}),
                (IncompatibleError, "corrector_first", {"corrector_first": None}),
                *((ParameterError, "data_std", {"data_std": v}) for v in (-1.0, NAN, INF, "1")),
                (
                    ScheduleError,
                    "AnnealedLangevin",
                    {"corrector": ss.AnnealedLangevin(), "grid": [1.0, 0.0], "steps": None},
                ),
                *(
                    (IncompatibleError, type(p).__name__, {"sde": NonLinear(), "predictor": p})
                    for p in (ss.Ancestral(), ss.ReverseDiffusion(), ss.DDIM(), ss.NoPredictor())
                ),
                (
                    IncompatibleError,
                    "Langevin",
                    {
                        "sde": NonLinear(),
                        "predictor": ss.EulerMaruyama(),
                        "corrector": ss.Langevin(),
                    },
                ),
                (
                    IncompatibleError,
                    "denoise=False",
                    {"sde": NonLinear(), "predictor": ss.EulerMaruyama()},
                ),
                (
                    IncompatibleError,
                    "log-SNR",
                    {
                        "sde": NonLinear(),
                        "predictor": ss.EulerMaruyama(),
                        "grid": ss.LogSNRGrid(),
                        "denoise": False,
                    },
                ),
                (TypeError, "predicter", {"predicter": ss.DDIM()}),
            ]
        ),
    ),
    "parts": (
        *(
            (make, error, "expected")
            for error, make in [
                *(
                    (ParameterError, lambda kind=kind, eta=eta: kind(eta=eta))
                    for kind in (ss.EulerMaruyama, ss.ReverseDiffusion, ss.DDIM)
                    for eta in (-0.1, 1.1, NAN, INF, "1", None)
                ),
                *(
                    (ParameterError, lambda v=v: ss.Langevin(snr=v))
                    for v in (0.0, -1, NAN, INF, "1")
                ),
                *(
                    (ParameterError, lambda kind=kind, n=n: kind(steps=n))
                    for kind in (ss.Langevin, ss.AnnealedLangevin)
                    for n in (0, -1, 1.5, True, None)
                ),
                *(
                    (ParameterError, lambda v=v: ss.AnnealedLangevin(epsilon=v))
                    for v in (0, NAN, INF)
                ),
                *((IncompatibleError, lambda v=v: ss.Langevin(norm=v)) for v in ("mean", None, 2)),
                *((TypeError, lambda kind=kind: kind(etta=1)) for kind in (ss.DDIM, ss.Langevin)),
                *(
                    (TypeError, lambda kind=kind: kind(eta=1))
                    for kind in (ss.Ancestral, ss.NoPredictor)
                ),
                *(
                    (ShapeError, lambda v=v: ss.noise.ReplayNoise(v))
                    for v in ([[1.0]], None, X.long())
                ),
                *((ParameterError, lambda v=v: ss.noise.SeededNoise(v)) for v in (1.0, None, True)),
            ]
        ),
    ),
    "networks and scores that answer something else": (
        *(
            (lambda run=run: run(), error, "network")
            for error, answer in [
                (ShapeError, lambda x: x[:1]),
                (ShapeError, lambda x: x.sum(1)),
                (ShapeError, lambda x: torch.cat([x, x], 1)),
                (IncompatibleError, lambda x: (x,)),
                (IncompatibleError, lambda x: None),
                (IncompatibleError, lambda x: 0.0),
            ]
            for run in (
                lambda answer=answer: ss.ScoreModel(
                    lambda x, c: answer(x), VP, prediction="epsilon"
                )(X, 0.5),
                lambda answer=answer: SAMPLER.sample(
                    ss.ScoreModel(lambda x, c: answer(x), VP, prediction="epsilon"), (2, 3)
                ),
            )
        ),
        *(
            (
                lambda answer=answer: SAMPLER.sample(lambda x, t: answer(x), (2, 3)),
                (IncompatibleError, ShapeError),
                "score",
            )
            for error, answer in [
                (ShapeError, lambda x: x[:1]),
                (ShapeError, lambda x: x.sum(1)),
                (ShapeError, lambda x: torch.cat([x, x], 1)),
                (IncompatibleError, lambda x: (x,)),
                (IncompatibleError, lambda x: None),
                (IncompatibleError, lambda x: 0.0),
            ]
        ),
    ),
    "words are no grid and nan no start": (
        (
            lambda: ss.PredictorCorrector(
                ss.VPSDE(), predictor=ss.ReverseDiffusion(), grid="uniform"
            ),
            ScheduleError,
            "uniform",
        ),
        (
            lambda: ss.PredictorCorrector(
                ss.VPSDE(), predictor=ss.ReverseDiffusion(), steps=4
            ).sample(lambda x, t: -x, init=torch.tensor([[1.0, torch.nan]])),
            ParameterError,
            "NaN",
        ),
    ),
}


@pytest.mark.parametrize(("call", "error", "match"), rows(REFUSALS))
def test_what_is_refused(call: Callable[[], object], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()


def test_a_users_tableau_that_does_not_fit() -> None:
    class Short(ss.DDIM):
        def tableau(self, sde, times):
            return super().tableau(sde, times[:-1])

    class Infinite(ss.DDIM):
        def tableau(self, sde, times):
            base = super().tableau(sde, times)
            return ss.Tableau(base.times, base.a / 0, base.b, base.c)

    with pytest.raises(IncompatibleError, match="4 steps"):
        ss.PredictorCorrector(VP, predictor=Short(), steps=5)
    with pytest.raises(ScheduleError, match="finite"):
        ss.PredictorCorrector(VP, predictor=Infinite(), steps=5)
    one, two = torch.zeros(4, 1), torch.zeros(4, 2)
    for tables in (
        (one, two, one[..., None], one[..., None]),
        (one, one, two[..., None], one[..., None]),
        (one, one, one[..., None], two[..., None]),
        (one[:, 0], one[:, 0], one, one),
    ):
        with pytest.raises(ShapeError, match="shape"):
            ss.Tableau(*tables)


def test_two_noises_on_one_brownian_path_are_refused() -> None:
    """They would be one increment twice: the classic mistake of two-stage SDE steps."""

    class TwoNoises(ss.EulerMaruyama):
        def tableau(self, sde, times):
            base = super().tableau(sde, times)
            return ss.Tableau(base.times, base.a, base.b, base.c.repeat(1, 1, 2) / math.sqrt(2))

    sampler = ss.PredictorCorrector(VP, predictor=TwoNoises(), steps=5)
    with pytest.raises(IncompatibleError, match="one noise a step"):
        sampler.sample(untouched, (2, 3), noise=ss.noise.BrownianNoise(0))
    assert sampler.sample(lambda x, t: -x, (2, 3)).isfinite().all()


@pytest.mark.guards("B15")
@pytest.mark.parametrize("event", [(), (3,), (1, 2, 2)])
def test_a_request_for_nothing_gives_nothing(event: tuple[int, ...]) -> None:
    for model in (lambda x, t: -x, ss.ScoreModel(lambda x, c: -x, VP, prediction="epsilon")):
        for options in ({}, {"max_batch": 4}, {"init": torch.zeros(0, *event)}):
            x = SAMPLER.sample(model, (0, *event), **options)
            assert x.shape == (0, *event) and x.dtype == torch.float32
        assert [s.x.shape for s in SAMPLER.iterate(model, (0, *event))] == [(0, *event)] * 5
