r"""Score-based diffusion as one chain of small parts.

.. code-block:: text

    schedule → SDE → kernel → score → predictor / corrector → sampler
                                   ↘ losses, guidance, likelihood, analysis

SMLD/NCSN (a variance-exploding SDE) and DDPM (a variance-preserving SDE) are one object: a
linear SDE ``dx = f(t) x dt + g(t) dw`` whose marginal is ``x_t = α(t) x_0 + σ(t) ε``. Time
runs from data, ``t = 0``, to noise, ``t = T``. States are ``(B, *E)``; ``t`` is a 0-dim
tensor or ``(B,)``.
"""

from sdescore import analysis
from sdescore.analysis.optimal_grid.optimal import OptimalGrid, optimal_grid
from sdescore.analysis.optimal_grid.recommended import recommended_sampler
from sdescore.checkpoint.store import load, save
from sdescore.correctors.annealed import AnnealedLangevin
from sdescore.correctors.base import Corrector
from sdescore.correctors.langevin import Langevin
from sdescore.correctors.mala import MALA
from sdescore.correctors.none import NoCorrector
from sdescore.correctors.underdamped import Underdamped
from sdescore.errors import (
    CheckpointError,
    DivergenceError,
    IncompatibleError,
    ScheduleError,
    SDEScoreError,
    ShapeError,
    TimeError,
)
from sdescore.fokker_planck.solver import FokkerPlanck
from sdescore.grids.base import Grid
from sdescore.grids.custom import CustomGrid
from sdescore.grids.levels import LevelGrid
from sdescore.grids.spaced import CosineGrid, KarrasGrid, LogSNRGrid, QuadraticGrid, UniformGrid
from sdescore.guidance.base import GuidedScore
from sdescore.guidance.classifier import classifier_guidance
from sdescore.guidance.classifier_free import classifier_free
from sdescore.guidance.condition import condition
from sdescore.langevin.chains import LangevinRun, langevin
from sdescore.langevin.diagnostics import effective_sample_size, r_hat
from sdescore.langevin.preconditioner import Preconditioner
from sdescore.losses.contrastive import ReplayBuffer, contrastive_divergence_loss
from sdescore.losses.denoising import denoising_loss
from sdescore.losses.explicit import explicit_loss
from sdescore.losses.finite_difference import finite_difference_loss
from sdescore.losses.implicit import implicit_loss
from sdescore.losses.importance import ImportanceTimes
from sdescore.losses.kernel_density import kernel_density_score
from sdescore.losses.levels import at_levels
from sdescore.losses.loss import Loss
from sdescore.losses.sliced import sliced_loss
from sdescore.losses.times import LevelTimes, LogNormalTimes, LogSNRTimes, UniformTimes
from sdescore.losses.weighting import EDMWeighting, MinSNR
from sdescore.nets.ema import EMA
from sdescore.nets.energy import EnergyModel
from sdescore.nets.ensemble import LevelEnsemble
from sdescore.nets.mlp import MLP
from sdescore.nets.unet import UNet
from sdescore.noise.brownian import BrownianNoise, BrownianPath
from sdescore.noise.sources import NoiseSource, ReplayNoise, SeededNoise
from sdescore.predictors.adams import ExponentialAdams
from sdescore.predictors.ancestral import Ancestral
from sdescore.predictors.base import Predictor
from sdescore.predictors.ddim import DDIM
from sdescore.predictors.euler_maruyama import EulerMaruyama
from sdescore.predictors.exponential_runge_kutta import ExponentialRungeKutta
from sdescore.predictors.heun import Heun
from sdescore.predictors.multistep import Multistep
from sdescore.predictors.none import NoPredictor
from sdescore.predictors.reverse_diffusion import ReverseDiffusion
from sdescore.predictors.runge_kutta import RungeKutta4
from sdescore.predictors.stochastic_heun import StochasticHeun
from sdescore.samplers.adaptive.sampler import AdaptiveResult, AdaptiveSampler
from sdescore.samplers.predictor_corrector.pure import pure_function
from sdescore.samplers.predictor_corrector.sampler import PredictorCorrector
from sdescore.samplers.predictor_corrector.state import SamplerState
from sdescore.samplers.probability_flow.flow import ProbabilityFlow
from sdescore.samplers.probability_flow.likelihood import LogLikelihood, bits_per_dim
from sdescore.samplers.simulate import simulate
from sdescore.score.empirical import EmpiricalScore
from sdescore.score.gaussian import GaussianScore
from sdescore.score.mixture import MixtureScore
from sdescore.score.model import ScoreModel
from sdescore.score.parameterization import convert
from sdescore.score.tweedie import tweedie_covariance, tweedie_mean
from sdescore.score.under import under
from sdescore.sde.base import SDE, ReverseSDE
from sdescore.sde.cosine import CosineVPSDE
from sdescore.sde.discrete import DiscreteVESDE, DiscreteVPSDE
from sdescore.sde.edm import EDMSDE
from sdescore.sde.kernel import AffineKernel, Bridge, Gaussian
from sdescore.sde.langevin import LangevinSDE
from sdescore.sde.linear import LinearSDE
from sdescore.sde.rectified_flow import RectifiedFlowSDE
from sdescore.sde.subvp import SubVPSDE
from sdescore.sde.ve import VESDE
from sdescore.sde.vp import VPSDE
from sdescore.tableau.tableau import Tableau
from sdescore.training.loop import TrainingResult, train

__version__ = "0.1.0.dev0"
from sdescore.grids.table import TableGrid

__all__ = [
    "DDIM",
    "EDMSDE",
    "EMA",
    "MALA",
    "MLP",
    "SDE",
    "VESDE",
    "VPSDE",
    "AdaptiveResult",
    "AdaptiveSampler",
    "AffineKernel",
    "Ancestral",
    "AnnealedLangevin",
    "Bridge",
    "BrownianNoise",
    "BrownianPath",
    "CheckpointError",
    "Corrector",
    "CosineGrid",
    "CosineVPSDE",
    "CustomGrid",
    "DiscreteVESDE",
    "DiscreteVPSDE",
    "DivergenceError",
    "EDMWeighting",
    "EmpiricalScore",
    "EnergyModel",
    "EulerMaruyama",
    "ExponentialAdams",
    "ExponentialRungeKutta",
    "FokkerPlanck",
    "Gaussian",
    "GaussianScore",
    "Grid",
    "GuidedScore",
    "Heun",
    "ImportanceTimes",
    "IncompatibleError",
    "KarrasGrid",
    "Langevin",
    "LangevinRun",
    "LangevinSDE",
    "LevelEnsemble",
    "LevelGrid",
    "LevelTimes",
    "LinearSDE",
    "LogLikelihood",
    "LogNormalTimes",
    "LogSNRGrid",
    "LogSNRTimes",
    "Loss",
    "MinSNR",
    "MixtureScore",
    "Multistep",
    "NoCorrector",
    "NoPredictor",
    "NoiseSource",
    "OptimalGrid",
    "Preconditioner",
    "Predictor",
    "PredictorCorrector",
    "ProbabilityFlow",
    "QuadraticGrid",
    "RectifiedFlowSDE",
    "ReplayBuffer",
    "ReplayNoise",
    "ReverseDiffusion",
    "ReverseSDE",
    "RungeKutta4",
    "SDEScoreError",
    "SamplerState",
    "ScheduleError",
    "ScoreModel",
    "SeededNoise",
    "ShapeError",
    "StochasticHeun",
    "SubVPSDE",
    "TableGrid",
    "Tableau",
    "TimeError",
    "TrainingResult",
    "UNet",
    "Underdamped",
    "UniformGrid",
    "UniformTimes",
    "analysis",
    "at_levels",
    "bits_per_dim",
    "classifier_free",
    "classifier_guidance",
    "condition",
    "contrastive_divergence_loss",
    "convert",
    "denoising_loss",
    "effective_sample_size",
    "explicit_loss",
    "finite_difference_loss",
    "implicit_loss",
    "kernel_density_score",
    "langevin",
    "load",
    "optimal_grid",
    "pure_function",
    "r_hat",
    "recommended_sampler",
    "save",
    "simulate",
    "sliced_loss",
    "train",
    "tweedie_covariance",
    "tweedie_mean",
    "under",
]
