"""What SDEs, kernels and reversals refuse: the call, its error, and what the message says."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import pytest
import torch

import sdescore as ss
from sdescore.errors import IncompatibleError, ScheduleError, ShapeError, TimeError
from tests.helpers.refusals import Refusal, each, rows
from tests.helpers.sdes import ID, ONE
from tests.helpers.strategies import REPRESENTATIVES

pytestmark = pytest.mark.fast

BAD_PARAMETERS = [
    (ss.VESDE, {"sigma_min": 0.0}, "sigma_min=0.0"),
    (ss.VESDE, {"sigma_min": -1.0}, "sigma_min=-1.0"),
    (ss.VESDE, {"sigma_min": 2.0, "sigma_max": 2.0}, "sigma_min=2.0"),
    (ss.VESDE, {"sigma_max": math.inf}, "sigma_max=inf"),
    (ss.VESDE, {"sigma_min": math.nan}, "sigma_min=nan"),
    (ss.VESDE, {"sigma_min": "0.1"}, "sigma_min='0.1', which is no Python number"),
    (ss.EDMSDE, {"sigma_max": torch.tensor(9.0)}, "which is no Python number; use .item()"),
    (ss.VPSDE, {"beta_min": -0.1}, "beta_min=-0.1"),
    (ss.VPSDE, {"beta_min": 30.0}, "beta_min=30.0"),
    (ss.VPSDE, {"beta_min": 0.0, "beta_max": 0.0}, "beta_max=0.0"),
    (ss.VPSDE, {"beta_max": math.nan}, "beta_max=nan"),
    (ss.VPSDE, {"beta_max": None}, "beta_max=None"),
    (ss.SubVPSDE, {"beta_min": -0.1}, "beta_min=-0.1"),
    (ss.SubVPSDE, {"beta_max": math.inf}, "beta_max=inf"),
    (ss.CosineVPSDE, {"offset": 0.0}, "offset=0.0"),
    (ss.CosineVPSDE, {"T": 1.0}, "T=1.0"),
    (ss.CosineVPSDE, {"T": 1e-3}, "T=0.001"),
    (ss.CosineVPSDE, {"offset": math.nan}, "offset=nan"),
    (ss.EDMSDE, {"sigma_min": 0.0}, "sigma_min=0.0"),
    (ss.EDMSDE, {"sigma_min": 3.0, "sigma_max": 1.0}, "sigma_min=3.0"),
    (ss.EDMSDE, {"sigma_max": math.inf}, "sigma_max=inf"),
    (ss.RectifiedFlowSDE, {"T": 1.0}, "T=1.0"),
    (ss.RectifiedFlowSDE, {"T": 0.0}, "T=0.0"),
    (ss.RectifiedFlowSDE, {"T": math.nan}, "T=nan"),
]

BAD_MARGINALS = [
    (lambda t: -ONE(t), ID, {}, r"alpha\(t\) > 0"),
    (lambda t: 1 - 2 * t, ID, {}, r"alpha\(t\) > 0"),
    (ONE, lambda t: t - 0.5, {}, r"sigma\(t\) >= 0"),
    (ONE, ONE, {}, "rise"),
    (ONE, lambda t: 1 - t, {}, "rise"),
    (ONE, lambda t: t * math.nan, {}, "nan"),
    (lambda t: 1.0, ID, {}, "float"),
    (lambda t: torch.ones(3), ID, {}, "elementwise"),
    (ONE, ID, {"T": 0.0}, "T=0.0"),
    (ONE, ID, {"T": math.inf}, "T=inf"),
    (ONE, ID, {"T": 1.0, "t_min": 1.0}, "t_min=1.0"),
    (ONE, ID, {"t_min": -0.1}, "t_min=-0.1"),
]

REFUSALS: dict[str, tuple[Refusal, ...]] = {
    "bad parameters are schedule errors": (
        *(
            (
                lambda kind=kind, parameters=parameters: kind(**parameters),
                ScheduleError,
                rf"expected.*{re.escape(got)}",
            )
            for kind, parameters, got in BAD_PARAMETERS
        ),
    ),
    "misspelt and positional parameters are type errors": (
        (lambda: ss.VPSDE(beta_mn=0.1), TypeError, "argument"),
        (lambda: ss.VPSDE(0.1, 20.0), TypeError, "argument"),
    ),
    "bad marginals are schedule errors": (
        *(
            (
                lambda alpha=alpha, sigma=sigma, options=options: ss.LinearSDE.from_marginal(
                    alpha, sigma, **options
                ),
                ScheduleError,
                message,
            )
            for alpha, sigma, options, message in BAD_MARGINALS
        ),
    ),
    "bad order of times": (
        *each(
            lambda call: call(0.6, 0.5),
            TimeError,
            "s <= t",
            (ss.VPSDE().transition, ss.VPSDE().bridge),
        ),
        *each(
            lambda call: call(torch.tensor([0.1, 0.6]), 0.5),
            TimeError,
            "s <= t",
            (ss.VPSDE().transition, ss.VPSDE().bridge),
        ),
        *each(
            lambda call: call(-0.1, 0.5),
            TimeError,
            "<= s <=",
            (ss.VPSDE().transition, ss.VPSDE().bridge),
        ),
        *each(
            lambda call: call(0.1, 1.5),
            TimeError,
            "<= t <=",
            (ss.VPSDE().transition, ss.VPSDE().bridge),
        ),
        *each(
            lambda call: call(torch.zeros(2), torch.ones(3)),
            ShapeError,
            r"\(2,\) and \(3,\)",
            (ss.VPSDE().transition, ss.VPSDE().bridge),
        ),
    ),
    "bridge takes exactly one prediction": (
        (lambda: ss.VPSDE().bridge(0.1, 0.5)(torch.ones(2, 3)), IncompatibleError, "got 0"),
        (
            lambda: ss.VPSDE().bridge(0.1, 0.5)(
                torch.ones(2, 3), x0=torch.ones(2, 3), score=torch.ones(2, 3)
            ),
            IncompatibleError,
            "got 2",
        ),
        (
            lambda: ss.VPSDE().bridge(0.1, 0.5)(torch.ones(2, 3), x0=torch.ones(1, 3)),
            ShapeError,
            "shaped like x",
        ),
        (
            lambda: ss.VPSDE().bridge(0.1, 0.5)(torch.ones(2, 3), eps=torch.ones(2, 3)),
            TypeError,
            "argument",
        ),
    ),
    "bad states are shape errors": (
        *each(
            lambda call: call(torch.ones(2, 1)),
            ShapeError,
            r"\(2, 3\); got \(2, 1\)",
            (
                ss.VPSDE().kernel(0.5)(torch.ones(2, 3)).sample,
                ss.VPSDE().kernel(0.5)(torch.ones(2, 3)).log_prob,
                ss.VPSDE().kernel(0.5)(torch.ones(2, 3)).score,
            ),
        ),
        *each(
            lambda bad: ss.VPSDE().kernel(0.5)(bad),
            ShapeError,
            "got",
            (torch.ones(2, dtype=torch.int64), torch.tensor(1.0), [1.0, 2.0]),
        ),
        (lambda: ss.VPSDE().kernel(torch.full((3,), 0.5))(torch.ones(2, 3)), ShapeError, r"\(3,\)"),
    ),
    "log snr above the data end is refused": (
        (lambda: ss.VESDE().time_at_log_snr(100.0), TimeError, "got values in"),
    ),
    "eta outside its range": (
        *(
            (lambda eta=eta: ss.VPSDE().reverse(lambda x, t: x, eta=eta), ScheduleError, "eta=")
            for eta in [-0.1, 1.1, math.nan, math.inf, "1", None]
        ),
    ),
    "parts that make no reversal": (
        *(
            (
                lambda forward=forward: ss.sde.ReverseSDE(forward=forward, score=torch.neg),
                IncompatibleError,
                "expected forward",
            )
            for forward in (ss.VPSDE, "vp")
        ),
        *(
            (
                lambda score=score: ss.VPSDE().reverse(score),
                IncompatibleError,
                "score to be callable",
            )
            for score in (ss.EnergyModel, None)
        ),
    ),
    "perturb refuses noise that would broadcast": (
        *(
            (
                lambda noise=noise: ss.VPSDE().perturb(torch.ones(2, 3), 0.5, noise),
                ShapeError,
                "noise",
            )
            for noise in [torch.ones(2, 1), torch.ones(3), torch.ones(2, 3).long()]
        ),
    ),
    "complex times are refused": (
        *each(
            lambda name, t: REPRESENTATIVES[name].marginal(t),
            TimeError,
            "real tensor",
            REPRESENTATIVES,
            (torch.tensor(0.5 + 0.1j), 0.5 + 0.1j, 10**400),
        ),
    ),
}


@pytest.mark.parametrize(("call", "error", "match"), rows(REFUSALS))
def test_what_is_refused(call: Callable[[], object], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()
