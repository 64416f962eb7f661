"""What the score-matching objectives are given, refused where it does not fit.

Every objective calls its score as ``score(x)`` where ``t`` is None and as ``score(x, t)``
otherwise, weighs each sample, and returns a :class:`sdescore.Loss` in at least float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from sdescore.divergence import PROBE_LAWS, probes_from_normal
from sdescore.errors import IncompatibleError, ScheduleError, ShapeError, TimeError
from sdescore.losses.loss import Loss
from sdescore.sde.base import as_time, check_time, finite, require
from sdescore.shapes import align, float64, is_count, require_same_shape, require_state
from sdescore.typing import Time

__all__ = [
    "AnyScore",
    "Given",
    "check_law",
    "check_probes",
    "check_request",
    "draw_normal",
    "draw_probes",
    "evaluate",
    "weighted",
    "with_gradients",
]

AnyScore: TypeAlias = Callable[..., Tensor]
"""``score(x)`` or ``score(x, t)``, like ``x``."""


class Given(NamedTuple):
    """The states, the time in the form scores take it, () or (t,), and the weights."""

    x: Tensor
    time: tuple[Tensor, ...]
    weight: Tensor | None


def check_request(
    score: AnyScore, x: Tensor, t: Time | None, weight: float | Tensor | None
) -> Given:
    """The states and times that ``score`` is called with, and one weight per sample.

    Raises
    ------
    ShapeError
        ``x`` is not ``(B, *E)`` in floating point with B >= 1 on the network's device; ``t`` or
        ``weight`` fits neither one value nor one per sample.
    TimeError
        ``t`` is not finite, or outside the SDE of a score that has one.
    ScheduleError
        A weight is negative or not finite.
    IncompatibleError
        ``score`` cannot be called, or needs a time and got none.
    """
    require_state(x)
    if len(x) == 0:
        raise ShapeError(
            f"expected at least one sample, got x of shape {tuple(x.shape)}; the mean of no "
            "losses is undefined"
        )
    if isinstance(score, type) or not callable(score):
        raise IncompatibleError(f"expected a callable score, got {score!r:.200}")
    if isinstance(score, nn.Module):
        home = next((p.device for p in score.parameters()), x.device)
        if home != x.device:
            raise ShapeError(f"expected x on the network's device {home}, got {x.device}")
    return Given(x, _time(score, x, t), _weight(x, weight))


def _time(score: AnyScore, x: Tensor, t: Time | None) -> tuple[Tensor, ...]:
    sde = getattr(score, "sde", None)
    if t is None:
        if sde is not None:
            raise IncompatibleError(
                f"expected t= for {type(score).__name__}, whose score depends on the time, got none"
            )
        return ()
    t64 = usable(float64(t, like=x))
    if not bool(t64.isfinite().all()):
        raise TimeError(f"expected a finite t, got {t!r:.100}")
    if sde is not None:
        check_time(t, sde.T)
    align(t64, x)
    # An SDE's coefficients want the time in full precision, a plain network its own dtype.
    return (as_time(t, x) if sde is None else t64,)


def _weight(x: Tensor, weight: float | Tensor | None) -> Tensor | None:
    if weight is None:
        return None
    if not isinstance(weight, Tensor):
        require(finite(weight) and weight >= 0, "0 <= weight < ∞", f"{weight!r:.100}")
        return float64(weight, like=x)
    if weight.shape not in ((), x.shape[:1]):
        raise ShapeError(
            f"expected weight as a number or one per sample, ({len(x)},), got {tuple(weight.shape)}"
        )
    if not bool(((weight >= 0) & weight.isfinite()).all()):
        raise ScheduleError(
            f"expected 0 <= weight < ∞, got values in [{weight.min().item():g}, "
            f"{weight.max().item():g}]"
        )
    return usable(weight).to(x.device)


def evaluate(score: AnyScore, given: Given, x: Tensor, name: str = "the score") -> Tensor:
    """The score at the states ``x``, refused unless it is like them.

    Raises
    ------
    ShapeError
        It is not.
    """
    s = score(x, *given.time)
    require_same_shape(s, x, name, "x")
    return s


def weighted(per_sample: Tensor, given: Given) -> Loss:
    """The loss of terms ``(B,)``, each times its weight."""
    if given.weight is not None:
        per_sample = given.weight.to(per_sample) * per_sample
    return Loss(per_sample, per_sample.mean())


@contextmanager
def with_gradients() -> Iterator[bool]:
    """Autograd on, under ``no_grad`` and inference mode too: a divergence is a derivative.

    Gives whether it was on outside, so that the loss itself is to be differentiated.
    """
    outside = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.enable_grad():
        yield outside


def usable(tensor: Tensor) -> Tensor:
    """The tensor, or its copy if it is one of inference mode, which cannot enter autograd."""
    return tensor.clone() if tensor.is_inference() else tensor


def check_law(law: str) -> None:
    """Refuse an unknown law of the probes.

    Raises
    ------
    IncompatibleError
        It is unknown.
    """
    if law not in PROBE_LAWS:
        raise IncompatibleError(f"expected probe_law among {', '.join(PROBE_LAWS)}; got {law!r}")


def check_probes(probes: int | Tensor, x: Tensor) -> None:
    """Refuse what is neither a number of probes nor probes ``(K, B, *E)``, K >= 1.

    Raises
    ------
    ScheduleError
        No positive integer.
    ShapeError
        A tensor of another shape.
    """
    if isinstance(probes, Tensor):
        require_state(probes, "probes")
        if probes.shape[1:] != x.shape or len(probes) == 0:
            raise ShapeError(
                f"expected probes of shape (K, B, *E) = (K, {', '.join(map(str, x.shape))}), "
                f"K >= 1, got {tuple(probes.shape)}"
            )
        return
    require(is_count(probes) and probes >= 1, "probes >= 1, or a tensor", f"probes={probes!r}")


def draw_probes(
    probes: int | Tensor, law: str, x: Tensor, generator: torch.Generator | None
) -> Tensor:
    """``(K, B, *E)`` probes like ``x``: the given ones, or K of the law."""
    if isinstance(probes, Tensor):
        return usable(probes).to(x)
    return probes_from_normal(law, draw_normal((probes, *x.shape), x, generator))


def draw_normal(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal numbers, made where the generator lives, on the device of ``like``."""
    source = like.device if generator is None else generator.device
    dtype = torch.promote_types(like.dtype, torch.float32)
    return torch.randn(shape, generator=generator, device=source, dtype=dtype).to(like)
