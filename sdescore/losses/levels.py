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
from torch import Tensor

from sdescore.errors import IncompatibleError
from sdescore.losses.denoising import model_sde
from sdescore.losses.given import draw_normal
from sdescore.losses.importance import importance_weighted
from sdescore.losses.loss import Loss
from sdescore.losses.times import TimeDistribution
from sdescore.losses.weighting import Weighting, named_weighting
from sdescore.score.density import log_density_of
from sdescore.score.model import ScoreModel
from sdescore.shapes import float64, require_state

__all__ = ["AtLevels", "Objective", "at_levels", "check_objective", "objective_loss", "part_name"]

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
            As the objective's own; λ is refused where it is negative or not finite.
        """
        require_state(x0, "x0")
        sde = model_sde(model)
        t64 = float64(t, like=x0).expand(len(x0))
        noise = draw_normal(tuple(x0.shape), x0, generator)
        options = dict(self.options)
        if "generator" in inspect.signature(self.objective).parameters:
            options["generator"] = generator
        return self.objective(
            model if label is None else Labelled(model, label),
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
    """Lift a plain objective to the noise levels of a model's SDE, for :func:`sdescore.train`.

    Parameters
    ----------
    objective : callable
        :func:`sdescore.implicit_loss`, :func:`sdescore.sliced_loss`,
        :func:`sdescore.finite_difference_loss`, :func:`sdescore.explicit_loss` with a ``target`` of
        (x, t), or a function of (score, x) with their keywords ``t`` and ``weight``, and
        ``generator`` if it draws.
    weighting : str or callable
        λ, as in :func:`sdescore.denoising_loss`.
    options : dict, optional
        Further keyword arguments of the objective.

    Raises
    ------
    IncompatibleError
        An objective without these keywords, an option it does not know, or an unknown weighting.

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
    given = dict(options or {})
    known = inspect.signature(objective).parameters
    for name in ("t", "weight", *given):
        if name not in known or (name in given and name in RESERVED):
            raise IncompatibleError(
                f"expected an objective with the keywords t and weight, and options of its own; "
                f"{part_name(objective)} has no option {name!r}"
            )
    return AtLevels(objective, weighting, tuple(sorted(given.items())))


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
        The objective returns no :class:`sdescore.Loss` with one value per sample.
    """
    loss = objective(model, x0, t=t, generator=generator, label=label)
    if not isinstance(loss, Loss) or loss.per_sample.shape != x0.shape[:1] or loss.mean.ndim:
        raise IncompatibleError(
            f"expected the objective to return a Loss with per_sample ({len(x0)},) and a 0-dim "
            f"mean, got {type(loss).__name__}"
        )
    if not hasattr(times, "importance_weight"):
        return loss
    ratio = importance_weighted(lambda sde, t: torch.ones_like(t), times)(model.sde, t)
    per_sample = ratio.to(loss.per_sample) * loss.per_sample
    return Loss(per_sample, per_sample.mean())


class Labelled:
    """A model with its labels bound: a score of (x, t), with a log density if it had one."""

    def __init__(self, model: Any, label: Tensor) -> None:
        self.model, self.label = model, label
        self.sde = model.sde

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        s: Tensor = self.model(x, t, self.label)
        return s

    @property
    def has_log_density(self) -> bool:
        return getattr(self.model, "has_log_density", True)

    def log_density(self, x: Tensor, t: Tensor) -> Tensor:
        return log_density_of(self.model)(x, t, self.label)


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
