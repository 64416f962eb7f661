"""What the command line's names stand for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sdescore import correctors, predictors
from sdescore.nets.unet import UNet
from sdescore.samplers.predictor_corrector.sampler import PredictorCorrector
from sdescore.score.model import ScoreModel
from sdescore.sde.cosine import CosineVPSDE
from sdescore.sde.discrete import DiscreteVESDE, DiscreteVPSDE
from sdescore.sde.linear import LinearSDE
from sdescore.sde.rectified_flow import RectifiedFlowSDE
from sdescore.sde.subvp import SubVPSDE
from sdescore.tableau.method import Corrector, Predictor

__all__ = ["CORRECTORS", "PREDICTORS", "RECIPES", "Recipe", "digit_model", "make_sampler"]

# The digits' standard deviation in [−1, 1], and a little more than the largest distance
# between two of them (9.63), which is what NCSNv2's technique 1 asks of σ_1.
DIGITS_STD = 0.75
DIGITS_SPAN = 10.0


@dataclass(frozen=True)
class Recipe:
    """An SDE, the convention its network is trained in, and whether NCSN's sampler fits it."""

    title: str
    sde: Callable[[], LinearSDE]
    prediction: str
    time_input: str
    ladder: bool = False


RECIPES = {
    "ve": Recipe(
        "SMLD / NCSN: a ladder of 100 levels, a VE SDE",
        lambda: DiscreteVESDE.geometric(sigma_max=DIGITS_SPAN, sigma_min=0.01, levels=100),
        "F",
        "log_sigma",
        ladder=True,
    ),
    "vp": Recipe(
        "DDPM: a table of 1000 betas, a VP SDE", DiscreteVPSDE.linear, "epsilon", "continuous_level"
    ),
    "subvp": Recipe("sub-VP SDE", SubVPSDE, "epsilon", "999t"),
    "cosine": Recipe("cosine VP SDE", CosineVPSDE, "v", "999t"),
    "flow": Recipe("rectified flow", RectifiedFlowSDE, "velocity", "999t"),
}

PREDICTORS: dict[str, Predictor] = {
    "exponential-adams": predictors.ExponentialAdams(midpoint=True),  # as samplers have by default
    "euler-maruyama": predictors.EulerMaruyama(),
    "reverse-diffusion": predictors.ReverseDiffusion(),
    "ancestral": predictors.Ancestral(),
    "ddim": predictors.DDIM(),
    "none": predictors.NoPredictor(),
}

CORRECTORS: dict[str, Corrector] = {
    "none": correctors.NoCorrector(),
    "langevin": correctors.Langevin(snr=0.1),
    "annealed-langevin": correctors.AnnealedLangevin(epsilon=3e-5, steps=3),  # ε = 0.3 σ_L²
}


def digit_model(name: str, classes: int | None = None) -> ScoreModel:
    """A new network for 8×8 digits in the recipe's convention."""
    made, net = RECIPES[name], UNet(1, width=24, multipliers=(1, 2), blocks=1, classes=classes)
    return ScoreModel(net, made.sde(), made.prediction, made.time_input, sigma_data=DIGITS_STD)


def make_sampler(
    sde: LinearSDE, predictor: str, corrector: str, steps: int | None
) -> PredictorCorrector:
    """The sampler of these names; without a predictor, the corrector starts at the first time."""
    return PredictorCorrector(
        sde,
        predictor=PREDICTORS[predictor],
        corrector=CORRECTORS[corrector],
        steps=steps,
        corrector_first=predictor == "none",
    )
