r"""What the objectives without a denoising target share: the score they match, and where.

Such an objective takes a score of x alone and samples of a density p, and is least where the score
is :math:`\nabla \log p`. Without a time that is the density of the data. With a time t it is
:math:`p_t`, that of :math:`x_t = \alpha_t x_0 + \sigma_t \epsilon`, so

.. math:: L(\theta) = E_{t}\; w(t)\, J\bigl(s_\theta(\cdot, t);\, p_t\bigr)

has the same minimum as :func:`sdescore.denoising_loss` with that w, which knows the score of
:math:`x_t | x_0` and so needs no derivative.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sdescore import checks
from sdescore.errors import IncompatibleError, ShapeError
from sdescore.losses.denoising import add_noise, check_data
from sdescore.losses.weighting import Weighting, per_sample_number
from sdescore.score.divergence import PROBE_DISTRIBUTIONS, probes_from_normal
from sdescore.score.interface import (
    knows_density,
    log_density_of,
    require_arguments,
    require_scalars,
)
from sdescore.sde.linear import LinearSDE
from sdescore.typing import Condition, Time
from sdescore.wrappers import sde_of


class ScoreAt(nn.Module):
    """A model as a score of x alone: ``arguments``, its times and labels if any, are bound.

    It hands out copies of x, so that a model that writes to its input harms nothing. It is a
    module so that checks find the model's weights and its dropout. ``sigma`` is the noise level
    ``(B,)`` of the states, where they have one.
    """

    def __init__(
        self, model: Any, arguments: tuple[Condition, ...] = (), sigma: Tensor | None = None
    ) -> None:
        super().__init__()
        self.model, self.arguments, self.sigma = model, arguments, sigma

    def forward(self, x: Tensor) -> Tensor:
        """The score at ``x`` ``(B, *E)``, refused unless it is like it."""
        return checks.score_output(self.model(x.clone(), *self.arguments), x)

    @property
    def has_log_density(self) -> bool:
        return knows_density(self.model)

    def log_density(self, x: Tensor) -> Tensor:
        """The log density ``(B,)``, in the finer of its own precision and that of ``x``."""
        f = log_density_of(self.model)
        if len(self.arguments) > 1:
            require_arguments(f, self.arguments[1])
        value = f(x.clone(), *self.arguments)
        require_scalars(value, x, "the log density")
        # A constant in f is free, so differences of f are taken before any rounding.
        finest = torch.promote_types(torch.promote_types(value.dtype, x.dtype), torch.float32)
        return value.to(finest)


class Matching(NamedTuple):
    """A score of x alone, the states without gradients, and the weight of each sample."""

    score: ScoreAt
    x: Tensor
    weight: Tensor | None


def matching(
    model: Any,
    x0: Tensor,
    t: Time | None,
    weighting: str | Weighting,
    weight: float | Tensor | None,
    label: Condition | None,
    noise: Tensor | None,
    generator: torch.Generator | None,
    sde: LinearSDE | None,
) -> Matching:
    """The score and the states that an objective matches: the data, or the data noised to ``t``.

    Refuses what :func:`sdescore.denoising_loss` does, and an option of noise levels without t.
    """
    if t is not None:
        noised = add_noise(model, x0, t, None, weighting, weight, label, noise, generator, sde)
        score = ScoreAt(model, noised.arguments(model, label), noised.sigma)
        return Matching(score, noised.x.detach(), noised.weight * noised.sigma.square())
    check_data(model, x0)
    checks.generator(generator)
    options = {
        "weighting": None if isinstance(weighting, str) and weighting == "sigma2" else weighting,
        "label": label,
        "noise": noise,
        "sde": sde,
    }
    asked = [f"{name}=" for name, value in options.items() if value is not None]
    expected = f"t= beside {', '.join(asked)}"
    if not asked:
        expected = f"t= for {type(model).__name__}, whose score depends on the time"
    checks.that(not asked and sde_of(model) is None, expected, "none", IncompatibleError)
    factor = None if weight is None else per_sample_number("weight", weight, x0)
    return Matching(model if isinstance(model, ScoreAt) else ScoreAt(model), x0.detach(), factor)


@contextmanager
def with_gradients() -> Iterator[bool]:
    """Autograd on, under ``no_grad`` and inference mode too; yields whether it was on outside."""
    outside = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.enable_grad():
        yield outside


def check_probes(probes: int | Tensor, kind: str, x: Tensor, chunk_size: int | None = None) -> None:
    """Refuse what is neither a number of probes of a known kind nor probes ``(K, B, *E)``."""
    checks.choice("probe_distribution", kind, PROBE_DISTRIBUTIONS)
    if chunk_size is not None:
        checks.count("chunk_size", chunk_size)
    if not isinstance(probes, Tensor):
        checks.count("probes", probes)
        return
    checks.state(probes, "probes")
    checks.that(
        probes.shape[1:] == x.shape and len(probes) > 0,
        f"probes of shape (K, B, *E) = (K, {', '.join(map(str, x.shape))}), K >= 1",
        tuple(probes.shape),
        ShapeError,
    )


def draw_probes(
    probes: int | Tensor, kind: str, x: Tensor, generator: torch.Generator | None
) -> Tensor:
    """``(K, B, *E)`` directions v like ``x``: those passed, or K random ones with E vvᵀ = I."""
    if isinstance(probes, Tensor):  # of inference mode they cannot enter autograd; a copy can
        return (probes.clone() if probes.is_inference() else probes).to(x)
    # Made where the generator lives, so that a seed means the same probes on every device.
    device = x.device if generator is None else generator.device
    dtype = torch.promote_types(x.dtype, torch.float32)
    normal = torch.randn((probes, *x.shape), generator=generator, device=device, dtype=dtype)
    return probes_from_normal(kind, normal.to(x))
