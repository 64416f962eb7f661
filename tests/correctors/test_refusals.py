"""What correctors refuse: the call, its error, and what the message says."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import sdescore as ss
from sdescore.correctors.mala import MALA
from sdescore.correctors.underdamped import Underdamped
from sdescore.errors import IncompatibleError, ParameterError
from tests.helpers.correctors import SDE
from tests.helpers.refusals import Refusal, each, rows


class NonLinear(ss.SDE):
    T = 1.0

    def drift(self, x: Tensor, t: Any) -> Tensor:
        return -(x**3)

    def diffusion(self, t: Any) -> Tensor:
        return torch.ones(())


REFUSALS: dict[str, tuple[Refusal, ...]] = {
    "bad parameters": (
        (lambda: ss.Langevin(preconditioner=torch.ones(2)), IncompatibleError, "expected"),
        (lambda: ss.Langevin(preconditioner=0.3), IncompatibleError, "expected"),
        (lambda: MALA(snr=0.0), ParameterError, "expected"),
        (lambda: MALA(snr=math.nan), ParameterError, "expected"),
        (lambda: MALA(steps=0), ParameterError, "expected"),
        (lambda: MALA(steps=True), ParameterError, "expected"),
        (lambda: MALA(report="print"), IncompatibleError, "expected"),
        (lambda: Underdamped(snr=-1.0), ParameterError, "expected"),
        (lambda: Underdamped(friction=-0.1), ParameterError, "expected"),
        (lambda: Underdamped(friction=math.inf), ParameterError, "expected"),
        (lambda: Underdamped(steps=0), ParameterError, "expected"),
        (lambda: Underdamped(length=0), ParameterError, "expected"),
        (lambda: Underdamped(length=2.0), ParameterError, "expected"),
        (lambda: Underdamped(length=True), ParameterError, "expected"),
        (
            lambda: ss.PredictorCorrector(
                NonLinear(), predictor=ss.ReverseDiffusion(), corrector=MALA()
            ),
            IncompatibleError,
            "expected",
        ),
        (
            lambda: ss.PredictorCorrector(
                NonLinear(), predictor=ss.ReverseDiffusion(), corrector=Underdamped()
            ),
            IncompatibleError,
            "expected",
        ),
    ),
    "a tensor is no python number": (
        *(
            (make, ParameterError, r"tensor\(0.1000\), which is no Python number")
            for make in (
                lambda: MALA(snr=torch.tensor(0.1)),  # type: ignore[arg-type]
                lambda: ss.Langevin(snr=torch.tensor(0.1)),  # type: ignore[arg-type]
                lambda: Underdamped(snr=torch.tensor(0.1)),  # type: ignore[arg-type]
                lambda: Underdamped(friction=torch.tensor(0.1)),  # type: ignore[arg-type]
                lambda: ss.AnnealedLangevin(epsilon=torch.tensor(0.1)),  # type: ignore[arg-type]
            )
        ),
    ),
    "a corrector without a step says where its rule is": (
        *each(
            lambda corrector: corrector.step(
                SDE, torch.zeros(1, 1), torch.neg, 0.5, torch.zeros(1, 1)
            ),
            IncompatibleError,
            r"tableau\(\), or its rule in correct",
            (MALA(), Underdamped()),
        ),
        (lambda: MALA().tableau(SDE, torch.tensor([0.5])), IncompatibleError, "tableau"),
    ),
}


@pytest.mark.parametrize(("call", "error", "match"), rows(REFUSALS))
def test_what_is_refused(call: Callable[[], object], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()
