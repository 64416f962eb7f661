r"""Denoising score matching, in one function.

With :math:`x_t = \alpha_t x_0 + \sigma_t \epsilon`, one sample's loss is

.. math::
   \ell = \tfrac12 w(t)\, \bigl\| s_\theta(x_t, t) - \nabla \log p(x_t | x_0) \bigr\|^2
        = \tfrac12 \frac{w(t)}{\sigma_t^2}\, \| \hat\epsilon - \epsilon \|^2, \qquad
   \hat\epsilon = -\sigma_t s_\theta ,

summed over the event and averaged over the batch. The classical objectives are

====================================  ============================  ==========  ==============
objective                             w                             times       it is
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
:math:`\hat\epsilon - \epsilon = c\,(y - p x_0 - q \epsilon)` with
:math:`c = \alpha/(\alpha q - \sigma p)`: the target is formed from the x₀ and ε that are
known, never from :math:`x_t`, so nothing cancels as σ → 0. Everything outside the network is
computed in at least float32, coefficients in float64. The network runs under the caller's
``torch.autocast``; nothing else here is of a kind that autocast changes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sdescore import checks
from sdescore.errors import IncompatibleError, ShapeError, TimeError
from sdescore.losses.loss import Loss
from sdescore.losses.times import TimeDistribution, default_times
from sdescore.losses.weighting import Weighting, named_weighting, one_per_time, per_sample_number
from sdescore.score.convention import pair
from sdescore.score.interface import knows_density, require_label, sde_of
from sdescore.score.model import ScoreModel
from sdescore.sde.linear import LinearSDE
from sdescore.shapes import align
from sdescore.typing import Score, Time

__all__ = ["denoising_loss"]


def denoising_loss(
    model: ScoreModel | Score,
    x0: Tensor,
    *,
    t: Time | None = None,
    times: TimeDistribution | None = None,
    weighting: str | Weighting = "sigma2",
    weight: float | Tensor | None = None,
    label: Tensor | None = None,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
    sde: LinearSDE | None = None,
) -> Loss:
    r"""``½ w(t) ‖s_θ(x_t, t) − ∇log p(x_t|x_0)‖²`` for a batch of clean data.

    Vincent 2011; Song & Ermon 2019, arXiv:1907.05600, eqs. 5–6; Song et al. 2021,
    arXiv:2011.13456, eq. 7; Ho et al. 2020, arXiv:2006.11239, eq. 14 (twice this). The module's
    docstring has the table of constants.

    Parameters
    ----------
    model : ScoreModel or callable
        Or any score ``score(x, t)``, called ``score(x, t, label)`` where a label is passed.
    x0 : Tensor
        Clean data ``(B, *E)``, B >= 1, finite.
    t : float or Tensor, optional
        The times themselves, ``()`` or ``(B,)``, in place of ``times``; σ_t > 0. They carry no
        importance weight.
    times : TimeDistribution, optional
        :class:`sdescore.losses.UniformTimes`, :class:`sdescore.losses.LevelTimes`, … or your own;
        by default the levels of a discrete SDE, else uniform on [t_min, T]. w is multiplied by the
        weight of a proposal (:class:`sdescore.losses.ImportanceTimes`).
    weighting : str or callable
        ``"sigma2"``, ``"likelihood"`` (g²), :class:`sdescore.losses.MinSNR`,
        :class:`sdescore.losses.EDMWeighting`, or a function ``(sde, t) -> w`` of float64 times
        ``(B,)``.
    weight : float or Tensor, optional
        ``()`` or ``(B,)``, >= 0: a further factor of each sample's loss.
    label : Tensor, optional
        ``(B,)`` int64, handed to the network.
    noise : Tensor, optional
        ε itself, like ``x0``.
    generator : torch.Generator, optional
        Draws the times, then the noise; the global generator by default.
    sde : LinearSDE, optional
        For a score that has no ``.sde`` of its own.

    Returns
    -------
    Loss
        ``(per_sample, mean)``.

    Raises
    ------
    ShapeError
        ``x0`` is not ``(B, *E)`` in floating point with B >= 1; ``noise``, ``t``, ``label``, w,
        ``weight`` or the score's output does not fit it.
    TimeError
        A time lies outside [0, T], or σ_t = 0 there.
    ParameterError
        NaN or infinity in ``x0`` or ``noise``; w or ``weight`` is negative or not finite.
    IncompatibleError
        No SDE, two different ones, both ``t`` and ``times``, an unknown weighting, a label for a
        score that takes none, or something of another kind than its parameter.

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
    noised = add_noise(model, x0, t, times, weighting, weight, label, noise, generator, sde)
    x, x0, noise = noised.x, noised.x0, noised.noise
    if isinstance(model, ScoreModel) and model.convention is not None:
        numbers = model.convention.at(noised.t, marginal=(noised.alpha, noised.sigma))
        y, (p, q) = model.output_at(x, numbers, label), numbers.pair
    else:
        inputs = (x, score_time(model, noised.t, x), *(() if label is None else (label,)))
        y = checks.score_output(model(*inputs), x)
        p, q = pair("score", noised.alpha, noised.sigma)
    # ε̂ − ε = c (y − p x₀ − q ε): the conversion of an error of y, in which x_t has no part.
    c = noised.alpha / (noised.alpha * q - noised.sigma * p)
    column = (-1, *(1,) * (x.ndim - 1))
    p, q, c = (number.to(x).reshape(column) for number in (p, q, c))
    error = c * (y.to(x) - (p * x0 + q * noise))
    # There is at least one sample, so −1 is the size of the event, even of an empty one.
    per_sample = 0.5 * noised.weight.to(x) * error.square().reshape(len(x), -1).sum(-1)
    return Loss(per_sample, per_sample.mean())


class Noised(NamedTuple):
    """Data at noise levels: ``x = α x₀ + σ ε`` in at least float32, the numbers ``(B,)`` float64.

    ``weight`` is that of the squared error of ε: w/σ², times the sample's own.
    """

    sde: LinearSDE
    t: Tensor
    x: Tensor
    x0: Tensor
    noise: Tensor
    alpha: Tensor
    sigma: Tensor
    weight: Tensor


def add_noise(
    model: object,
    x0: Tensor,
    t: Time | None,
    times: TimeDistribution | None,
    weighting: str | Weighting,
    weight: float | Tensor | None,
    label: Tensor | None,
    noise: Tensor | None,
    generator: torch.Generator | None,
    sde: LinearSDE | None,
) -> Noised:
    """The noised data of an objective; refuses what :func:`denoising_loss` refuses."""
    check_data(model, x0)
    samples = len(x0)
    if generator is not None:
        checks.generator(generator)
    if sde is None and isinstance(model, ScoreModel) and model.convention is not None:
        sde = model.convention.sde  # which was checked when the model was made
    else:
        sde = model_sde(model, sde)
    if label is not None:
        checks.label(label, samples)
        require_label(model, label)
    importance = None
    if t is None:
        times = default_times(sde) if times is None else times
        kind: Any = TimeDistribution
        if not isinstance(times, kind):
            checks.instance("times", times, kind, "UniformTimes()")
        t = times.sample(sde, samples, generator, x0.device)
        importance = times.importance_weight(sde, t)
    elif times is not None:
        checks.refuse("t= or times=", "both; leave one of them out", IncompatibleError)
    t64 = checks.time(t, sde.T).to(x0.device)
    if t64.shape != (samples,):
        t64 = align(t64, x0).flatten().expand(samples)
    t64 = t64.clone()  # what the caller holds stays the caller's
    alpha, sigma = sde.marginal(t64)
    if not bool((sigma > 0).all()):
        raise TimeError(
            f"expected times with σ_t > 0, got t = {t64[sigma <= 0][0].item():g} where the datum "
            f"carries no noise and its score is undefined; start at t_min = {sde.t_min:g}"
        )
    factor = torch.ones_like(t64)
    if not (isinstance(weighting, str) and weighting == "sigma2"):  # whose w/σ² is 1, exactly
        w = named_weighting(weighting)(sde, t64)
        factor = one_per_time("weight w", w, t64) / sigma.square()
    if importance is not None:
        factor = factor * one_per_time("importance weight", importance, t64)
    if weight is not None:
        factor = factor * per_sample_number("weight", weight, x0)
    clean = x0.to(torch.promote_types(x0.dtype, torch.float32))
    if noise is None:
        # Made where the generator lives, so that a seed means the same noise on every device.
        device = clean.device if generator is None else generator.device
        noise = torch.randn(clean.shape, generator=generator, device=device, dtype=clean.dtype)
    else:
        checks.same_shape(noise, x0, "noise", "x0")
        if not bool(noise.isfinite().all()):
            checks.refuse("finite noise", "NaN or infinity; remove those samples")
    noise = noise.to(clean)
    column = (samples, *(1,) * (x0.ndim - 1))
    x = alpha.to(clean).reshape(column) * clean + sigma.to(clean).reshape(column) * noise
    return Noised(sde, t64, x, clean, noise, alpha, sigma, factor)


def check_data(model: object, x0: Tensor) -> None:
    """Refuse data that the model cannot be trained on.

    Raises
    ------
    ShapeError
        ``x0`` is not ``(B, *E)`` in floating point with B >= 1 on the network's device.
    ParameterError
        NaN or infinity in ``x0``.
    IncompatibleError
        ``model`` can neither be called nor knows its density.
    """
    if isinstance(model, type) or not (callable(model) or knows_density(model)):
        checks.function("the model", model)
    checks.state(x0, "x0")
    if len(x0) == 0:
        raise ShapeError(
            f"expected at least one sample, got x0 of shape {tuple(x0.shape)}; the mean of no "
            "losses is undefined"
        )
    if isinstance(model, nn.Module):
        home = next((p.device for p in model.parameters()), x0.device)
        if home != x0.device:
            raise ShapeError(
                f"expected x0 on the network's device {home}, got {x0.device}; move it with "
                "x0.to(device)"
            )
    if not bool(x0.isfinite().all()):  # one such sample would spoil the mean and every weight
        checks.refuse("finite x0", "NaN or infinity; remove those samples")


def model_sde(model: object, sde: LinearSDE | None = None) -> LinearSDE:
    """The model's own SDE, or ``sde`` for a score that has none.

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
    return checks.linear(sde if own is None else own, type(model).__name__, "pass sde=")


def score_time(model: object, t: Tensor, x: Tensor) -> Tensor:
    """The times as a score takes them: with an SDE in full precision, else in ``x``'s dtype."""
    return t if sde_of(model) is not None else t.to(x.dtype)
