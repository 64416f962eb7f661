r"""The sampler that a scheduler of ``diffusers`` stands for.

A scheduler is three things in one: a table of β, a rule that places the steps, and a method. The
table is the SDE (:mod:`sdescore.interop.diffusers`), the places are a grid, and the method is a
predictor. Schedulers of k-diffusion's kind (Euler, Heun, DPM2) hold :math:`x_t/\alpha_t` and
:math:`\sigma_t/\alpha_t`; the methods here give the same states in both variables.

The places come from the scheduler's own ``set_timesteps``, with its spacing and offset, and its
Karras, exponential or beta sigmas. A last σ of 0 is Tweedie's mean of the last state. The
schedulers of flow matching hold σ itself, which is the time of :class:`sdescore.RectifiedFlowSDE`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from sdescore import checks
from sdescore.correctors.langevin import Langevin
from sdescore.errors import IncompatibleError
from sdescore.grids.spaced import KarrasGrid, LogSNRGrid
from sdescore.interop.diffusers import EDM, FLOW, convention_of, scheduler_of
from sdescore.predictors.adams import ExponentialAdams, pad
from sdescore.predictors.ancestral import VARIANCES, Ancestral
from sdescore.predictors.ddim import DDIM
from sdescore.predictors.exponential_runge_kutta import ExponentialRungeKutta
from sdescore.predictors.reverse_diffusion import ReverseDiffusion
from sdescore.predictors.runge_kutta import Heun
from sdescore.predictors.stochastic_heun import StochasticHeun
from sdescore.samplers.predictor_corrector.sampler import PredictorCorrector
from sdescore.sde.linear import LinearSDE
from sdescore.tableau.method import Predictor
from sdescore.tableau.tableau import Tableau

__all__ = ["FirstOrderLast", "from_scheduler"]

Config = Mapping[str, Any]
FEW = 15  # below so many steps diffusers takes a last step of the first order
NEAR = 1e-2  # of a level; sigmas are float32


@dataclass(frozen=True)
class FirstOrderLast(Predictor):
    """An exponential Adams method whose last step uses the newest output alone.

    It is what ``lower_order_final`` of diffusers does below 15 steps.

    Parameters
    ----------
    method : ExponentialAdams
        The method of the other steps, without a correction.

    Raises
    ------
    IncompatibleError
        ``method`` is another predictor, or corrects its steps.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sde, times = ss.VPSDE(), torch.tensor([1.0, 0.5, 0.2, 0.1], dtype=torch.float64)
    >>> own = ss.interop.FirstOrderLast(ss.ExponentialAdams(points=2)).tableau(sde, times)
    >>> (own.b[:, 0] != 0).sum(1).tolist()  # outputs that each step uses
    [1, 2, 1]
    """

    method: ExponentialAdams = field(default_factory=ExponentialAdams)

    def __post_init__(self) -> None:
        checks.instance("method", self.method, ExponentialAdams, "ss.ExponentialAdams()")
        q = self.method.corrector_points
        checks.that(not q, "a method without a correction", f"{self.method!r}", IncompatibleError)

    @property
    def eta(self) -> float:
        return self.method.eta

    @property
    def order(self) -> int:  # type: ignore[override]
        """The method's own order, but at most 2, which one step of the first order leaves."""
        return min(self.method.order, 2)

    def tableau(self, sde: LinearSDE, times: Tensor) -> Tableau:
        table = self.method.tableau(sde, times)
        first = replace(self.method, points=1, midpoint=False).tableau(sde, times[-2:])
        last = pad(first.b[:, 0], 0, table.b.shape[-1])[:, None]
        return replace(table, b=torch.cat([table.b[:-1], last]))


def _ddpm(config: Config) -> Predictor:
    kind = str(config["variance_type"]).replace("small_log", "small")
    checks.choice("variance_type", kind, VARIANCES)
    return Ancestral(kind)


def _adams(config: Config) -> Predictor:
    """DPM-Solver, DPM-Solver++ or DEIS; ``solver_type`` says how two outputs are extrapolated."""
    kind, order = config["algorithm_type"], config["solver_order"]
    known = ("dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++", "deis")
    checks.choice("algorithm_type", kind, known)
    eta = 1.0 if kind.startswith("sde") else 0.0
    output = "x0" if kind.endswith("++") else "epsilon"
    midpoint = order == 2 and config["solver_type"] == "midpoint"
    return ExponentialAdams(eta, points=order, output=output, midpoint=midpoint)


def _unipc(config: Config) -> Predictor:
    plain = not config["disable_corrector"] and config["solver_p"] is None
    expected = "UniPC with its corrector and predictor"
    checks.that(plain, expected, "disable_corrector or solver_p", IncompatibleError)
    order, on_x0 = config["solver_order"], config["predict_x0"]
    return ExponentialAdams(
        points=order, corrector_points=order + 1, output="x0" if on_x0 else "epsilon"
    )


def _flow(config: Config) -> Predictor:
    """Euler's step x + (s − t)v on the lines of a rectified flow, which is DDIM's."""
    for option in ("use_dynamic_shifting", "stochastic_sampling"):
        checks.that(not config[option], f"{option}=False", f"{option}=True", IncompatibleError)
    return DDIM()


# The method of each class, by its config.
METHODS: dict[str, Callable[[Config], Predictor]] = {
    "CogVideoXDDIMScheduler": lambda config: DDIM(),
    "DDIMParallelScheduler": lambda config: DDIM(),
    "DDIMScheduler": lambda config: DDIM(),
    "DDPMParallelScheduler": _ddpm,
    "DDPMScheduler": _ddpm,
    "DEISMultistepScheduler": _adams,
    "DPMSolverMultistepScheduler": _adams,
    "EDMDPMSolverMultistepScheduler": _adams,
    "EDMEulerScheduler": lambda config: DDIM(),
    "EulerAncestralDiscreteScheduler": lambda config: Ancestral(),
    "EulerDiscreteScheduler": lambda config: DDIM(),
    "FlowMatchEulerDiscreteScheduler": _flow,
    "FlowMatchHeunDiscreteScheduler": lambda config: StochasticHeun(eta=0.0),  # Heun's in t
    "HeunDiscreteScheduler": lambda config: Heun(),
    "KDPM2DiscreteScheduler": lambda config: ExponentialRungeKutta(output="epsilon"),
    "UniPCMultistepScheduler": _unipc,
}
VE = "ScoreSdeVeScheduler"
OVER_ALPHA = ("Euler", "Heun", "KDPM2")  # their states are x/α


def from_scheduler(
    scheduler: object, steps: int, *, eta: float | None = None
) -> PredictorCorrector:
    """The sampler that a scheduler of ``diffusers`` is, at a number of steps.

    From the same noise it makes the same images as the scheduler, to 1e-4, where the scheduler is
    right. The page "Which sampler replaces a scheduler of diffusers?" has the agreement of each
    class.

    Parameters
    ----------
    scheduler : scheduler of diffusers, dict or path
        It is not changed. Or its configuration: a dict with ``_class_name``, the file
        ``scheduler_config.json``, or the folder of a scheduler or of a pipeline with it. Its
        clipping and thresholding belong to the model here:
        sample ``ss.guidance.clipped(model)`` where the scheduler has ``clip_sample=True``.
    steps : int
        What the pipelines call ``num_inference_steps``, >= 1.
    eta : float, optional
        For DDIM: share of the bridge's standard deviation, in [0, 1]; 0 by default, as in
        ``DDIMPipeline``.

    Returns
    -------
    PredictorCorrector
        On the SDE of :func:`sdescore.load_diffusers` with the same scheduler.

    Raises
    ------
    IncompatibleError
        The class or an option of it has no counterpart here, or ``eta`` is given for another class
        than DDIM.
    CheckpointError, FileNotFoundError
        The path leads to no configuration.
    ParameterError, ScheduleError
        ``eta`` or ``steps`` is out of range.

    Examples
    --------
    >>> import diffusers, sdescore as ss
    >>> scheduler = diffusers.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++")
    >>> sampler = ss.interop.from_scheduler(scheduler, steps=20)
    >>> sampler.predictor.eta, sampler.predictor.midpoint, sampler.evaluations
    (1.0, True, 20)
    >>> ss.interop.from_scheduler(diffusers.DDIMScheduler(), steps=4).sde.level(0.751)
    tensor(750., dtype=torch.float64)
    >>> config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
    >>> ss.interop.from_scheduler(config, steps=4).sde
    RectifiedFlowSDE(T=0.99999999)
    """
    scheduler = scheduler_of(scheduler, (*METHODS, VE))
    name = type(scheduler).__name__
    steps = checks.count("steps", steps)
    if eta is not None:
        expected = "eta= for a DDIM scheduler alone, which takes it from its pipeline"
        checks.that("DDIM" in name, expected, name, IncompatibleError)
    expected = f"a scheduler among {', '.join((*METHODS, VE))}"
    got = f"{name}; the documentation's page on diffusers says why, and what to take instead"
    checks.that(name in METHODS or name == VE, expected, got, IncompatibleError)
    sde: LinearSDE = convention_of(scheduler)["sde"]
    if name == VE:
        return _score_sde(sde, scheduler, steps)
    placed: Any = copy.deepcopy(scheduler)
    predictor = METHODS[name](placed.config) if eta is None else DDIM(eta)
    with torch.device("cpu"):
        placed.set_timesteps(steps)
    if name in EDM:
        times, denoise = _edm_times(sde, placed.config, steps)
    elif name in FLOW:
        sigmas = torch.unique_consecutive(placed.sigmas.double().cpu())
        times, denoise = sigmas[:-1].clamp(max=sde.T), True  # the last σ is 0
    elif hasattr(placed, "sigmas"):
        times, denoise = _at_sigmas(sde, placed)
    else:
        times, denoise = _at_levels(sde, placed)
    config = placed.config
    lower = config.get("euler_at_final") or (config.get("lower_order_final") and steps < FEW)
    if lower and not denoise and isinstance(predictor, ExponentialAdams):
        predictor = FirstOrderLast(predictor)
    alpha_t, sigma_t = (value.item() for value in sde.marginal(times[0]))
    start = float(getattr(placed, "init_noise_sigma", sigma_t)) * (
        alpha_t if name.startswith(OVER_ALPHA) else 1.0
    )
    # The start is N(0, σ²) or, with the data's variance taken for 1, N(0, σ² + α²).
    wide = start**2 > sigma_t**2 + 0.5 * alpha_t**2
    return PredictorCorrector(
        sde, predictor, grid=times, denoise=denoise, data_std=1.0 if wide else 0.0
    )


def _score_sde(sde: LinearSDE, scheduler: Any, steps: int) -> PredictorCorrector:
    """Song et al. 2021's predictor–corrector sampler, on a geometric ladder of σ."""
    snr, inner = scheduler.config["snr"], scheduler.config["correct_steps"]
    return PredictorCorrector(
        sde,
        ReverseDiffusion(),
        Langevin(snr=snr, steps=inner, norm="batch"),
        grid=torch.linspace(sde.T, 0.0, steps, dtype=torch.float64, device="cpu"),
        corrector_first=True,
    )


def _edm_times(sde: LinearSDE, config: Config, steps: int) -> tuple[Tensor, bool]:
    """The times of EDM's grid, and whether the last σ is 0; theirs is in the default dtype."""
    karras = config["sigma_schedule"] == "karras"
    grid = KarrasGrid(config["rho"]) if karras else LogSNRGrid()
    return grid.times(sde, steps), config["final_sigmas_type"] == "zero"


def _at_sigmas(sde: LinearSDE, scheduler: Any) -> tuple[Tensor, bool]:
    """The times at a scheduler's σ/α, and whether the last of these is 0."""
    ratios = torch.unique_consecutive(scheduler.sigmas.double().cpu())
    denoise = ratios[-1].item() == 0
    ends = torch.tensor([sde.T, sde.t_min], dtype=torch.float64, device="cpu")
    low, high = sde.log_snr(ends).tolist()
    if low == -torch.inf:  # diffusers puts σ/α = 4096 in place of the table's infinity
        ratios[ratios > 4095] = torch.inf
    log_snr = -2 * (ratios[:-1] if denoise else ratios).log()
    times = sde.time_at_log_snr(log_snr.clamp(low, high))
    levels = getattr(sde, "levels", 0)
    if levels:  # σ is rounded to float32: take the level that is meant
        nearest = (times * levels).round()
        times = torch.where((times * levels - nearest).abs() < NEAR, nearest / levels, times)
    return times, denoise


def _at_levels(sde: LinearSDE, scheduler: Any) -> tuple[Tensor, bool]:
    """The times of a scheduler's levels, and whether it ends at α = 1."""
    levels = scheduler.timesteps.double().cpu()
    ends_at_one = scheduler.config.get("set_alpha_to_one", True)
    if not ends_at_one and levels[-1] > 0:
        levels = torch.cat([levels, levels.new_zeros(1)])
    return (levels + 1) / sde.levels, bool(ends_at_one)  # type: ignore[attr-defined]
