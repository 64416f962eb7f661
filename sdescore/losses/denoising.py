r"""Denoising score matching: the loss and the noised data.

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
ours.) A constant factor changes neither the optimum nor Adam's steps.

**Precision.** A network that estimates :math:`y = p x_0 + q \epsilon` has
:math:`\hat\epsilon - \epsilon = c\,(y - p x_0 - q \epsilon)` with
:math:`c = \alpha/(\alpha q - \sigma p)`: the target is formed from the x₀ and ε that are
known, never from :math:`x_t`, so nothing cancels as σ → 0. Everything outside the network is
computed in at least float32, coefficients in float64.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sdescore import checks
from sdescore.conditions import require_labels
from sdescore.errors import IncompatibleError, ShapeError, TimeError
from sdescore.losses.loss import Loss
from sdescore.losses.times import TimeDistribution, default_times
from sdescore.losses.weighting import Weighting, named_weighting, one_per_time, per_sample_number
from sdescore.score.convention import pair
from sdescore.score.interface import knows_density, require_label, states_of
from sdescore.score.model import ScoreModel
from sdescore.sde.linear import LinearSDE
from sdescore.shapes import align
from sdescore.typing import Condition, Score, Time
from sdescore.wrappers import owner_of, sde_of

__all__ = ["denoising_loss"]


def denoising_loss(
    model: ScoreModel | Score,
    x0: Tensor,
    *,
    t: Time | None = None,
    times: TimeDistribution | None = None,
    weighting: str | Weighting | None = None,
    weight: float | Tensor | None = None,
    label: Condition | None = None,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
    sde: LinearSDE | None = None,
) -> Loss:
    r"""``½ w(t) ‖s_θ(x_t, t) − ∇log p(x_t|x_0)‖²`` for a batch of clean data.

    Vincent 2011; Song & Ermon 2019, arXiv:1907.05600, eqs. 5–6; Song et al. 2021,
    arXiv:2011.13456, eq. 7; Ho et al. 2020, arXiv:2006.11239, eq. 14 (twice this).

    Parameters
    ----------
    model : ScoreModel or callable
        A model, or any ``score(x, t)``, called ``score(x, t, label)`` where a label is passed.
    x0 : Tensor
        Clean data ``(B, *E)``, B >= 1, finite; the model's ``from_data`` makes them states.
    t : float or Tensor, optional
        Fixed times ``()`` or ``(B,)`` in place of ``times``, without a proposal's weight; σ_t > 0.
    times : TimeDistribution, optional
        By default the levels of a discrete SDE, else uniform on [t_min, T]. w is multiplied by the
        weight of a proposal (:class:`sdescore.losses.ImportanceTimes`).
    weighting : str or callable, optional
        ``"sigma2"``, ``"likelihood"`` (g²), :class:`sdescore.losses.MinSNR`,
        :class:`sdescore.losses.EDMWeighting`, or ``(sde, t) -> w`` of float64 times ``(B,)``;
        ``lambda sde, t: torch.ones_like(t)`` is Vincent's. By default ``"sigma2"``. For a model
        that predicts F it is EDM's, ``½ ‖y − F‖²``, and for v where α_T = 0 ``½ ‖y − v‖²``.
    weight : float or Tensor, optional
        ``()`` or ``(B,)``, >= 0: a further factor of each sample's loss.
    label, noise : Tensor, optional
        The network's label, ``(B,)`` int64, ``(B, *C)`` or a dict; and ε, shaped like ``x0``, in
        place of a draw. ε is added to the states, which may be standardised data.
    generator : torch.Generator, optional
        Draws the times, then the noise; the global generator by default.
    sde : LinearSDE, optional
        For a score that has no ``.sde`` of its own.

    Raises
    ------
    ShapeError
        ``x0`` is not floating point, empty or not on the network's device; a part does not fit it.
    TimeError
        A time lies outside [0, T], or σ_t = 0 there.
    ParameterError
        NaN or infinity in ``x0`` or ``noise``; w or ``weight`` is negative or not finite.
    IncompatibleError
        No SDE, two SDEs, both ``t`` and ``times``, an unknown option, a label that nothing takes.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> model = ss.ScoreModel(ss.MLP(2), ss.VPSDE(), "epsilon")  # starts from ε̂ = 0: ½‖ε‖²
    >>> ss.denoising_loss(model, torch.zeros(4, 2), noise=torch.ones(4, 2)).mean.item()
    1.0
    """
    named = "sigma2" if weighting is None else weighting
    noised = add_noise(model, x0, t, times, named, weight, label, noise, generator, sde)
    x, plain = noised.x, False
    if isinstance(model, ScoreModel) and (convention := model.convention) is not None:
        kind, T = convention.prediction, convention.sde.T
        pure = kind == "v" and convention.sde.marginal(T)[0].item() == 0  # α_T = 0
        plain = weighting is None and (kind == "F" or pure)  # 1 on the network's own error
        numbers = convention.at(noised.t, marginal=(noised.alpha, noised.sigma))
        y, (p, q) = model.output_at(x, numbers, label), numbers.pair
    else:
        y = checks.score_output(model(x, *noised.arguments(model, label)), x)
        p, q = pair("score", noised.alpha, noised.sigma)
        if weighting is None and getattr(inner := owner_of(model), "prediction", None) == "F":
            ratio = noised.sigma / (inner.sigma_data * noised.alpha)
            noised = noised._replace(weight=noised.weight * (1 + ratio.square()))
    # ε̂ − ε = c (y − p x₀ − q ε): the conversion of an error of y, in which x_t has no part.
    D = noised.alpha * q - noised.sigma * p
    c = torch.ones_like(q) if plain else torch.where(p == 0, 1 / q, noised.alpha / D)  # also α = 0
    p, q, c = (number.to(x).reshape(-1, *(1,) * (x.ndim - 1)) for number in (p, q, c))
    error = c * (y.to(x) - (p * noised.x0 + q * noised.noise))
    per_sample = 0.5 * noised.weight.to(x) * error.square().reshape(len(x), -1).sum(-1)
    return Loss(per_sample, per_sample.mean())


class Noised(NamedTuple):
    """Data at noise levels, ``x = α x₀ + σ ε``, in at least float32; the numbers are float64."""

    t: Tensor
    x: Tensor
    x0: Tensor
    noise: Tensor
    alpha: Tensor
    sigma: Tensor
    weight: Tensor  # of the squared error of ε: w/σ², times the sample's own

    def arguments(self, model: object, label: Condition | None) -> tuple[Condition, ...]:
        """The time, in ``x``'s dtype for a score without an SDE, and the label if there is one."""
        time = self.t if sde_of(model) is not None else self.t.to(self.x.dtype)
        return (time,) if label is None else (time, label)


def add_noise(
    model: object,
    x0: Tensor,
    t: Time | None,
    times: TimeDistribution | None,
    weighting: str | Weighting,
    weight: float | Tensor | None,
    label: Condition | None,
    noise: Tensor | None,
    generator: torch.Generator | None,
    sde: LinearSDE | None,
) -> Noised:
    """The noised data of an objective; refuses what :func:`denoising_loss` refuses."""
    check_data(model, x0)
    if generator is not None:
        checks.generator(generator)
    if sde is None and isinstance(model, ScoreModel) and model.convention is not None:
        sde = model.convention.sde  # which was checked when the model was made
    else:
        own = sde_of(model)
        same, got = own is None or sde is None or own == sde, f"sde={sde!r}; leave sde= out"
        checks.that(same, f"the model's own SDE, {own!r}", got, IncompatibleError)
        sde = checks.linear(sde if own is None else own, type(model).__name__, "pass sde=")
    if label is not None:
        require_labels(label, len(x0))
        require_label(model, label)
    importance = None
    if t is None:
        times = default_times(sde) if times is None else times
        kind: Any = TimeDistribution
        if not isinstance(times, kind):
            checks.instance("times", times, kind, "UniformTimes()")
        t = times.sample(sde, len(x0), generator, x0.device)
        importance = times.importance_weight(sde, t)
    elif times is not None:
        checks.refuse("t= or times=", "both; leave one of them out", IncompatibleError)
    t64 = checks.time(t, sde.T).to(checks.with_float64(x0.device))
    if t64.shape != x0.shape[:1]:
        t64 = align(t64, x0).flatten().expand(len(x0))
    t64 = t64.clone()  # what the caller holds stays the caller's
    alpha, sigma = sde._marginal(t64)  # of checked times
    if not bool((sigma > 0).all()):
        got = f"t = {t64[sigma <= 0][0].item():g}, where the score of the datum is undefined"
        checks.refuse("times with σ_t > 0", f"{got}; start at t_min = {sde.t_min:g}", TimeError)
    factor = torch.ones_like(t64)
    if not (isinstance(weighting, str) and weighting == "sigma2"):  # whose w/σ² is 1, exactly
        factor = one_per_time("weight w", named_weighting(weighting)(sde, t64), t64)
        factor = factor / sigma.square()
    if importance is not None:
        factor = factor * one_per_time("importance weight", importance, t64)
    if weight is not None:
        factor = factor * per_sample_number("weight", weight, x0)
    clean = x0.to(torch.promote_types(x0.dtype, torch.float32))
    if not isinstance(model, ScoreModel):
        clean = states_of(model, clean)
    elif not model.data_scale.plain:
        clean = model.from_data(clean)
    if noise is None:
        # Made where the generator lives, so that a seed means the same noise on every device.
        device = clean.device if generator is None else generator.device
        noise = torch.randn(clean.shape, generator=generator, device=device, dtype=clean.dtype)
    else:
        checks.same_shape(noise, x0, "noise", "x0")
        checks.finite_tensor("noise", noise)
    noise = noise.to(clean)
    a, b = (number.to(clean).reshape(-1, *(1,) * (x0.ndim - 1)) for number in (alpha, sigma))
    return Noised(t64, a * clean + b * noise, clean, noise, alpha, sigma, factor)


def check_data(model: object, x0: Tensor) -> None:
    """Refuse data that the model cannot be trained on."""
    if isinstance(model, type) or not (callable(model) or knows_density(model)):
        checks.function("the model", model)
    checks.state(x0, "x0")
    if len(x0) == 0:
        got = f"x0 of shape {tuple(x0.shape)}; the mean of no losses is undefined"
        checks.refuse("at least one sample", got, ShapeError)
    if isinstance(model, nn.Module):
        home = next((p.device for p in model.parameters()), x0.device)
        if home != x0.device:
            got = f"{x0.device}; move it with x0.to(device)"
            checks.refuse(f"x0 on the network's device {home}", got, ShapeError)
    if not (abs(x0.sum().item()) < torch.inf or bool(x0.isfinite().all())):  # of huge ones also
        checks.refuse("finite x0", "NaN or infinity; remove those samples")
