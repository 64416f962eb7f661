r"""Sliced score matching by finite differences: no derivative of a derivative.

Along a direction v with :math:`E vv^\top = I`, an energy f = log p gives
:math:`J_{SSM}` from its values alone (Pang et al. 2020, arXiv:2007.03317, section 4),

.. math::
   v^\top \nabla^2 f\, v &= \frac{f(x + \epsilon v) - 2 f(x) + f(x - \epsilon v)}{\epsilon^2}
   + O(\epsilon^2), \\
   \tfrac12 (v^\top \nabla f)^2 &= \tfrac12
   \Bigl( \frac{f(x + \epsilon v) - f(x - \epsilon v)}{2 \epsilon} \Bigr)^2 + O(\epsilon^2),

and a score s that is not a gradient gives it from two of its values,
:math:`s_\pm = s(x \pm \epsilon v)`,

.. math::
   v^\top \nabla s\, v = \frac{v^\top (s_+ - s_-)}{2 \epsilon} + O(\epsilon^2), \qquad
   \tfrac12 (v^\top s)^2 = \tfrac12 \Bigl( v^\top \frac{s_+ + s_-}{2} \Bigr)^2 + O(\epsilon^2) .

The paper's direction has length ε; here :math:`\|v\| \approx \sqrt d` and the step is
:math:`\epsilon v`, so ε is what one element moves by.

**The step.** Rounding (u = 6e-8, float32) costs :math:`u |f| / \epsilon^2` for an energy,
:math:`u \|s\| / \epsilon` for a score; truncation costs :math:`\epsilon^2`. The best ε is about
:math:`u^{1/4}` or :math:`u^{1/3}` of the length over which the density changes. The defaults, 0.03
and 0.005, are near the measured minima of the error of the parameters' gradient in float32, for
data of unit scale (docs/howto/objectives.md); multiply them by the scale of your data. A constant
added to f adds to its rounding, unless f is returned in float64.

**At noise levels** the defaults are multiplied by :math:`\sigma_t`, below which :math:`p_t` has no
detail. In units of :math:`1/\sigma_t^2` truncation and the rounding of f are the same at every
level. Only the rounding of x grows at small levels: for an energy :math:`10^3 u \|x\|/\sigma_t`,
1 % at :math:`\|x\| = 150\,\sigma_t`; for a score :math:`200 u \|x\|/\sigma_t`, 1 % at
:math:`800\,\sigma_t`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import IncompatibleError, ShapeError
from sdescore.losses.loss import Loss
from sdescore.losses.matching import ScoreAt, check_probes, draw_probes, matching
from sdescore.losses.weighting import Weighting, per_sample_number
from sdescore.score.interface import DROPOUTS
from sdescore.sde.linear import LinearSDE
from sdescore.shapes import align, sum_event
from sdescore.typing import Condition, Time

__all__ = ["finite_difference_loss"]

ENERGY_STEP, SCORE_STEP = 0.03, 0.005


def finite_difference_loss(
    model: Callable[..., Tensor],
    x0: Tensor,
    *,
    t: Time | None = None,
    weighting: str | Weighting = "sigma2",
    weight: float | Tensor | None = None,
    label: Condition | None = None,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
    sde: LinearSDE | None = None,
    probes: int | Tensor = 1,
    probe_distribution: str = "sphere",
    epsilon: float | Tensor | None = None,
    reduced_variance: bool = False,
) -> Loss:
    r"""``vᵀ∇s v + ½ (vᵀs)²`` by differences of step ε: sliced score matching to O(ε²).

    If the score knows its log density (see :mod:`sdescore.score.interface`), the loss calls this
    density 2K + 1 times in its place. It calls any other score 2K times.

    Parameters
    ----------
    model, x0, t, weighting, weight, label, noise, generator, sde
        As in :func:`sdescore.losses.implicit_loss`; the states are in float32 or float64.
    probes : int or Tensor
        K >= 1 directions per sample; or the directions themselves, ``(K, B, *E)``.
    probe_distribution : {"sphere", "rademacher", "gaussian"}
        The paper's is the sphere, here of radius √d.
    epsilon : float or Tensor, optional
        ε > 0, in units of ``x0``, ``()`` or ``(B,)``; by default 0.03 for a log density, 0.005 for
        a score, times σ_t where ``t`` is passed.
    reduced_variance : bool
        ``½ ‖(s₊ + s₋)/2‖²`` for ``½ (vᵀ(s₊ + s₋)/2)²``, as in :func:`sdescore.losses.sliced_loss`.
        Not for an energy: its values do not give the norm of its gradient.

    Raises
    ------
    IncompatibleError
        An unknown option, reduced variance asked of an energy, a network with active dropout, or
        autocast in half precision.
    ShapeError, TimeError, ParameterError
        A bad argument, or a score or density of the wrong shape.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> energy = ss.EnergyModel(lambda x: -0.5 * x.square().sum(1))
    >>> x, v = torch.ones(4, 2).double(), torch.tensor([1.0, 0.0]).expand(1, 4, 2)
    >>> round(ss.losses.finite_difference_loss(energy, x, probes=v).mean.item(), 6)  # −1 + ½·1
    -0.5
    """
    score, x, factor = matching(model, x0, t, weighting, weight, label, noise, generator, sde)
    check_probes(probes, probe_distribution, x)
    energy = score.has_log_density
    if epsilon is None:
        epsilon = ENERGY_STEP if energy else SCORE_STEP
        epsilon = epsilon if score.sigma is None else epsilon * score.sigma
    step = per_sample_number("epsilon", epsilon, x, positive=True).to(x)
    check_differentiable(score, x)
    if checks.flag("reduced_variance", reduced_variance) and energy:
        expected = "reduced_variance=False for a score with a log density"
        checks.refuse(expected, f"True for {type(model).__name__}", IncompatibleError)
    value: Callable[[Tensor], Tensor] = score.log_density if energy else score
    centre = value(x) if energy else None
    terms = []
    for v in draw_probes(probes, probe_distribution, x, generator):
        move = align(step, v) * v
        plus, minus = (value(x + h) for h in (move, -move))
        if centre is not None:  # in the precision of the log density
            curvature = ((plus - centre) + (minus - centre)) / step**2
            terms.append(curvature + 0.5 * ((plus - minus) / (2 * step)).square())
        else:
            plus, minus = plus.to(v), minus.to(v)
            mean = (plus + minus) / 2
            square = sum_event(mean.square()) if reduced_variance else sum_event(v * mean).square()
            terms.append(sum_event(v * (plus - minus)) / (2 * step) + 0.5 * square)
    return Loss.of(torch.stack(terms).mean(0).to(x.dtype)).weighted(factor)


def check_differentiable(score: ScoreAt, x: Tensor) -> None:
    """Refuse what two values at neighbouring points do not share: rounding and dropout."""
    if torch.finfo(x.dtype).eps > torch.finfo(torch.float32).eps:
        raise ShapeError(f"expected x in float32 or float64 for differences, got {x.dtype}")
    if torch.is_autocast_enabled(x.device.type):
        half = torch.get_autocast_dtype(x.device.type)
        expected = "differences in float32 or float64, for epsilon divides the rounding"
        got = f"autocast to {half}; call the loss under torch.autocast(..., enabled=False)"
        checks.refuse(expected, got, IncompatibleError)
    for module in score.modules():
        if isinstance(module, DROPOUTS) and module.training and module.p > 0:
            raise IncompatibleError(
                f"expected a network without active dropout, got {module}, whose noise a "
                "difference divides by epsilon; call eval(), or build it with p=0"
            )
