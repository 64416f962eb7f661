"""What samplers of probability_flow refuse: the call, its error, and what the message says."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import sdescore as ss
from sdescore.errors import IncompatibleError, ParameterError, ShapeError
from tests.helpers.refusals import Refusal, each, rows


def untouched(x: Tensor, t: Tensor) -> Tensor:
    raise RuntimeError("the model was called")


REFUSALS: dict[str, tuple[Refusal, ...]] = {
    "a score without a derivative has no likelihood": (
        *each(
            lambda score, divergence: ss.ProbabilityFlow(ss.VPSDE()).log_likelihood(
                score, torch.zeros(2, 2), divergence=divergence
            ),
            IncompatibleError,
            "differentiate",
            [lambda x, t: -x.detach(), lambda x, t: torch.ones_like(x, requires_grad=True) * 1],
            ["exact", "hutchinson"],
        ),
    ),
    "too few or too many probes for a subspace": (
        *each(
            lambda probes: ss.ProbabilityFlow(ss.VPSDE()).log_likelihood(
                untouched, torch.zeros(2, 5), divergence="hutch++", probes=probes
            ),
            ParameterError,
            "3 <= probes < 5",
            [1, 2, 5, torch.zeros(5, 2, 5)],
        ),
    ),
    "data unlike the samples for the prior's error": (
        *each(
            lambda data: ss.samplers.likelihood_errors(
                ss.ProbabilityFlow(ss.VPSDE()), untouched, torch.zeros(2, 5), data=data
            ),
            ShapeError,
            r"data of shape \(N >= 2, 5\)",
            [torch.zeros(9, 4), torch.zeros(1, 5)],
        ),
    ),
    "errors without a flow": (
        (
            lambda: ss.samplers.likelihood_errors(ss.VPSDE(), untouched, torch.zeros(2, 5)),
            IncompatibleError,
            "ProbabilityFlow",
        ),
    ),
    "an ending it does not have": (
        *(
            (
                lambda denoise=denoise: ss.ProbabilityFlow(ss.VPSDE()).sample(
                    untouched, (2, 2), denoise=denoise
                ),
                IncompatibleError,
                "expected denoise to be True or False",
            )
            for denoise in ["flow", 1, None]
        ),
    ),
    "a score of another shape is refused": (
        (
            lambda: ss.ProbabilityFlow(ss.VPSDE()).encode(lambda x, t: x[:1], torch.zeros(2, 2)),
            ShapeError,
            "shape",
        ),
    ),
    "a score in whole numbers is refused": (
        (
            lambda: ss.ProbabilityFlow(ss.VPSDE()).sample(lambda x, t: (-x).long(), (2, 2)),
            IncompatibleError,
            r"real numbers; got torch.int64; return y.to\(x\)",
        ),
    ),
    "data with NaN for the prior's error": (
        (
            lambda: ss.samplers.likelihood_errors(
                ss.ProbabilityFlow(ss.VPSDE()),
                untouched,
                torch.zeros(2, 5),
                data=torch.full((9, 5), torch.nan),
            ),
            ParameterError,
            "finite data",
        ),
    ),
}


@pytest.mark.parametrize(("call", "error", "match"), rows(REFUSALS))
def test_what_is_refused(call: Callable[[], object], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()
