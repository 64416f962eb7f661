"""Models and data that the tests of the correctors share."""

from __future__ import annotations

from typing import Any

from torch import Tensor

import sdescore as ss
from sdescore.score.mixture import MixtureScore

SDE = ss.VPSDE(beta_min=0.5, beta_max=8.0)


def at_one_time(corrector: ss.Corrector, sde: ss.LinearSDE = SDE) -> ss.PredictorCorrector:
    """A sampler that stays at ``sde.T`` and then at a last time close by, correcting at both."""
    return ss.PredictorCorrector(
        sde,
        predictor=ss.NoPredictor(),
        corrector=corrector,
        grid=[0.4, 0.4 - 1e-9],
        denoise=False,
        corrector_first=False,
    )


def mixture(sde: ss.LinearSDE = SDE) -> MixtureScore:
    return MixtureScore([0.3, 0.7], [[-1.5], [1.0]], [0.1, 0.2], sde)


class Counted:
    """An exact score that counts what is asked of it, and when."""

    def __init__(self, exact: Any) -> None:
        self.exact, self.calls = exact, list[str]()

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls.append("score")
        return self.exact(x, t)

    def log_density(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls.append("density")
        return self.exact.log_prob(x, t)
