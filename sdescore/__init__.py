r"""Score-based diffusion as one chain of small parts.

.. code-block:: text

    schedule → SDE → kernel → score → predictor / corrector → sampler
                                   ↘ losses, guidance, likelihood, analysis

SMLD/NCSN (a variance-exploding SDE) and DDPM (a variance-preserving SDE) are one object: a
linear SDE ``dx = f(t) x dt + g(t) dw`` whose marginal is ``x_t = α(t) x_0 + σ(t) ε``. Time
runs from data, ``t = 0``, to noise, ``t = T``. States are ``(B, *E)``; ``t`` is a 0-dim
tensor or ``(B,)``.

The names that people type in ordinary work are here. The rest is in submodules, such as
``ss.losses.sliced_loss``, which load at first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdescore.analysis.optimal_grid.optimal import optimal_grid as optimal_grid
    from sdescore.analysis.optimal_grid.recommended import (
        recommended_sampler as recommended_sampler,
    )
    from sdescore.checkpoint.store import load as load
    from sdescore.checkpoint.store import save as save
    from sdescore.correctors.annealed import AnnealedLangevin as AnnealedLangevin
    from sdescore.correctors.langevin import Langevin as Langevin
    from sdescore.correctors.none import NoCorrector as NoCorrector
    from sdescore.errors import SDEScoreError as SDEScoreError
    from sdescore.grids.base import CustomGrid as CustomGrid
    from sdescore.grids.base import UniformGrid as UniformGrid
    from sdescore.grids.levels import LevelGrid as LevelGrid
    from sdescore.grids.spaced import CosineGrid as CosineGrid
    from sdescore.grids.spaced import KarrasGrid as KarrasGrid
    from sdescore.grids.spaced import LogSNRGrid as LogSNRGrid
    from sdescore.grids.spaced import QuadraticGrid as QuadraticGrid
    from sdescore.guidance.classifier import classifier_guidance as classifier_guidance
    from sdescore.guidance.classifier_free import classifier_free as classifier_free
    from sdescore.interop.diffusers import load_diffusers as load_diffusers
    from sdescore.interop.edm import load_edm as load_edm
    from sdescore.interop.guided_diffusion import load_guided_diffusion as load_guided_diffusion
    from sdescore.interop.k_diffusion import load_k_diffusion as load_k_diffusion
    from sdescore.interop.ncsnv2 import load_ncsnv2 as load_ncsnv2
    from sdescore.interop.score_sde import load_score_sde as load_score_sde
    from sdescore.losses.denoising import denoising_loss as denoising_loss
    from sdescore.nets.ema import EMA as EMA
    from sdescore.nets.energy import EnergyModel as EnergyModel
    from sdescore.nets.mlp import MLP as MLP
    from sdescore.nets.unet import UNet as UNet
    from sdescore.predictors.adams import ExponentialAdams as ExponentialAdams
    from sdescore.predictors.ancestral import Ancestral as Ancestral
    from sdescore.predictors.ddim import DDIM as DDIM
    from sdescore.predictors.euler_maruyama import EulerMaruyama as EulerMaruyama
    from sdescore.predictors.exponential_runge_kutta import (
        ExponentialRungeKutta as ExponentialRungeKutta,
    )
    from sdescore.predictors.none import NoPredictor as NoPredictor
    from sdescore.predictors.reverse_diffusion import ReverseDiffusion as ReverseDiffusion
    from sdescore.predictors.runge_kutta import Heun as Heun
    from sdescore.predictors.stochastic_heun import StochasticHeun as StochasticHeun
    from sdescore.samplers.adaptive.sampler import AdaptiveSampler as AdaptiveSampler
    from sdescore.samplers.bits import bits_per_dimension as bits_per_dimension
    from sdescore.samplers.distributed import sample_distributed as sample_distributed
    from sdescore.samplers.predictor_corrector.sampler import (
        PredictorCorrector as PredictorCorrector,
    )
    from sdescore.samplers.probability_flow.flow import ProbabilityFlow as ProbabilityFlow
    from sdescore.samplers.probability_flow.likelihood import bits_per_dim as bits_per_dim
    from sdescore.samplers.simulate import simulate as simulate
    from sdescore.score.change_of_sde import under as under
    from sdescore.score.empirical import EmpiricalScore as EmpiricalScore
    from sdescore.score.mixture import GaussianScore as GaussianScore
    from sdescore.score.mixture import MixtureScore as MixtureScore
    from sdescore.score.model import ScoreModel as ScoreModel
    from sdescore.score.parameterization import convert as convert
    from sdescore.score.parameterization import tweedie_covariance as tweedie_covariance
    from sdescore.score.parameterization import tweedie_mean as tweedie_mean
    from sdescore.sde.base import SDE as SDE
    from sdescore.sde.cosine import CosineVPSDE as CosineVPSDE
    from sdescore.sde.discrete import DiscreteVESDE as DiscreteVESDE
    from sdescore.sde.discrete import DiscreteVPSDE as DiscreteVPSDE
    from sdescore.sde.edm import EDMSDE as EDMSDE
    from sdescore.sde.linear import LinearSDE as LinearSDE
    from sdescore.sde.rectified_flow import RectifiedFlowSDE as RectifiedFlowSDE
    from sdescore.sde.subvp import SubVPSDE as SubVPSDE
    from sdescore.sde.ve import VESDE as VESDE
    from sdescore.sde.vp import VPSDE as VPSDE
    from sdescore.tableau.method import Corrector as Corrector
    from sdescore.tableau.method import Predictor as Predictor
    from sdescore.tableau.tableau import Tableau as Tableau
    from sdescore.training.loop import train as train

__version__ = "0.1.0"

_NAMES = {
    "sde": "SDE LinearSDE VESDE VPSDE SubVPSDE CosineVPSDE EDMSDE RectifiedFlowSDE "
    "DiscreteVPSDE DiscreteVESDE",
    "grids": "UniformGrid QuadraticGrid LogSNRGrid KarrasGrid CosineGrid LevelGrid CustomGrid",
    "score": "ScoreModel GaussianScore MixtureScore EmpiricalScore convert under tweedie_mean "
    "tweedie_covariance",
    "tableau": "Tableau Predictor Corrector",
    "predictors": "EulerMaruyama ReverseDiffusion Ancestral DDIM Heun StochasticHeun "
    "ExponentialAdams ExponentialRungeKutta NoPredictor",
    "correctors": "Langevin AnnealedLangevin NoCorrector",
    "guidance": "classifier_free classifier_guidance",
    "samplers": "PredictorCorrector AdaptiveSampler ProbabilityFlow sample_distributed simulate "
    "bits_per_dim bits_per_dimension",
    "nets": "MLP UNet EMA EnergyModel",
    "losses": "denoising_loss",
    "training": "train",
    "checkpoint": "save load",
    "analysis": "optimal_grid recommended_sampler",
    "interop": "load_diffusers load_edm load_guided_diffusion load_k_diffusion load_ncsnv2 "
    "load_score_sde",
    "errors": "SDEScoreError",
}
_ROOM_OF = {name: room for room, names in _NAMES.items() for name in names.split()}
_ROOMS = [
    *_NAMES,
    "noise",
    "inverse",
    "langevin",
    "published",
    "fokker_planck",
    "metrics",
    "plotting",
    "datasets",
]

__all__ = [*_ROOM_OF, *_ROOMS]


def __getattr__(name: str) -> Any:
    """A name's room, or a room, loaded when first asked for (PEP 562)."""
    if name in _ROOMS:
        return import_module(f"sdescore.{name}")
    if name not in _ROOM_OF:
        raise AttributeError(f"module 'sdescore' has no attribute {name!r}")
    found = getattr(import_module(f"sdescore.{_ROOM_OF[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
