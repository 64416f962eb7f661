r"""Your own objective, a function of a score and samples, at the noise levels of an SDE."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import IncompatibleError
from sdescore.losses.loss import Loss
from sdescore.losses.matching import matching
from sdescore.losses.weighting import Weighting, named_weighting
from sdescore.sde.linear import LinearSDE
from sdescore.typing import Condition, Time

__all__ = ["Objective", "at_levels"]

Objective: TypeAlias = Callable[..., Loss]
"""``objective(model, x0, t=…, label=…, generator=…) -> Loss``, for :func:`sdescore.train`."""

RESERVED = ("score", "x", "generator")


@dataclass(frozen=True, repr=False)
class AtLevels:
    """Made by :func:`at_levels`; its repr is the same in every process, for a checkpoint."""

    objective: Callable[..., Loss]
    weighting: str | Weighting
    options: tuple[tuple[str, Any], ...]

    def __repr__(self) -> str:
        options = ", ".join(f"{name!r}: {checks.part_name(value)}" for name, value in self.options)
        return (
            f"at_levels({checks.part_name(self.objective)}, {checks.part_name(self.weighting)}, "
            f"options={{{options}}})"
        )

    def __call__(
        self,
        model: Any,
        x0: Tensor,
        *,
        t: Time,
        weight: float | Tensor | None = None,
        label: Condition | None = None,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
        sde: LinearSDE | None = None,
    ) -> Loss:
        """The objective at the data noised to ``t``, each sample's loss times w(t).

        Parameters and errors are those of :func:`sdescore.losses.implicit_loss`, and the
        objective's own. The generator draws the noise, then what the objective draws.
        """
        score, x, factor = matching(
            model, x0, t, self.weighting, weight, label, noise, generator, sde
        )
        options = dict(self.options)
        if draws(self.objective):
            options["generator"] = generator
        return self.objective(score, x, **options).weighted(factor)


def at_levels(
    objective: Callable[..., Loss],
    weighting: str | Weighting = "sigma2",
    *,
    options: Mapping[str, Any] | None = None,
) -> AtLevels:
    r"""Lift a function of (score, x) to the noise levels of a model's SDE.

    The result is called ``loss(model, x0, t=…)``, so that :func:`sdescore.train` takes it. The
    function sees :math:`x_t` and the model's score there, a function of x alone, which has a
    ``log_density(x)`` if the model has one.

    Parameters
    ----------
    objective : callable
        ``objective(score, x) -> Loss``. It is passed ``generator`` if it has a parameter of that
        name.
    weighting : str or callable
        w(t), as in :func:`sdescore.denoising_loss`.
    options : dict, optional
        Further keyword arguments of the objective.

    Raises
    ------
    IncompatibleError
        The objective cannot be called in this way, does not know an option or lacks one; or the
        weighting is unknown.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> def norm_loss(score, x, power=2):
    ...     return ss.losses.Loss.of(score(x).abs().pow(power).sum(1))
    >>> lifted = ss.losses.at_levels(norm_loss, options={"power": 1})
    >>> lifted
    at_levels(norm_loss, 'sigma2', options={'power': 1})
    >>> model = ss.ScoreModel(ss.MLP(2), ss.VPSDE())
    >>> lifted(model, torch.ones(4, 2), t=0.5).per_sample.shape
    torch.Size([4])
    """
    checks.function("objective", objective)
    named_weighting(weighting)
    options = {} if options is None else options
    if not isinstance(options, Mapping) or set(options) & set(RESERVED):
        expected = f"options as a dict of the objective's own, none of {', '.join(RESERVED)}"
        checks.refuse(expected, f"{options!r:.200}", IncompatibleError)
    checks.accepts(
        objective,
        ("score", "x"),
        (*options, "generator") if draws(objective) else tuple(options),
        expected="an objective of (score, x), and in options= what else it needs",
        got=checks.part_name(objective),
    )
    return AtLevels(objective, weighting, tuple(sorted(options.items())))


def draws(objective: Callable[..., object]) -> bool:
    """Whether a function has a parameter ``generator``."""
    try:
        return "generator" in inspect.signature(objective).parameters
    except ValueError:  # a builtin's signature cannot be read
        return False
