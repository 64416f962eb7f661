"""What inverse problems refuse: the call, its error, and what the message says."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

import sdescore as ss
from sdescore.errors import IncompatibleError, ParameterError, ScheduleError, ShapeError, TimeError
from tests.helpers.refusals import Refusal, each, rows

pytestmark = pytest.mark.fast

inverse = ss.inverse
MASK = inverse.Mask(torch.tensor([True, False, True]))
SQUARE = inverse.Callable(lambda x: x**2, (3,))
Y = torch.zeros(2)
WRONG = SimpleNamespace(A=lambda x: x, A_adjoint=lambda y: 2 * y)


def of(operator: ss.inverse.Operator) -> ss.inverse.Measurement:
    return inverse.Measurement(torch.zeros(operator.measurement_shape), operator, 0.1)


def repaint(**options: object) -> ss.inverse.RePaint:
    return inverse.RePaint(ss.VPSDE(), **({"measurement": of(MASK), "steps": 5} | options))


def standardised(std: float | tuple[float, ...]) -> ss.ScoreModel:
    net = lambda x, t: pytest.fail("called before it was refused")  # noqa: E731
    return ss.ScoreModel(net, ss.VPSDE(), "score", data_std=std)


SEEN = inverse.Measurement(Y, MASK, 0.1)


class InPlace(inverse.Operator):
    """A matrix that is applied in place."""

    def __init__(self) -> None:
        super().__init__((3,), (3,))

    def _apply(self, x: Tensor) -> Tensor:
        return x.mul_(torch.tensor([2.0, 0.5, 1.0]).to(x))

    _adjoint = _apply


NORMAL = ss.GaussianScore([0.0] * 3, 1.0, ss.VPSDE())
SCORE = ss.GaussianScore(torch.zeros(3), 1.0, ss.VPSDE())
SAMPLER = ss.PredictorCorrector(ss.VPSDE(), predictor=ss.ReverseDiffusion(), steps=20)
METHODS = (inverse.dps, inverse.pigdm, inverse.mmps)


class Detached(nn.Module):
    """A score that hides its derivative."""

    sde = ss.VPSDE()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return -x.detach()


GAUSSIAN = ss.GaussianScore(torch.zeros(3), 1.0, ss.VPSDE())


def smc(**options: float) -> ss.inverse.TwistedSMC:
    return inverse.TwistedSMC(ss.VPSDE(), **({"steps": 3} | options))


def noiseless() -> ss.inverse.Measurement:
    return inverse.Measurement(Y, MASK, 0.0)


REFUSALS: dict[str, tuple[Refusal, ...]] = {
    "an operator": (
        (lambda: inverse.Mask(torch.ones(3)), ShapeError, "mask of bool"),
        (lambda: inverse.Mask(torch.zeros(3, dtype=torch.bool)), ShapeError, "seen"),
        (lambda: inverse.Blur(torch.ones(5), (4,)), ShapeError, "no larger"),
        (lambda: inverse.Blur(torch.ones(2, 2), (4,)), ShapeError, "no larger"),
        (lambda: inverse.Blur(torch.ones(()), (4,)), ShapeError, "kernel"),
        (lambda: inverse.Blur(torch.tensor([torch.nan]), (4,)), ParameterError, "finite kernel"),
        (lambda: inverse.Blur.gaussian(0.0, (4, 4)), ParameterError, "std > 0"),
        (lambda: inverse.Downsample(3, (1, 4, 6)), ShapeError, "divide"),
        (lambda: inverse.Downsample((), (4,)), ShapeError, "divide"),
        (lambda: inverse.Downsample((2, 2), (4,)), ShapeError, "divide"),
        (lambda: inverse.Grayscale((1, 4, 4)), ShapeError, "3 channels"),
        (lambda: inverse.Radon((4,), [0.0]), ShapeError, "H, W"),
        (lambda: inverse.Radon((4, 4), []), ShapeError, "angles"),
        (lambda: inverse.Radon((4, 4), [0.0], 0), ParameterError, "detectors"),
        (lambda: inverse.Matrix(torch.ones(3)), ShapeError, "A"),
        (lambda: inverse.Matrix(torch.ones(2, 3), (2, 2)), ShapeError, "4 columns"),
        (lambda: inverse.Matrix(torch.ones(2, 3) / 0), ParameterError, "finite A"),
        (lambda: inverse.Callable(3, (2,)), IncompatibleError, "callable"),
        (lambda: inverse.Callable(lambda x: x, (0,)), ShapeError, "sizes > 0"),
        *each(
            lambda make, shape: make(shape),
            ShapeError,
            "sizes > 0",
            (
                lambda shape: inverse.Downsample(2, shape),
                lambda shape: inverse.Radon(shape, [0.0, 1.0]),
                lambda shape: inverse.Grayscale(shape),
                lambda shape: inverse.Blur(torch.ones(2), shape),
                lambda shape: inverse.Blur.gaussian(1.0, shape),
                lambda shape: inverse.Matrix(torch.ones(2, 2), shape),
                lambda shape: inverse.Callable(lambda x: x, shape),
            ),
            (3, 0, "word", 2.5, (0, 2), (-1, 2), (2.5, 2), (2, "a"), {}),
        ),
        *each(
            lambda make, value: make(value),
            ShapeError,
            "real numbers",
            (
                lambda value: inverse.Blur(value, (4, 4)),
                lambda value: inverse.Matrix(value),
                lambda value: inverse.Radon((4, 4), value),
                lambda value: inverse.Grayscale((3, 4, 4), value),
            ),
            ("word", None, 3, [], [[1.0, 2.0], [3.0]], torch.ones(2, 2, 2, 2)),
        ),
    ),
    "an operator that writes to its argument": (
        (lambda: InPlace()(torch.ones(1, 3)), IncompatibleError, "InPlace to leave its input"),
        (lambda: InPlace().adjoint(torch.ones(1, 3)), IncompatibleError, "leave its input"),
        (lambda: of(InPlace()), IncompatibleError, "InPlace to leave its input as it is"),
    ),
    "a number of a solve, and a matrix's dtype": (
        *each(
            lambda sigma2: MASK.solve(torch.zeros(1, 2), sigma2),
            ParameterError,
            "sigma2 >= 0",
            (-1.0, math.nan),
        ),
        *each(
            lambda gamma2: MASK.solve(torch.zeros(1, 2), 0.1, gamma2),
            ParameterError,
            "gamma2 >= 0",
            (-1, math.inf),
        ),
        *each(
            MASK.matrix, ParameterError, "a floating-point dtype", (torch.int64, "float64", None)
        ),
    ),
    "a state that does not fit": (
        (lambda: MASK(torch.zeros(2, 4)), ShapeError, r"\(B, 3\)"),
        (lambda: MASK(torch.zeros(3)), ShapeError, r"\(B, 3\)"),
        (lambda: MASK.adjoint(torch.zeros(2, 3)), ShapeError, r"\(B, 2\)"),
        (lambda: MASK.solve(torch.zeros(1, 3), 1.0), ShapeError, r"\(B, 2\)"),
        (lambda: MASK.solve(torch.zeros(1, 2), torch.ones(3)), ShapeError, "one per sample"),
        (lambda: SQUARE.adjoint(torch.zeros(1, 3)), IncompatibleError, "linear"),
        (lambda: SQUARE.matrix(), IncompatibleError, "linear"),
        (
            lambda: inverse.Callable(lambda x: x.sum(), (2,), (1,))(torch.zeros(1, 2)),
            ShapeError,
            "shape",
        ),
    ),
    "numbers whose square float32 cannot hold": (
        (lambda: inverse.dps(NORMAL, SEEN, data_std=1e300), ParameterError, "data_std <= 1e"),
        (lambda: inverse.pigdm(NORMAL, SEEN, data_std=1e16), ParameterError, "data_std <= 1e"),
        (lambda: inverse.Measurement(SEEN.y, MASK, 1e300), ParameterError, "noise_std <= 1e"),
    ),
    "projection and RePaint": (
        *(
            (lambda kind=kind, options=options: kind(ss.VPSDE(), **options), error, match)
            for kind in (inverse.Projection, inverse.RePaint)
            for error, match, options in [
                (TypeError, "measurement", {}),
                (IncompatibleError, "Measurement instance", {"measurement": MASK}),
                (IncompatibleError, "known eigenvalues", {"measurement": of(SQUARE)}),
            ]
        ),
        (lambda: repaint(jump=0), ParameterError, "jump >= 1"),
        (lambda: repaint(resamplings=1.5), ParameterError, "resamplings >= 1"),
        (lambda: repaint(predictor=ss.ExponentialAdams()), IncompatibleError, "without memory"),
        (lambda: repaint().sample(lambda x, t: -x, (2, 4)), ShapeError, r"\(B, 3\)"),
        (
            lambda: repaint().sample(standardised((1.0, 2.0, 3.0)), (2, 3)),
            IncompatibleError,
            "one data_mean",
        ),
        (lambda: repaint().sample(standardised(2.0), (2, 3)), IncompatibleError, "units of the"),
    ),
    "twisted SMC and its guides": (
        (lambda: smc(steps=1), ScheduleError, "steps >= 2"),
        (lambda: smc(threshold=1.5), ParameterError, "threshold <= 1"),
        (lambda: inverse.TwistedSMC(ss.SDE, steps=3), IncompatibleError, "LinearSDE"),
        (lambda: smc().sample(GAUSSIAN, 10), IncompatibleError, "PosteriorScore"),
        (lambda: smc().sample(inverse.mmps(GAUSSIAN, of(MASK)), 0), ParameterError, "particles"),
        (
            lambda: smc().sample(inverse.mmps(GAUSSIAN, noiseless()), 10),
            ParameterError,
            "noise_std > 0",
        ),
        (lambda: inverse.moments(GAUSSIAN, noiseless()), ParameterError, "noise_std > 0"),
        (
            lambda: inverse.TwistedSMC(ss.VESDE(), steps=3).sample(
                inverse.mmps(GAUSSIAN, of(MASK)), 10
            ),
            IncompatibleError,
            "SDE",
        ),
        (lambda: inverse.diffpir(GAUSSIAN, of(MASK), 0.0), ParameterError, "strength > 0"),
        (lambda: inverse.diffpir(GAUSSIAN, MASK), IncompatibleError, "Measurement"),
    ),
    "a measurement": (
        (lambda: inverse.Measurement([0.0, 0.0], MASK, 0.1), ShapeError, "float32"),
        (lambda: inverse.Measurement(Y.long(), MASK, 0.1), ShapeError, "float32"),
        (lambda: inverse.Measurement(torch.zeros(5, 2), MASK, 0.1), ShapeError, "label="),
        *each(
            lambda function: of(inverse.Callable(function, (3,))),
            IncompatibleError,
            "each sample by itself",
            (lambda x: x - x.mean(0), lambda x: x + torch.randn_like(x)),
        ),
        *each(
            lambda function: of(inverse.Callable(function, (3,))),
            IncompatibleError,
            "autograd can differentiate",
            (lambda x: x.detach() ** 2, lambda x: torch.from_numpy(x.detach().numpy() ** 2)),
        ),
        (lambda: inverse.Measurement(Y / 0, MASK, 0.1), ParameterError, "finite y"),
        (lambda: inverse.Measurement(Y, MASK, -0.1), ParameterError, "noise_std >= 0"),
        (lambda: inverse.Measurement(Y, MASK, torch.ones(2)), ParameterError, "noise_std"),
        (lambda: inverse.Measurement(Y, lambda x: x, 0.1), IncompatibleError, "Matrix"),
        (lambda: inverse.Measurement(Y, WRONG, 0.1), IncompatibleError, "correct its adjoint"),
        (
            lambda: inverse.Measurement(
                Y, inverse.Callable(lambda x: x + 1, (2,), linear=True), 0.1
            ),
            IncompatibleError,
            "linear=False",
        ),
        (
            lambda: inverse.Measurement(Y, MASK, 0.0).log_likelihood(torch.zeros(1, 3)),
            ParameterError,
            "noise_std > 0",
        ),
    ),
    "a posterior's score": (
        *each(lambda method: method(lambda x, t: -x, SEEN), IncompatibleError, "SDE", METHODS),
        *each(lambda method: method(SCORE, MASK), IncompatibleError, "Measurement", METHODS),
        *each(lambda method: method("score", SEEN), IncompatibleError, "callable", METHODS),
        *each(
            lambda method: method(Detached(), SEEN)(torch.zeros(1, 3), 0.5),
            IncompatibleError,
            "differentiate",
            METHODS,
        ),
        *each(
            lambda method: SAMPLER.sample(
                method(SCORE, SEEN), (4, 3), label={"measurement": torch.zeros(4, 3)}
            ),
            ShapeError,
            r"\(B, 2\)",
            METHODS,
        ),
        *each(
            lambda method: SAMPLER.sample(
                method(SCORE, SEEN), (4, 3), label={"measurement": torch.zeros(3, 2)}
            ),
            ShapeError,
            "measurement",
            METHODS,
        ),
        *each(
            lambda method: SAMPLER.sample(
                method(SCORE, SEEN), (4, 3), label={"measurement": torch.full((4, 2), torch.nan)}
            ),
            ParameterError,
            "finite",
            METHODS,
        ),
        *each(
            lambda method: SAMPLER.sample(
                method(SCORE, SEEN),
                (4, 3),
                label={"measurement": torch.zeros(4, 2, dtype=torch.complex64)},
            ),
            ShapeError,
            "float32 or float64; got torch.complex64",
            METHODS,
        ),
        *each(
            lambda method: SAMPLER.sample(
                method(SCORE, SEEN),
                (4, 3),
                label={"measurement": torch.zeros(4, 2), "lable": torch.zeros(4)},
            ),
            IncompatibleError,
            "'lable' besides",
            METHODS,
        ),
        *each(
            lambda method: method(SCORE, SEEN)(torch.zeros(2, 3, dtype=torch.int64), 0.3),
            ShapeError,
            "x in floating point",
            (*METHODS, inverse.diffpir, inverse.moments),
        ),
        *each(
            lambda method: SAMPLER.sample(method(SCORE, SEEN), (4, 3), label=torch.zeros(4)),
            IncompatibleError,
            "label",
            METHODS,
        ),
        *each(
            lambda method: method(ss.ScoreModel(ss.MLP(3), ss.VPSDE(), prediction="epsilon"), SEEN)(
                torch.zeros(1, 3), 0.0
            ),
            TimeError,
            "sigma_t > 0",
            METHODS,
        ),
        (lambda: inverse.dps(SCORE, SEEN, -1.0), ParameterError, "zeta >= 0"),
        (
            lambda: inverse.dps(SCORE, inverse.Measurement(Y, MASK, 0.0), gamma=0.0),
            ParameterError,
            "gamma > 0",
        ),
        (lambda: inverse.dps(SCORE, SEEN, gamma=-1.0), ParameterError, "gamma >= 0"),
        (lambda: inverse.pigdm(SCORE, SEEN, 0.0), ParameterError, "data_std > 0"),
        (lambda: inverse.mmps(SCORE, SEEN, iterations=0), ParameterError, "iterations >= 1"),
        (lambda: inverse.mmps(SCORE, SEEN, tolerance=1.0), ParameterError, "tolerance < 1"),
    ),
}


@pytest.mark.parametrize(("call", "error", "match"), rows(REFUSALS))
def test_what_is_refused(call: Callable[[], object], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()
