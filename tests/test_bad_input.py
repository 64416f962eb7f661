"""Every door of the sampling side, opened with the wrong thing: a typed error, in time.

A refusal names what was expected and what came, derives from the built-in error a caller
would expect, and comes before the first call of the network.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import sdescore as ss

NAN, INF = math.nan, math.inf
VP = ss.VPSDE()
TABLE = ss.DiscreteVPSDE.linear(10)
SAMPLER = ss.PredictorCorrector(VP, steps=5)
X = torch.zeros(2, 3)


def untouched(x: Tensor, t: Tensor, *label: Tensor) -> Tensor:
    pytest.fail("the model was called before the request was refused")


class Net(nn.Module):
    def forward(self, x: Tensor, c: Tensor, *label: Tensor) -> Tensor:
        pytest.fail("the network was called before the request was refused")


MODEL = ss.ScoreModel(Net(), VP)


class NonLinear(ss.SDE):
    T = 1.0

    def drift(self, x: Tensor, t: ss.typing.Time) -> Tensor:
        return -(x**3)

    def diffusion(self, t: ss.typing.Time) -> Tensor:
        return torch.as_tensor(1.0)


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
        (ss.errors.ShapeError, "label", {"label": torch.zeros(2, 1, dtype=torch.int64)}),
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
        ss.ScoreModel(Module(), VP),
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
        ss.ScoreModel(Module(), VP),
        ss.ScoreModel(lambda x, c, y: x, VP),
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
        SAMPLER.sample(ss.ScoreModel(Net(), other), (2, 3))


def test_a_network_of_integer_levels_between_levels() -> None:
    model = ss.ScoreModel(Net(), TABLE, time_input="level")
    sampler = ss.PredictorCorrector(TABLE, grid=ss.UniformGrid(), steps=7)
    with pytest.raises(ss.errors.TimeError, match="LevelGrid"):
        sampler.sample(model, (2, 3))


def test_a_convention_that_has_no_score_at_the_last_time() -> None:
    sampler = ss.PredictorCorrector(VP, grid=[1.0, 0.5, 0.0])
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
        ss.PredictorCorrector(**({"sde": VP, "steps": 5} | options))


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
    model = ss.ScoreModel(lambda x, c: answer(x), VP)
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
    for model in (lambda x, t: -x, ss.ScoreModel(lambda x, c: -x, VP)):
        for options in ({}, {"max_batch": 4}, {"init": torch.zeros(0, *event)}):
            x = SAMPLER.sample(model, (0, *event), **options)
            assert x.shape == (0, *event) and x.dtype == torch.float32
        assert [s.x.shape for s in SAMPLER.iterate(model, (0, *event))] == [(0, *event)] * 5
