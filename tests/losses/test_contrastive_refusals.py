"""What the contrastive loss refuses: the call, its error, and what the message says."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import sdescore as ss
from sdescore.errors import IncompatibleError, ParameterError, ShapeError, TimeError
from sdescore.langevin.chains import chains
from sdescore.losses import ReplayBuffer, contrastive_divergence_loss
from tests.helpers.contrastive import ENERGY, INF, NAN, noise
from tests.helpers.refusals import Refusal, rows

TIMED = ss.ScoreModel(ss.EnergyModel(lambda x, c: c * x.sum(-1)), ss.VPSDE(), prediction="score")

REFUSALS: dict[str, tuple[Refusal, ...]] = {
    "what does not fit is refused": (
        *(
            (
                lambda arguments=arguments, options=options: contrastive_divergence_loss(
                    *arguments, **options
                ),
                error,
                "expected",
            )
            for arguments, options, error in [
                ((ss.MLP(2), torch.zeros(3, 2), torch.zeros(3, 2)), {}, IncompatibleError),
                ((lambda x: -x, torch.zeros(3, 2), torch.zeros(3, 2)), {}, IncompatibleError),
                (
                    (
                        ss.ScoreModel(ss.MLP(2), ss.VPSDE(), prediction="epsilon"),
                        torch.zeros(3, 2),
                        torch.zeros(3, 2),
                    ),
                    {"t": 0.5},
                    IncompatibleError,
                ),
                ((ENERGY, torch.zeros(3, 2), torch.zeros(4, 2)), {}, ShapeError),
                ((ENERGY, torch.zeros(3, 2), torch.zeros(2)), {}, ShapeError),
                ((ENERGY, torch.zeros(3, 2), None), {}, ShapeError),
                ((ENERGY, torch.zeros(0, 2), torch.zeros(0, 2)), {}, ShapeError),
                ((ENERGY, torch.zeros(3, 2).long(), torch.zeros(3, 2).long()), {}, ShapeError),
                ((ENERGY, [[0.0]], torch.zeros(1, 1)), {}, ShapeError),
                ((TIMED, torch.zeros(3, 2), torch.zeros(3, 2)), {}, IncompatibleError),
                *(
                    (
                        (energy, torch.zeros(3, 2), torch.zeros(3, 2)),
                        {"t": t, "sde": ss.VPSDE()},
                        error,
                    )
                    for energy in (TIMED, ss.EnergyModel(lambda x, c: c * x.sum(-1)))
                    for t, error in (
                        (NAN, TimeError),
                        (torch.tensor([0.1, NAN, 0.1]), TimeError),
                        (torch.ones(2), ShapeError),
                        (torch.ones(3, 1), ShapeError),
                    )
                ),
                (
                    (ss.EnergyModel(lambda x: x), torch.zeros(3, 2), torch.zeros(3, 2)),
                    {},
                    ShapeError,
                ),
                *(
                    (
                        (ENERGY, torch.zeros(3, 2), torch.zeros(3, 2)),
                        {"penalty": v},
                        ParameterError,
                    )
                    for v in (-1.0, NAN, INF, None, "1")
                ),
            ]
        ),
    ),
    "a buffer that cannot be is refused": (
        *(
            (
                lambda options=options: ReplayBuffer(**{"size": 4, "fresh": noise, **options}),
                error,
                "expected",
            )
            for options, error in [
                *(({"size": v}, ParameterError) for v in (0, -1, True, 2.0, None)),
                *(({"reinit": v}, ParameterError) for v in (-0.1, 1.1, NAN, None, "0.1")),
                *(({"seed": v}, ParameterError) for v in (-1, 0.5, True, None)),
                ({"fresh": torch.zeros(4, 2)}, IncompatibleError),
                ({"fresh": lambda n, g: torch.zeros(n + 1, 2)}, ShapeError),
                ({"fresh": lambda n, g: torch.zeros(n, 2).long()}, ShapeError),
                ({"fresh": lambda n, g: None}, ShapeError),
            ]
        ),
    ),
    "chains of no steps are refused": (
        (lambda: chains(ENERGY, torch.zeros(3, 2), 0.1, 0), ss.SDEScoreError, "n >= 1"),
    ),
}


@pytest.mark.parametrize(("call", "error", "match"), rows(REFUSALS))
def test_what_is_refused(call: Callable[[], object], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()
