"""What the tools of analysis refuse: the call, its error, and what the message says."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import sdescore as ss
from sdescore.analysis.model_error import constant_error
from sdescore.analysis.optimal_grid.impulses import mode_errors
from sdescore.analysis.pca import local_spectra, principal_axes
from sdescore.errors import IncompatibleError, ParameterError, ShapeError
from sdescore.samplers.predictor_corrector.exact import Spectrum
from sdescore.tableau.method import Predictor
from tests.helpers.covariances import uneven
from tests.helpers.refusals import Refusal, each, rows
from tests.helpers.spectra import F64, two_blobs

VARIANCE = torch.tensor([4.0, 0.5, 0.05], dtype=F64)

MEAN = torch.tensor([1.0, -2.0, 0.0], dtype=F64)


def errors(
    predictor: Predictor, sde: ss.LinearSDE, times: Tensor, score_error: float = 0.0
) -> Tensor:
    tableau, ending = predictor.tableau(sde, times), predictor.ending(sde, times)
    spectrum = Spectrum(VARIANCE, MEAN)
    return mode_errors(
        tableau, ending, sde, times, spectrum, predictor.eta, constant_error(score_error)
    )


def blobs(n: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    sign = torch.randint(2, (n, 1), generator=generator) * 2.0 - 1.0
    z = torch.randn(n, 3, generator=generator, dtype=F64)
    return sign * torch.tensor([2.0, 0.0, 0.0]) + z * torch.tensor([0.3, 0.2, 0.1])


class ByHand(ss.DDIM):
    """A step that no numbers describe."""

    def is_affine(self, sde: ss.SDE) -> bool:
        return False


SPECTRUM = torch.tensor([2.0, 0.3, 0.01], dtype=F64)

MEAN_ERROR = torch.tensor([1.0, -3.0, 0.2], dtype=F64)

X = uneven(10, 3)

NAN = torch.cat([X, torch.full((1, 3), math.nan, dtype=F64)])

REFUSALS: dict[str, tuple[Refusal, ...]] = {
    "complex variances lose nothing unseen": (
        (
            lambda: ss.analysis.gaussian_error(
                ss.PredictorCorrector(ss.VPSDE(), steps=3), torch.tensor([0.1 + 1j])
            ),
            ShapeError,
            "spectrum as a dense, real tensor",
        ),
    ),
    "what has no grid is refused": (
        *(
            (
                lambda predictor=predictor, options=options: ss.optimal_grid(
                    ss.VPSDE(), predictor, 4, data=blobs(100), **options
                ),
                IncompatibleError,
                match,
            )
            for predictor, options, match in [
                (ss.Heun(s_churn=10.0), {}, "whose noises each drive the chain"),
                (ss.Ancestral(), {"fit_weights": True}, "expected a one-stage predictor in x0"),
            ]
        ),
    ),
    "bad grids": (
        *(
            (
                lambda predictor=predictor, steps=steps, options=options: ss.optimal_grid(
                    ss.VPSDE(), predictor, steps, **{"data": two_blobs(50), **options}
                ),
                error,
                match,
            )
            for predictor, steps, options, error, match in [
                (ByHand(), 5, {}, IncompatibleError, "expected a predictor with a tableau"),
                (ss.DDIM(), 1, {}, ParameterError, "steps >= 2"),
                (ss.DDIM(), 5.0, {}, ParameterError, "steps >= 2"),
                (
                    ss.DDIM(),
                    5,
                    {"likelihood_weight": 2.0},
                    ParameterError,
                    "likelihood_weight >= 0 and likelihood_weight <= 1",
                ),
                (ss.DDIM(), 5, {"score_error": -0.1}, ParameterError, "score_error >= 0"),
                (ss.DDIM(), 5, {"score_error": math.nan}, ParameterError, "score_error >= 0"),
                (ss.DDIM(), 5, {"trajectories": 0}, ParameterError, "trajectories >= 1"),
                (ss.DDIM(), 5, {"surrogate": "flow"}, IncompatibleError, "mixture, gaussian"),
                (ss.DDIM(), 5, {"data": torch.ones(9, 2)}, ParameterError, "data that vary"),
                (ss.DDIM(), 5, {"data": None}, IncompatibleError, "both or none"),
            ]
        ),
    ),
    "bad requests": (
        *(
            (
                lambda arguments=arguments: ss.analysis.gaussian_error(
                    ss.PredictorCorrector(ss.VPSDE(), predictor=ss.DDIM(), steps=3), **arguments
                ),
                error,
                match,
            )
            for arguments, error, match in [
                ({}, IncompatibleError, "got both or none"),
                (
                    {"spectrum": SPECTRUM, "data": torch.zeros(3, 2)},
                    IncompatibleError,
                    "both or none",
                ),
                ({"data": torch.zeros(3, 2), "mean": MEAN_ERROR}, IncompatibleError, "no mean="),
                (
                    {"spectrum": torch.ones(2, 2)},
                    ShapeError,
                    r"expected spectrum to be a real tensor \(M,\)",
                ),
                (
                    {"spectrum": torch.tensor([1.0, -1.0])},
                    ParameterError,
                    "finite variances >= 0",
                ),
                ({"spectrum": torch.tensor([])}, ParameterError, "at least one"),
                (
                    {"spectrum": SPECTRUM, "mean": torch.zeros(2)},
                    ShapeError,
                    "expected mean of shape",
                ),
                ({"data": torch.zeros(1, 2)}, ShapeError, "at least two data"),
                ({"data": torch.full((3, 2), math.nan)}, ParameterError, "finite data"),
                ({"spectrum": SPECTRUM, "score_error": -1.0}, ParameterError, "score_error >= 0"),
            ]
        ),
    ),
    "steps that are not affine are refused": (
        (
            lambda: ss.analysis.gaussian_error(
                ss.PredictorCorrector(
                    ss.VPSDE(),
                    predictor=ss.DDIM(),
                    corrector=ss.Langevin(snr=0.1, norm="batch"),
                    steps=3,
                ),
                SPECTRUM,
            ),
            IncompatibleError,
            "expected affine steps",
        ),
    ),
    "bad data are refused": (
        *(
            (lambda data=data: principal_axes(data, 1), error, message)
            for data, error, message in [
                (X[:1], ShapeError, "at least two data"),
                (X[0, 0], ShapeError, "at least two data"),
                (X[:, :0], ShapeError, "at least two data"),
                (X.to(torch.complex64), ShapeError, "real tensor .*; got a torch.complex64"),
                (X.tolist(), ShapeError, "got <class 'list'>"),
                (NAN, ParameterError, "finite data"),
                (X / 0.0, ParameterError, "finite data"),
            ]
        ),
        *(
            (lambda data=data: local_spectra(data), error, message)
            for data, error, message in [
                (X[:1], ShapeError, "at least two data"),
                (X[0, 0], ShapeError, "at least two data"),
                (X[:, :0], ShapeError, "at least two data"),
                (X.to(torch.complex64), ShapeError, "real tensor .*; got a torch.complex64"),
                (X.tolist(), ShapeError, "got <class 'list'>"),
                (NAN, ParameterError, "finite data"),
                (X / 0.0, ParameterError, "finite data"),
            ]
        ),
    ),
    "equal data have no axes": (
        (lambda: principal_axes(torch.full((7, 3), 0.1), 1), ParameterError, "data that vary"),
    ),
    "a rank out of range is refused": (
        *(
            (
                lambda rank=rank: principal_axes(X, rank),
                ParameterError,
                "rank >= 1 and at most 3; got rank=",
            )
            for rank in [0, 4, -1, True, 1.0, None]
        ),
    ),
    "numbers of neighbours out of range are refused": (
        *each(
            lambda number: local_spectra(X, neighbourhoods=number),
            ParameterError,
            "neighbourhoods >= 1 and at most 10",
            [0, 11, -1, True, 2.0],
        ),
        *each(
            lambda number: local_spectra(X, neighbourhoods=2, neighbours=number),
            ParameterError,
            "neighbours >= 2 and at most 10",
            [0, 11, -1, True, 2.0],
        ),
        *(
            (
                lambda: local_spectra(X, neighbourhoods=2, neighbours=1),
                ParameterError,
                "neighbours >= 2 and at most 10",
            )
            for number in [0, 11, -1, True, 2.0]
        ),
    ),
}


@pytest.mark.parametrize(("call", "error", "match"), rows(REFUSALS))
def test_what_is_refused(call: Callable[[], object], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()
