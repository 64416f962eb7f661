r"""Any score-matching objective at the noise levels of an SDE.

Plain objectives match the score of the law their ``x`` has. Given :math:`x_t = \alpha_t x_0 +
\sigma_t \epsilon` they match that of :math:`p_t`, so

.. math:: L(\theta) = E_{t}\; \lambda(t)\, J\bigl(s_\theta(\cdot, t);\, p_t\bigr)

with J explicit, implicit, sliced or finite-difference score matching has the same minimum as
:func:`sdescore.denoising_loss` with that λ, which knows the score of :math:`x_t | x_0` and so
needs no derivative.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from sdescore.checks import require_state
from sdescore.errors import IncompatibleError
from sdescore.losses.denoising import check_label, model_sde, require_takes_label
from sdescore.losses.finite_difference import default_step
from sdescore.losses.given import draw_normal, per_sample_time
from sdescore.losses.importance import importance_weighted
from sdescore.losses.loss import Loss
from sdescore.losses.times import TimeDistribution
from sdescore.losses.weighting import Weighting, named_weighting
from sdescore.score.interface import knows_density, log_density_of
from sdescore.score.model import ScoreModel

__all__ = ["Objective", "at_levels"]

Objective: TypeAlias = Callable[..., Loss]
"""``objective(model, x0, t=…, generator=…, label=…) -> Loss``, for :func:`sdescore.train`."""

RESERVED = ("score", "x", "t", "weight", "generator")


@dataclass(frozen=True, repr=False)
class AtLevels:
    """An objective lifted to noise levels; made by :func:`at_levels`.

    Its repr is the same in every process, so that a checkpoint can name it.
    """

    objective: Callable[..., Loss]
    weighting: str | Weighting
    options: tuple[tuple[str, Any], ...]

    def __repr__(self) -> str:
        options = ", ".join(f"{name!r}: {part_name(value)}" for name, value in self.options)
        return (
            f"at_levels({part_name(self.objective)}, {part_name(self.weighting)}, "
            f"options={{{options}}})"
        )

    def __call__(
        self,
        model: Any,
        x0: Tensor,
        t: Tensor,
        generator: torch.Generator | None = None,
        label: Tensor | None = None,
    ) -> Loss:
        """The objective at ``x_t``, each sample's loss times λ(t).

        Parameters
        ----------
        model : ScoreModel or score with an ``.sde``
            Called as ``model(x, t)``, or ``model(x, t, label)``.
        x0 : Tensor
            Clean data ``(B, *E)``.
        t : Tensor
            ``(B,)``, with σ_t > 0 for data without a density.
        generator : torch.Generator, optional
            Draws the noise, then the probes.
        label : Tensor, optional
            ``(B,)`` int64.

        Raises
        ------
        SDEScoreError
            As the objective's own; λ is refused where it is negative or not finite, a label as
            by :func:`sdescore.denoising_loss`.
        """
        require_state(x0, "x0")
        sde = model_sde(model)
        t64 = per_sample_time(x0, t, sde.T)
        score = model
        if label is not None:
            check_label(model, label, x0)
            score = Labelled(model, label)
        noise = draw_normal(x0.shape, x0, generator)
        options, known = dict(self.options), inspect.signature(self.objective).parameters
        if "generator" in known:
            options["generator"] = generator
        if "epsilon" in known and known["epsilon"].default is None:
            options.setdefault("epsilon", default_step(score) * sde.marginal(t64)[1])
        return self.objective(
            score,
            sde.perturb(x0, t64, noise),
            t=t64,
            weight=named_weighting(self.weighting)(sde, t64),
            **options,
        )


def at_levels(
    objective: Callable[..., Loss],
    weighting: str | Weighting = "sigma2",
    *,
    options: Mapping[str, Any] | None = None,
) -> AtLevels:
    r"""Lift a plain objective to the noise levels of a model's SDE, for :func:`sdescore.train`.

    A default ``epsilon`` of :func:`sdescore.losses.finite_difference_loss` is multiplied by
    :math:`\sigma_t`. Where :math:`p_t` has its mass, noise of that level leaves nothing narrower,
    so truncation stays small; and rounding of f, over ε², is a fixed share of
    :math:`1/\sigma_t^2`. In units of that both are at every level what they are for data of unit
    scale. Only the rounding of x, u = 6e-8 of it in float32, counts for more at small levels:
    :math:`10^3 u \|x\|/\sigma_t` for an energy, :math:`200 u \|x\|/\sigma_t` for a score, 1 % at
    :math:`\|x\| = 150\,\sigma_t` and at :math:`800\,\sigma_t`. An ``epsilon`` among the options is
    one step for all levels.

    Parameters
    ----------
    objective : callable
        :func:`sdescore.losses.implicit_loss`, :func:`sdescore.losses.sliced_loss`,
        :func:`sdescore.losses.finite_difference_loss`, :func:`sdescore.losses.explicit_loss` with a
        ``target`` of (x, t), or a function of (score, x) with their keywords ``t`` and ``weight``,
        and ``generator`` if it draws.
    weighting : str or callable
        λ, as in :func:`sdescore.denoising_loss`.
    options : dict, optional
        Further keyword arguments of the objective.

    Raises
    ------
    IncompatibleError
        An objective without these keywords, an option it does not know or one it lacks, or an
        unknown weighting.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> from sdescore.losses.levels import at_levels
    >>> from sdescore.losses.sliced import sliced_loss
    >>> at_levels(sliced_loss, options={"reduced_variance": True})
    at_levels(sliced_loss, 'sigma2', options={'reduced_variance': True})
    """
    if not callable(objective):
        raise IncompatibleError(f"expected a callable objective, got {objective!r:.200}")
    named_weighting(weighting)
    options = {} if options is None else options
    if not isinstance(options, Mapping) or set(options) & set(RESERVED):
        raise IncompatibleError(
            f"expected options as a dict of the objective's own, none of {', '.join(RESERVED)}; "
            f"got {options!r:.200}"
        )
    expected = (
        "an objective of (score, x) with the keywords t and weight, and in options= what else it "
        "needs"
    )
    require_call(
        objective, ("score", "x"), {"t": None, "weight": None, **options}, expected, ("generator",)
    )
    return AtLevels(objective, weighting, tuple(sorted(options.items())))


def require_call(
    function: Callable[..., object],
    positional: tuple[str, ...],
    named: Mapping[str, object],
    expected: str,
    if_taken: tuple[str, ...] = (),
) -> None:
    """Refuse a function that cannot be called with these arguments, some only if it has them.

    Raises
    ------
    IncompatibleError
        Its signature does not allow it, or cannot be read.
    """
    try:
        signature = inspect.signature(function)
        taken = {name: None for name in if_taken if name in signature.parameters}
        signature.bind(*positional, **{**named, **taken})
    except (TypeError, ValueError) as error:
        raise IncompatibleError(
            f"expected {expected}; got {part_name(function)}: {error}"
        ) from None


def check_objective(objective: object, weighting: str | Weighting) -> None:
    """Refuse an objective that training cannot call, or a weighting that it would not look at.

    Raises
    ------
    IncompatibleError
        One of the two.
    """
    if isinstance(objective, type) or not callable(objective):
        raise IncompatibleError(
            "expected objective= as a function (model, x0, t, generator, label) -> Loss, such as "
            f"at_levels(sliced_loss), got {objective!r:.200}"
        )
    require_call(
        objective,
        ("model", "x0"),
        dict.fromkeys(("t", "generator", "label")),
        "objective= as a function (model, x0, t, generator, label) -> Loss, or at_levels(…) of one "
        "of (score, x)",
    )
    if weighting != "sigma2":
        raise IncompatibleError(
            f"expected no weighting= beside objective=, which has its own, got {weighting!r}; use "
            "at_levels(…, weighting)"
        )


def objective_loss(
    objective: Objective,
    model: ScoreModel,
    x0: Tensor,
    times: TimeDistribution,
    t: Tensor,
    generator: torch.Generator | None,
    label: Tensor | None,
) -> Loss:
    """An objective's loss at times drawn from ``times``, with their importance weight if any.

    Raises
    ------
    IncompatibleError
        The objective returns no :class:`sdescore.losses.Loss` with one value per sample, or one
        that autograd cannot differentiate.
    """
    loss = objective(model, x0, t=t, generator=generator, label=label)
    fits = isinstance(loss, Loss) and all(isinstance(part, Tensor) for part in loss)
    if not fits or loss.per_sample.shape != x0.shape[:1] or loss.mean.ndim:
        raise IncompatibleError(
            f"expected the objective to return a Loss with per_sample ({len(x0)},) and a 0-dim "
            f"mean, got {type(loss).__name__}"
        )
    if hasattr(times, "importance_weight"):
        ratio = importance_weighted(lambda sde, t: torch.ones_like(t), times)(model.sde, t)
        per_sample = ratio.to(loss.per_sample) * loss.per_sample
        loss = Loss(per_sample, per_sample.mean())
    if not loss.mean.requires_grad:
        raise IncompatibleError(
            f"expected a loss that autograd can differentiate in the model's weights, got one of "
            f"{part_name(objective)} without a gradient; compute it without detach() or no_grad()"
        )
    return loss


class Labelled(nn.Module):
    """A model with its labels bound: a score of (x, t), with a log density if it had one."""

    def __init__(self, model: Any, label: Tensor) -> None:
        super().__init__()  # a module, so that checks find the model's weights and dropout
        self.model, self.label = model, label
        self.sde = model.sde

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        s: Tensor = self.model(x, t, self.label)
        return s

    @property
    def has_log_density(self) -> bool:
        return knows_density(self.model)

    def log_density(self, x: Tensor, t: Tensor) -> Tensor:
        f = log_density_of(self.model)
        require_takes_label(f, self.model)
        return f(x, t, self.label)


def part_name(part: object) -> str:
    """A name that is the same in every process, so never an address."""
    if part is None or isinstance(part, str | bool | int | float):
        return repr(part)
    if dataclasses.is_dataclass(part):
        return repr(part)
    if isinstance(part, functools.partial):
        given = (
            *map(part_name, part.args),
            *(f"{k}={part_name(v)}" for k, v in part.keywords.items()),
        )
        return f"{part_name(part.func)}({', '.join(given)})"
    return str(getattr(part, "__qualname__", type(part).__qualname__))
