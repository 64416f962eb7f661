"""Every door of the sampling side, opened with the wrong thing: a typed error, in time.

A refusal names what was expected and what came, derives from the built-in error a caller
would expect, and comes before the first call of the network.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sdescore as ss
from sdescore import checks
from sdescore.errors import (
    IncompatibleError,
    ParameterError,
    ScheduleError,
    ShapeError,
    TimeError,
)
from sdescore.samplers import edit, iterate_chunks, slerp
from tests.helpers.refusals import Refusal, each, rows
from tests.helpers.requests import SAMPLER, TABLE, VP, NonLinear, X, untouched


class Net(nn.Module):
    def forward(self, x: Tensor, c: Tensor, *label: Tensor) -> Tensor:
        pytest.fail("the network was called before the request was refused")


MODEL = ss.ScoreModel(Net(), VP, prediction="epsilon")


B = 23

SAMPLERS: dict[str, Any] = {
    "chain": ss.PredictorCorrector(VP, corrector=ss.Langevin(0.15), steps=5),
    "adaptive": ss.AdaptiveSampler(VP, rtol=0.2),
    "flow": ss.ProbabilityFlow(VP, method="heun3", steps=4),
}


def elementwise(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
    return -torch.tanh(x - 0.1 * label.to(x)[:, None]) / (0.1 + t.expand(len(x))[:, None])


SDE = ss.VPSDE()

X_HOSTILE = torch.ones(1, 1)

SAMPLER_HOSTILE = ss.PredictorCorrector(
    SDE, predictor=ss.ReverseDiffusion(), corrector=ss.Langevin(snr=0.1), steps=6
)

REFUSALS: dict[str, tuple[Refusal, ...]] = {
    "chunk sizes": (
        *(
            (
                lambda max_batch=max_batch: SAMPLER.sample(untouched, (2, 3), max_batch=max_batch),
                ParameterError,
                "max_batch",
            )
            for max_batch in [0, -1, 1.5, True, "2"]
        ),
    ),
    "noise that runs out in a later chunk is refused at the door": (
        (
            lambda: SAMPLER.sample(
                untouched, (8, 3), noise=ss.noise.ReplayNoise(torch.zeros(9, 4, 3)), max_batch=4
            ),
            ShapeError,
            "B >= 8",
        ),
    ),
    "latent codes": (
        (lambda: slerp(X, torch.ones(2, 4), 0.5), ShapeError, "shaped like a"),
        (lambda: slerp(torch.ones(2, 3), X, 0.5), ParameterError, "no direction"),
        (lambda: slerp(X + math.inf, X + 1, 0.5), ParameterError, "finite states"),
        (lambda: slerp(X + 1, -X - 1, 0.5), ParameterError, r"opposite samples \[0, 1\]"),
        (lambda: slerp(X + 1, X + 1, torch.ones(3)), ShapeError, "one per sample"),
        *each(
            lambda weight: slerp(X + 1, X + 1, weight),
            ParameterError,
            "weights in",
            [-0.1, 1.1, math.nan, torch.tensor([0.5, 1.5])],
        ),
    ),
    "editing": (
        *each(
            lambda strength: edit(SAMPLER, untouched, X, strength=strength),
            ParameterError,
            "strength",
            [0, -0.1, 1.01, math.nan, "0.5", True],
        ),
        *each(
            lambda x0: edit(SAMPLER, untouched, x0, strength=0.5),
            ShapeError,
            "x0|float32",
            [None, [1.0], torch.zeros(2, 3, dtype=torch.long), X.half()],
        ),
        (lambda: edit(SAMPLER, untouched, X / 0, strength=0.5), ParameterError, "finite x0"),
        (lambda: edit(VP, untouched, X, strength=0.5), IncompatibleError, "sampler to be"),
        (
            lambda: edit(ss.ProbabilityFlow(VP), untouched, X, strength=0.5),
            IncompatibleError,
            "the data would come back",
        ),
        *each(
            lambda name: edit(
                ss.ProbabilityFlow(VP), untouched, X, strength=0.5, **{name: torch.zeros(3, 1)}
            ),
            ShapeError,
            "label to be a tensor of shape",
            ["label", "source"],
        ),
        (
            lambda: edit(SAMPLER, untouched, X, strength=0.5, source=torch.zeros(2, 1)),
            IncompatibleError,
            "ProbabilityFlow alone",
        ),
        *each(
            lambda t_max: ss.ProbabilityFlow(VP, t_max=t_max),
            ParameterError,
            "t_max",
            [VP.t_min, 1.1, "1"],
        ),
        (
            lambda: ss.ProbabilityFlow(VP, method="rk4", grid=[1.0, 0.1], t_max=0.5),
            ParameterError,
            "its own ends",
        ),
        (
            lambda: edit(
                ss.PredictorCorrector(
                    NonLinear(), predictor=ss.EulerMaruyama(), steps=5, denoise=False
                ),
                untouched,
                X,
                strength=0.5,
            ),
            IncompatibleError,
            "LinearSDE",
        ),
        *each(
            lambda t_max: ss.AdaptiveSampler(VP, t_max=t_max),
            ScheduleError,
            "t_max",
            [VP.t_min, 1.1, -1, "1"],
        ),
    ),
    "gradients": (
        *each(
            lambda parts: ss.PredictorCorrector(VP, steps=30, **parts).sample(
                untouched, (2, 3), differentiable=True
            ),
            IncompatibleError,
            "affine steps",
            [
                {"corrector": ss.Langevin(norm="sample")},
                {"predictor": ss.Ancestral("learned_range")},
            ],
        ),
        (
            lambda: ss.AdaptiveSampler(VP).sample(untouched, (2, 3), differentiable=True),
            IncompatibleError,
            "use PredictorCorrector",
        ),
        (
            lambda: torch.inference_mode()(SAMPLER.sample)(untouched, (2, 3), differentiable=True),
            IncompatibleError,
            "inference_mode",
        ),
        (lambda: SAMPLER.sample(untouched, (2, 3), differentiable=1), ParameterError, "True or"),
    ),
    "models that are not callable": (
        *each(
            lambda way, model: getattr(SAMPLER, way)(model, (2, 3)),
            IncompatibleError,
            "callable",
            ["sample", "iterate"],
            [None, 3, "score", torch.zeros(2)],
        ),
    ),
    "a model on another sde": (
        *each(
            lambda other: SAMPLER.sample(ss.ScoreModel(Net(), other, prediction="epsilon"), (2, 3)),
            IncompatibleError,
            "SDE",
            [ss.VESDE(), ss.VPSDE(beta_max=19.0), TABLE],
        ),
    ),
    "a network of integer levels between levels": (
        (
            lambda: ss.PredictorCorrector(
                TABLE, predictor=ss.ReverseDiffusion(), grid=ss.UniformGrid(), steps=7
            ).sample(ss.ScoreModel(Net(), TABLE, time_input="level", prediction="epsilon"), (2, 3)),
            TimeError,
            "LevelGrid",
        ),
    ),
    "a convention that has no score at the last time": (
        (
            lambda: ss.PredictorCorrector(
                VP, predictor=ss.ReverseDiffusion(), grid=[1.0, 0.5, 0.0]
            ).sample(MODEL, (2, 3)),
            TimeError,
            "sigma_t > 0",
        ),
    ),
    "a start that is no state": (
        *each(
            lambda start: SAMPLER.iterate(untouched, start=start),
            IncompatibleError,
            "SamplerState",
            ["state", torch.zeros(2, 3)],
        ),
        *each(
            lambda start: SAMPLER.iterate(
                untouched, start=ss.samplers.SamplerState(0, 1.0, X, None, []), init=X
            ),
            IncompatibleError,
            "both",
            ["state", torch.zeros(2, 3)],
        ),
    ),
    "a nonlinear sde needs a start": (
        (
            lambda: ss.PredictorCorrector(
                NonLinear(), predictor=ss.EulerMaruyama(), steps=3, denoise=False
            ).sample(untouched, (2, 3)),
            IncompatibleError,
            "init=",
        ),
    ),
    "a bad argument is refused at the call": (
        *(
            (
                lambda options=options: iterate_chunks(
                    model=elementwise,
                    **({"sampler": SAMPLERS["chain"], "shape": (B, 3), "max_batch": 4} | options),
                ),
                error,
                "expected",
            )
            for error, options in [
                (ParameterError, {"max_batch": 0}),
                (ParameterError, {"samples": range(3, B + 1)}),
                (ShapeError, {"shape": 7}),
                (IncompatibleError, {"sampler": ss.DDIM()}),
                (TypeError, {"max_batches": 3}),
            ]
        ),
    ),
    "what is no sampler is refused": (
        *(
            (
                lambda sampler=sampler: ss.sample_distributed(
                    sampler, ss.GaussianScore(torch.zeros(3), 1.0, VP), (B, 3)
                ),
                IncompatibleError,
                "sampler to be a PredictorCorrector",
            )
            for sampler in (ss.GaussianScore(torch.zeros(3), 1.0, VP), ss.PredictorCorrector)
        ),
    ),
    "a state of another sampler is refused": (
        (
            lambda: list(
                SAMPLER_HOSTILE.iterate(
                    lambda x, t: -x,
                    start=next(
                        ss.PredictorCorrector(
                            ss.VESDE(), predictor=ss.ReverseDiffusion(), steps=9
                        ).iterate(lambda x, t: -x, (3, 2))
                    ),
                )
            ),
            ss.SDEScoreError,
            "expected",
        ),
    ),
    "a prior of nonsense is refused": (
        *(
            (call, ss.SDEScoreError, "expected")
            for call in (
                lambda: SDE.prior_sample((-1, 2)),
                lambda: SDE.prior_sample((2, 2), seed=1.5),  # type: ignore[arg-type]
                lambda: SDE.prior_std(-1.0),
            )
        ),
    ),
    "an integer state has no drift": (
        (lambda: SDE.drift(torch.ones(2, 2, dtype=torch.int64), 0.5), ShapeError, "expected"),
    ),
    "words and ragged rows are no numbers": (
        *(
            (make, ss.SDEScoreError, "expected")
            for make in [
                lambda: ss.LinearSDE.from_marginal(1.0, 2.0),
                lambda: ss.DiscreteVPSDE.linear(10, "a"),
                lambda: ss.GaussianScore("a", 1.0, SDE),
                lambda: ss.GaussianScore(torch.zeros(2), "b", SDE),
                lambda: ss.MixtureScore([0.5, 0.5], [[0.0, 1.0], [2.0]], 1.0, SDE),
                lambda: SDE.time_at_log_snr("a"),
                lambda: ss.convert(X_HOSTILE, X_HOSTILE, "a", 1.0, "x0", "v"),
                lambda: ss.convert(X_HOSTILE, X_HOSTILE, 10**400, 1.0, "x0", "v"),
                *(
                    lambda kind=kind: ss.convert(X_HOSTILE, X_HOSTILE, 0.8, 0.6, kind, "v")
                    for kind in (math.nan, None, 3, 1j, torch.tensor(2.0), (1.0,), [0.0, 1.0, 2.0])
                ),
                lambda: ss.KarrasGrid(rho="a"),
            ]
        ),
    ),
    "devices that hold no numbers": (
        *(
            (
                lambda device=device: checks.device(device, ShapeError),
                ShapeError,
                "expected a device of this machine",
            )
            for device in ["meta", "nonsense", 1.5, "cuda:99"]
        ),
    ),
}


@pytest.mark.parametrize(("call", "error", "match"), rows(REFUSALS))
def test_what_is_refused(call: Callable[[], object], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()
