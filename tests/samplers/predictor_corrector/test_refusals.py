"""Samplers and parts that cannot be made, and answers of networks that do not fit."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

import sdescore as ss
from tests.helpers.requests import SAMPLER, TABLE, VP, NonLinear, X, untouched

NAN, INF = math.nan, math.inf


# Making a sampler.


@pytest.mark.parametrize(
    ("error", "match", "options"),
    [
        *(
            (ss.errors.ScheduleError, "steps", {"steps": s})
            for s in (0, -1, 1.5, True, None, "9", NAN)
        ),
        *(
            (ss.errors.ScheduleError, "steps|two grid times", {"steps": s, "denoise": False})
            for s in (0, -1, 1.5, True)
        ),
        (
            ss.errors.ScheduleError,
            "two grid times",
            {"steps": None, "grid": [1.0], "denoise": False},
        ),
        (ss.errors.ScheduleError, "falling", {"steps": None, "grid": [0.1, 1.0]}),
        (ss.errors.ScheduleError, "falling", {"steps": None, "grid": [1.0, 0.5, 0.5]}),
        (ss.errors.ScheduleError, "dimension", {"steps": None, "grid": [[1.0, 0.5]]}),
        (ss.errors.ScheduleError, "dimension", {"steps": None, "grid": []}),
        (ss.errors.ScheduleError, "steps=", {"steps": 3, "grid": [1.0, 0.5]}),
        (ss.errors.TimeError, r"\[0, 1\]", {"steps": None, "grid": [1.2, 0.5]}),
        (ss.errors.TimeError, r"\[0, 1\]", {"steps": None, "grid": [1.0, -0.1]}),
        (ss.errors.ScheduleError, "finite numbers", {"steps": None, "grid": [1.0, NAN]}),
        (ss.errors.IncompatibleError, "discrete", {"grid": ss.LevelGrid()}),
        (ss.errors.ScheduleError, "at most 10", {"sde": TABLE, "steps": 11}),
        (ss.errors.IncompatibleError, "sde", {"sde": "vp"}),
        (ss.errors.IncompatibleError, "sde", {"sde": ss.VPSDE}),
        (ss.errors.IncompatibleError, "predictor", {"predictor": ss.EulerMaruyama}),
        (ss.errors.IncompatibleError, "predictor", {"predictor": ss.Langevin()}),
        (ss.errors.IncompatibleError, "corrector", {"corrector": ss.Ancestral()}),
        (ss.errors.IncompatibleError, "corrector", {"corrector": None}),
        (ss.errors.IncompatibleError, "corrector_first", {"corrector_first": "yes"}),
        (ss.errors.IncompatibleError, "corrector_first", {"corrector_first": None}),
        *((ss.errors.ParameterError, "data_std", {"data_std": v}) for v in (-1.0, NAN, INF, "1")),
        (
            ss.errors.ScheduleError,
            "AnnealedLangevin",
            {"corrector": ss.AnnealedLangevin(), "grid": [1.0, 0.0], "steps": None},
        ),
        *(
            (ss.errors.IncompatibleError, type(p).__name__, {"sde": NonLinear(), "predictor": p})
            for p in (ss.Ancestral(), ss.ReverseDiffusion(), ss.DDIM(), ss.NoPredictor())
        ),
        (
            ss.errors.IncompatibleError,
            "Langevin",
            {"sde": NonLinear(), "predictor": ss.EulerMaruyama(), "corrector": ss.Langevin()},
        ),
        (
            ss.errors.IncompatibleError,
            "denoise=False",
            {"sde": NonLinear(), "predictor": ss.EulerMaruyama()},
        ),
        (
            ss.errors.IncompatibleError,
            "log-SNR",
            {
                "sde": NonLinear(),
                "predictor": ss.EulerMaruyama(),
                "grid": ss.LogSNRGrid(),
                "denoise": False,
            },
        ),
        (TypeError, "predicter", {"predicter": ss.DDIM()}),
    ],
)
def test_samplers(error: type, match: str, options: dict) -> None:
    with pytest.raises(error, match=match):
        ss.PredictorCorrector(
            **({"sde": VP, "predictor": ss.ReverseDiffusion(), "steps": 5} | options)
        )


@pytest.mark.parametrize(
    ("error", "make"),
    [
        *(
            (ss.errors.ParameterError, lambda kind=kind, eta=eta: kind(eta=eta))
            for kind in (ss.EulerMaruyama, ss.ReverseDiffusion, ss.DDIM)
            for eta in (-0.1, 1.1, NAN, INF, "1", None)
        ),
        *(
            (ss.errors.ParameterError, lambda v=v: ss.Langevin(snr=v))
            for v in (0.0, -1, NAN, INF, "1")
        ),
        *(
            (ss.errors.ParameterError, lambda kind=kind, n=n: kind(steps=n))
            for kind in (ss.Langevin, ss.AnnealedLangevin)
            for n in (0, -1, 1.5, True, None)
        ),
        *(
            (ss.errors.ParameterError, lambda v=v: ss.AnnealedLangevin(epsilon=v))
            for v in (0, NAN, INF)
        ),
        *(
            (ss.errors.IncompatibleError, lambda v=v: ss.Langevin(norm=v))
            for v in ("mean", None, 2)
        ),
        *((TypeError, lambda kind=kind: kind(etta=1)) for kind in (ss.DDIM, ss.Langevin)),
        *((TypeError, lambda kind=kind: kind(eta=1)) for kind in (ss.Ancestral, ss.NoPredictor)),
        *(
            (ss.errors.ShapeError, lambda v=v: ss.noise.ReplayNoise(v))
            for v in ([[1.0]], None, X.long())
        ),
        *(
            (ss.errors.ParameterError, lambda v=v: ss.noise.SeededNoise(v))
            for v in (1.0, None, True)
        ),
    ],
)
def test_parts(error: type, make: Callable[[], object]) -> None:
    with pytest.raises(error):
        make()


def test_a_users_tableau_that_does_not_fit() -> None:
    class Short(ss.DDIM):
        def tableau(self, sde, times):
            return super().tableau(sde, times[:-1])

    class Infinite(ss.DDIM):
        def tableau(self, sde, times):
            base = super().tableau(sde, times)
            return ss.Tableau(base.times, base.a / 0, base.b, base.c)

    with pytest.raises(ss.errors.IncompatibleError, match="4 steps"):
        ss.PredictorCorrector(VP, predictor=Short(), steps=5)
    with pytest.raises(ss.errors.ScheduleError, match="finite"):
        ss.PredictorCorrector(VP, predictor=Infinite(), steps=5)
    one, two = torch.zeros(4, 1), torch.zeros(4, 2)
    for tables in (
        (one, two, one[..., None], one[..., None]),
        (one, one, two[..., None], one[..., None]),
        (one, one, one[..., None], two[..., None]),
        (one[:, 0], one[:, 0], one, one),
    ):
        with pytest.raises(ss.errors.ShapeError, match="shape"):
            ss.Tableau(*tables)


def test_two_noises_on_one_brownian_path_are_refused() -> None:
    """They would be one increment twice: the classic mistake of two-stage SDE steps."""

    class TwoNoises(ss.EulerMaruyama):
        def tableau(self, sde, times):
            base = super().tableau(sde, times)
            return ss.Tableau(base.times, base.a, base.b, base.c.repeat(1, 1, 2) / math.sqrt(2))

    sampler = ss.PredictorCorrector(VP, predictor=TwoNoises(), steps=5)
    with pytest.raises(ss.errors.IncompatibleError, match="one noise a step"):
        sampler.sample(untouched, (2, 3), noise=ss.noise.BrownianNoise(0))
    assert sampler.sample(lambda x, t: -x, (2, 3)).isfinite().all()


# Answers.


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (ss.errors.ShapeError, lambda x: x[:1]),
        (ss.errors.ShapeError, lambda x: x.sum(1)),
        (ss.errors.ShapeError, lambda x: torch.cat([x, x], 1)),
        (ss.errors.IncompatibleError, lambda x: (x,)),
        (ss.errors.IncompatibleError, lambda x: None),
        (ss.errors.IncompatibleError, lambda x: 0.0),
    ],
)
def test_networks_and_scores_that_answer_something_else(error: type, answer: Callable) -> None:
    model = ss.ScoreModel(lambda x, c: answer(x), VP, prediction="epsilon")
    for run in (lambda: model(X, 0.5), lambda: SAMPLER.sample(model, (2, 3))):
        with pytest.raises(error, match="network"):
            run()
    with pytest.raises((ss.errors.IncompatibleError, ss.errors.ShapeError), match="score"):
        SAMPLER.sample(lambda x, t: answer(x), (2, 3))


def test_errors_are_the_built_in_ones_a_caller_would_expect() -> None:
    for error, built_in in (
        (ss.errors.ShapeError, ValueError),
        (ss.errors.TimeError, ValueError),
        (ss.errors.ScheduleError, ValueError),
        (ss.errors.IncompatibleError, TypeError),
        (ss.errors.DivergenceError, RuntimeError),
    ):
        assert issubclass(error, built_in) and issubclass(error, ss.SDEScoreError)


@pytest.mark.guards("B15")
@pytest.mark.parametrize("event", [(), (3,), (1, 2, 2)])
def test_a_request_for_nothing_gives_nothing(event: tuple[int, ...]) -> None:
    for model in (lambda x, t: -x, ss.ScoreModel(lambda x, c: -x, VP, prediction="epsilon")):
        for options in ({}, {"max_batch": 4}, {"init": torch.zeros(0, *event)}):
            x = SAMPLER.sample(model, (0, *event), **options)
            assert x.shape == (0, *event) and x.dtype == torch.float32
        assert [s.x.shape for s in SAMPLER.iterate(model, (0, *event))] == [(0, *event)] * 5
