"""The samplers of score_sde (Song et al. 2021, arXiv:2011.13456), by its configurations' names."""

from __future__ import annotations

import torch
from torch import Tensor

from sdescore import checks
from sdescore.correctors.langevin import Langevin
from sdescore.correctors.none import NoCorrector
from sdescore.errors import IncompatibleError, ScheduleError
from sdescore.predictors.none import NoPredictor
from sdescore.published._source import linear_sde, std_of_unit_prior
from sdescore.published.score_sde_flow import ScoreSDEFlow
from sdescore.published.score_sde_steps import (
    PREDICTORS,
    ScoreSDELangevin,
    ScoreSDEStep,
    kind_of,
)
from sdescore.samplers.predictor_corrector.sampler import PredictorCorrector
from sdescore.sde.linear import LinearSDE
from sdescore.tableau.method import Corrector, Predictor
from sdescore.typing import Score

__all__ = ["score_sde_ode", "score_sde_pc"]

CORRECTORS = {"langevin": "batch", "ald": "expected"}


def score_sde_pc(
    source: LinearSDE | Score,
    predictor: str | None = None,
    corrector: str | None = None,
    snr: float = 0.16,
    n_steps_each: int = 1,
    probability_flow: bool = False,
    num_scales: int | None = None,
    eps: float | None = None,
    noise_removal: bool = True,
) -> PredictorCorrector:
    """The code's predictor–corrector sampler, with the settings of its CIFAR-10 configurations.

    The steps are those of :mod:`sdescore.published.score_sde_steps`.

    Parameters
    ----------
    source : ScoreModel or LinearSDE
        A model, or its SDE.
    predictor : {"reverse_diffusion", "euler_maruyama", "ancestral_sampling", "none"}, optional
        By default that of the SDE's configurations: reverse_diffusion on VE, ancestral_sampling on
        a discrete VP SDE (``vp/ddpm/cifar10``, ``vp/cifar10_ddpmpp``), else euler_maruyama.
    corrector : {"langevin", "ald", "none"}, optional
        By default langevin on VE, else none. ``"ald"`` is the code's step of NCSN.
    snr : float
        The corrector's signal-to-noise ratio, > 0.
    n_steps_each : int
        The corrector's steps at each time, >= 1.
    probability_flow : bool
        Whether the predictor steps on the probability flow.
    num_scales : int, optional
        N >= 2, the number of times; by default 1000, or the levels of a discrete SDE.
    eps : float, optional
        The last time, > 0; by default 1e-5 on VE, else 1e-3.
    noise_removal : bool
        Whether the last step adds no noise, as in the code's configurations.

    Returns
    -------
    PredictorCorrector
        On a VP or sub-VP SDE it starts from N(0, I), as the code does.

    Raises
    ------
    IncompatibleError
        An unknown name, or a part that the code does not have on this SDE.
    ParameterError, ScheduleError
        A number is out of range.

    Examples
    --------
    >>> import sdescore as ss
    >>> sampler = ss.published.score_sde_pc(ss.VESDE())
    >>> sampler.evaluations, sampler.corrector
    (2000, Langevin(snr=0.16, steps=1, norm='batch', preconditioner=None))
    >>> ss.published.score_sde_pc(ss.SubVPSDE()).predictor.predictor
    'euler_maruyama'
    """
    sde = linear_sde(source, "score_sde_pc")
    kind, levels = kind_of(sde), getattr(sde, "levels", None)
    N = levels or 1000 if num_scales is None else checks.count("num_scales", num_scales, at_least=2)
    expected = f"num_scales={levels}, the levels of the SDE"
    checks.that(levels in (None, N), expected, N, ScheduleError)
    usual = ("euler_maruyama", "none")
    if kind == "ve":
        usual = ("reverse_diffusion", "langevin")
    elif kind == "vp" and levels:
        usual = ("ancestral_sampling", "none")
    predictor = checks.choice("predictor", predictor or usual[0], (*PREDICTORS, "none"))
    corrector = checks.choice("corrector", corrector or usual[1], (*CORRECTORS, "none"))
    times = code_times(sde, N, eps)
    predicts: Predictor = NoPredictor()
    if predictor != "none":
        predicts = ScoreSDEStep(predictor, N, probability_flow, noise_removal)
    corrects: Corrector = NoCorrector()
    if corrector != "none":
        norm = CORRECTORS[corrector]
        expected = "a VE or VP SDE for the correctors of score_sde"
        checks.that(kind != "other", expected, type(sde).__name__, IncompatibleError)
        corrects = Langevin(snr, n_steps_each, norm)
        if kind == "vp":
            corrects = ScoreSDELangevin(snr, n_steps_each, norm, N)
    return PredictorCorrector(
        sde,
        predictor=predicts,
        corrector=corrects,
        corrector_first=True,
        grid=times,
        denoise=predictor != "none",
        data_std=std_of_unit_prior(sde, times[0].item()),
    )


def score_sde_ode(
    source: LinearSDE | Score,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    eps: float | None = None,
    num_scales: int = 1000,
) -> ScoreSDEFlow:
    """The code's solver of the probability flow, scipy's RK45, for samples and likelihoods.

    The code takes one step size for the whole batch, so a sample depends on its batch within the
    tolerance. Compare whole batches, without ``max_batch``.

    Parameters
    ----------
    source : ScoreModel or LinearSDE
        A model on a continuous SDE, or this SDE.
    rtol, atol : float
        The tolerances, > 0.
    eps : float, optional
        The end of the flow on the data's side, > 0. By default that of the code's samples, 1e-5 on
        VE and 1e-3 else. Its likelihoods have 1e-5 on every SDE.
    num_scales : int
        N >= 2. The last denoise is the code's reverse-diffusion step for N scales.

    Returns
    -------
    ScoreSDEFlow
        Its samples end with the mean of a reverse-diffusion step, as the code's do.

    Raises
    ------
    IncompatibleError
        The SDE is not linear, or has a table of levels.
    ParameterError, ScheduleError
        A number is out of range.

    Examples
    --------
    The likelihood of data with the Hutchinson probe of another program:

    >>> import torch, sdescore as ss
    >>> model = ss.ScoreModel(ss.MLP(2), ss.VPSDE(), prediction="epsilon", time_input="999t")
    >>> flow = ss.published.score_sde_ode(model, eps=1e-5)
    >>> x, probe = torch.zeros(3, 2), torch.ones(3, 2)
    >>> found = flow.log_likelihood(model, x, divergence="hutchinson", probes=probe[None])
    >>> found.log_prob.shape
    torch.Size([3])
    """
    sde = linear_sde(source, "score_sde_ode")
    return ScoreSDEFlow(
        sde,
        rtol=rtol,
        atol=atol,
        t_min=last_time(sde, eps),
        data_std=std_of_unit_prior(sde, sde.T),
        num_scales=num_scales,
    )


def last_time(sde: LinearSDE, eps: float | None) -> float:
    """``eps``, or the code's own for samples on this SDE."""
    eps = (1e-5 if kind_of(sde) == "ve" else 1e-3) if eps is None else eps
    return checks.number("eps", eps, above=0, below=sde.T, error=ScheduleError)


def code_times(sde: LinearSDE, num_scales: int, eps: float | None) -> Tensor:
    """The code's N times from T to ``eps``, ``(N,)`` float64.

    The code gives a network of a table the label t (N − 1), and level i of
    :class:`sdescore.DiscreteVPSDE` has the time (i + 1)/N.
    """
    end = last_time(sde, eps)
    times = torch.linspace(sde.T, end, num_scales, dtype=torch.float64, device="cpu")
    if kind_of(sde) == "vp" and hasattr(sde, "level"):
        return (times * (num_scales - 1) + 1) / num_scales
    return times
