r"""Denoising score matching, in one function.

With :math:`x_t = \alpha_t x_0 + \sigma_t \epsilon`, one sample's loss is

.. math::
   \ell = \tfrac12 \lambda(t)\, \bigl\| s_\theta(x_t, t) - \nabla \log p(x_t | x_0) \bigr\|^2
        = \tfrac12 \frac{\lambda(t)}{\sigma_t^2}\, \| \hat\epsilon - \epsilon \|^2, \qquad
   \hat\epsilon = -\sigma_t s_\theta ,

summed over the event and averaged over the batch. The classical objectives are

====================================  ============================  ==========  ==============
objective                             λ                             times       it is
====================================  ============================  ==========  ==============
Vincent 2011, one level               1                             ``t=``      1 × ours
NCSN, Song & Ermon 2019, eqs. 5–6     σ²                            levels      1 × ours
DDPM simple, Ho et al. 2020, eq. 14   σ²                            levels      2 × ours
Song et al. 2021, eq. 7               any                           uniform     2 × ours
likelihood, arXiv:2101.09258, thm 1   g²                            uniform     (T−t_min) × ours
====================================  ============================  ==========  ==============

(DDPM's sum over its N levels, :math:`\sum_i (1-\bar\alpha_i) E\|s - \nabla\log p\|^2`, is 2N ×
ours.) A constant factor leaves the optimum and Adam's steps unchanged.

**Precision.** A network that estimates :math:`y = p x_0 + q \epsilon` has
:math:`\hat\epsilon - \epsilon = w\,(y - p x_0 - q \epsilon)` with the ``w`` of
:func:`sdescore.score.convention.conversion`: the target is formed from the x₀ and ε that are
known, never from :math:`x_t`, so nothing cancels as σ → 0. Everything outside the network
is computed in at least float32, coefficients in float64.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from sdescore.checks import require_same_shape, require_state
from sdescore.errors import IncompatibleError, ScheduleError, ShapeError, TimeError
from sdescore.losses.given import check_generator, draw_normal, per_sample_time
from sdescore.losses.importance import importance_weighted
from sdescore.losses.loss import Loss
from sdescore.losses.times import TimeDistribution, default_times
from sdescore.losses.weighting import Weighting, named_weighting
from sdescore.score.convention import Pair, conversion, pair
from sdescore.score.interface import sde_of
from sdescore.score.model import ScoreModel
from sdescore.sde.base import as_time
from sdescore.sde.linear import LinearSDE
from sdescore.shapes import align, sum_event
from sdescore.typing import Score, Time

__all__ = ["denoising_loss"]


def denoising_loss(
    model: ScoreModel | Score,
    x0: Tensor,
    *,
    weighting: str | Weighting = "sigma2",
    times: TimeDistribution | None = None,
    label: Tensor | None = None,
    generator: torch.Generator | None = None,
    t: Time | None = None,
    noise: Tensor | None = None,
    sde: LinearSDE | None = None,
) -> Loss:
    r"""``½ λ(t) ‖s_θ(x_t, t) − ∇log p(x_t|x_0)‖²`` for a batch of clean data.

    Vincent 2011; Song & Ermon 2019, arXiv:1907.05600, eqs. 5–6; Song et al. 2021,
    arXiv:2011.13456, eq. 7; Ho et al. 2020, arXiv:2006.11239, eq. 14 (twice this). The module's
    docstring has the table of constants.

    Parameters
    ----------
    model : ScoreModel or callable
        Or any score ``score(x, t)``, called ``score(x, t, label)`` where a label is given.
    x0 : Tensor
        Clean data ``(B, *E)``, B >= 1.
    weighting : str or callable
        ``"sigma2"``, ``"likelihood"`` (g²), :class:`sdescore.losses.MinSNR`,
        :class:`sdescore.losses.EDMWeighting`, or a function ``(sde, t) -> λ`` of float64 times
        ``(B,)``.
    times : TimeDistribution, optional
        :class:`sdescore.losses.UniformTimes`, :class:`sdescore.losses.LevelTimes`, … or your own;
        by default the levels of a discrete SDE, else uniform on [t_min, T]. λ is multiplied by the
        weight of a law that has one (:class:`sdescore.losses.ImportanceTimes`).
    label : Tensor, optional
        ``(B,)`` int64, handed to the network.
    generator : torch.Generator, optional
        Draws the times, then the noise; the global generator by default.
    t : float or Tensor, optional
        The times themselves, ``()`` or ``(B,)``, in place of ``times``; σ_t > 0. They carry no
        importance weight.
    noise : Tensor, optional
        ε itself, like ``x0``.
    sde : LinearSDE, optional
        For a score that has no ``.sde`` of its own.

    Returns
    -------
    Loss
        ``(per_sample, mean)``.

    Raises
    ------
    ShapeError
        ``x0`` is not ``(B, *E)`` in floating point with B >= 1; ``noise``, ``t``, ``label``, λ or
        the score's output does not fit it.
    TimeError
        A time lies outside [0, T], or σ_t = 0 there.
    ScheduleError
        λ is negative or not finite.
    IncompatibleError
        No SDE, two different ones, both ``t`` and ``times``, an unknown weighting, a label for a
        score that takes none, or a ``generator`` that is none.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> model = ss.ScoreModel(ss.MLP(2), ss.VPSDE())  # starts from ε̂ = 0, so the loss is ½‖ε‖²
    >>> x0 = torch.zeros(4, 2)
    >>> loss = ss.denoising_loss(model, x0, noise=torch.ones(4, 2))
    >>> loss.mean.item()
    1.0

    One level of Vincent's loss is ``denoising_loss(score, x0, t=0.3, weighting=lambda sde, t:
    torch.ones_like(t))``.
    """
    require_state(x0, "x0")
    if x0.shape[0] == 0:
        raise ShapeError(
            f"expected at least one sample, got x0 of shape {tuple(x0.shape)}; the mean of no "
            "losses is undefined"
        )
    check_generator(generator)
    sde = model_sde(model, sde)
    weigh = named_weighting(weighting) if times is None else importance_weighted(weighting, times)
    if noise is not None:
        require_same_shape(noise, x0, "noise", "x0")
    if label is not None:
        check_label(model, label, x0)
    t64 = _times(sde, x0, times, t, generator)
    alpha_t, sigma_t = sde.marginal(t64)
    weight = _weight(weigh, sde, t64, sigma_t)

    working = torch.promote_types(x0.dtype, torch.float32)
    clean = x0.to(working)
    noise = noise.to(clean) if noise is not None else draw_normal(clean.shape, clean, generator)
    x_t = sde.perturb(clean, t64, noise)

    y, (p, q) = _output(model, x_t, t64, alpha_t, sigma_t, label)
    w = conversion(alpha_t, sigma_t, (p, q), pair("epsilon", alpha_t, sigma_t))[1]
    target = align(p.to(clean), clean) * clean + align(q.to(clean), clean) * noise
    error = align(w.to(clean), clean) * (y.to(working) - target)
    per_sample = 0.5 * weight.to(clean) * sum_event(error.square())
    return Loss(per_sample, per_sample.mean())


def model_sde(model: object, sde: LinearSDE | None = None) -> LinearSDE:
    """The model's own SDE, or the one given for a score that has none.

    Raises
    ------
    IncompatibleError
        There is none, or there are two that differ.
    """
    own = sde_of(model)
    if own is not None and sde is not None and own != sde:
        raise IncompatibleError(
            f"expected the model's own SDE, {own!r}, got sde={sde!r}; leave sde= out"
        )
    found: LinearSDE | None = own if own is not None else sde
    if found is None or not callable(getattr(found, "marginal", None)):
        raise IncompatibleError(
            f"expected a linear SDE for {type(model).__name__}, got {found!r}; pass sde="
        )
    return found


def require_label(label: Tensor, x0: Tensor) -> None:
    """Refuse anything but one int64 class index per sample.

    Raises
    ------
    ShapeError
        Another type, dtype or shape.
    """
    if not isinstance(label, Tensor) or label.dtype != torch.int64 or label.shape != x0.shape[:1]:
        got = (
            f"{label.dtype} of shape {tuple(label.shape)}"
            if isinstance(label, Tensor)
            else type(label).__name__
        )
        raise ShapeError(
            f"expected one label per sample, int64 of shape ({x0.shape[0]},), got {got}; "
            "convert it with label.long()"
        )


def check_label(score: object, label: Tensor, x0: Tensor) -> None:
    """Refuse labels that are none, or that the score does not take.

    Raises
    ------
    ShapeError
        As :func:`require_label`.
    IncompatibleError
        The score is not called as ``score(x, t, label)``, or a model's network as
        ``net(x, c, label)``.
    """
    require_label(label, x0)
    for part in (score, score.net) if isinstance(score, ScoreModel) else (score,):
        require_takes_label(part.forward if isinstance(part, nn.Module) else part, part)


def require_takes_label(function: Any, owner: object) -> None:
    """Refuse a function that cannot be called with a state, a time and a label.

    Raises
    ------
    IncompatibleError
        Its signature says so; one that cannot be read, a builtin's, says nothing.
    """
    try:
        inspect.signature(function).bind("x", "t", "label")
    except TypeError:
        raise IncompatibleError(
            f"expected a score of (x, t, label) for labelled data, got {type(owner).__name__}, "
            "which takes no label; leave label= out"
        ) from None
    except ValueError:
        pass


def _times(
    sde: LinearSDE,
    x0: Tensor,
    times: TimeDistribution | None,
    t: Time | None,
    generator: torch.Generator | None,
) -> Tensor:
    """``(B,)`` float64 times on the device of ``x0``."""
    if t is None:
        times = default_times(sde) if times is None else times
        t = times.sample(sde, len(x0), generator, x0.device)
    elif times is not None:
        raise IncompatibleError("expected t= or times=, got both; leave one of them out")
    return per_sample_time(x0, t, sde.T)


def _weight(weigh: Weighting, sde: LinearSDE, t: Tensor, sigma_t: Tensor) -> Tensor:
    """``λ/σ²``, ``(B,)`` float64."""
    if not bool((sigma_t > 0).all()):
        raise TimeError(
            f"expected times with σ_t > 0, got t = {t[sigma_t <= 0][0].item():g} where the datum "
            f"carries no noise and its score is undefined; start at t_min = {sde.t_min:g}"
        )
    weight = weigh(sde, t)
    if not isinstance(weight, Tensor) or weight.shape != t.shape:
        got = tuple(weight.shape) if isinstance(weight, Tensor) else type(weight).__name__
        raise ShapeError(
            f"expected the weighting to return a tensor of shape {tuple(t.shape)}, one λ per "
            f"time, got {got}"
        )
    if not bool(((weight >= 0) & weight.isfinite()).all()):
        raise ScheduleError(
            f"expected 0 <= λ(t) < ∞, got values in [{weight.min().item():g}, "
            f"{weight.max().item():g}]"
        )
    return weight.to(torch.float64) / sigma_t.square()


def _output(
    model: Any,
    x_t: Tensor,
    t: Tensor,
    alpha_t: Tensor,
    sigma_t: Tensor,
    label: Tensor | None,
) -> tuple[Tensor, Pair]:
    """The model's own output ``y = p x₀ + q ε``, and ``(p, q)``."""
    if isinstance(model, ScoreModel) and model.convention is not None:
        weights = next(model.parameters(), None)
        if weights is not None and weights.device != x_t.device:
            raise ShapeError(
                f"expected x0 on the network's device {weights.device}, got {x_t.device}; move it "
                "with x0.to(model.device)"
            )
        y, numbers = model.output(x_t, t, label)
        return y, numbers.pair
    time = as_time(t, x_t)
    score = model(x_t, time) if label is None else model(x_t, time, label)
    require_same_shape(score, x_t, "the score", "x0")
    return score, pair("score", alpha_t, sigma_t)
