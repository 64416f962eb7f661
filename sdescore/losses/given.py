"""What the score-matching objectives are given, refused where it does not fit.

Every objective calls its score as ``score(x)`` where ``t`` is None and as ``score(x, t)`` with
``(B,)`` times otherwise, weighs each sample, and returns a :class:`sdescore.losses.Loss` in at
least float32. Scores are handed copies, so that one that writes to its input harms nothing, and the
states are data: no gradient flows into them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from sdescore import checks
from sdescore.checks import finite, is_count, require, require_same_shape, require_state
from sdescore.errors import IncompatibleError, ScheduleError, ShapeError, TimeError
from sdescore.losses.loss import Loss
from sdescore.score.divergence import PROBE_LAWS, probes_from_normal
from sdescore.score.interface import log_density_of, require_scalars, sde_of
from sdescore.shapes import align, float64
from sdescore.typing import Time

AnyScore: TypeAlias = Callable[..., Tensor]
"""``score(x)`` or ``score(x, t)``, like ``x``."""


class Given(NamedTuple):
    """The states, detached; the time in the form scores take it, () or (t,); the weights."""

    x: Tensor
    time: tuple[Tensor, ...]
    weight: Tensor | None


def check_request(
    score: AnyScore,
    x: Tensor,
    t: Time | None,
    weight: float | Tensor | None,
    generator: torch.Generator | None = None,
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
        ``score`` cannot be called, or needs a time and got none; ``generator`` is none.
    """
    check_samples(score, x)
    if isinstance(score, type) or not callable(score):
        raise IncompatibleError(f"expected a callable score, got {score!r:.200}")
    check_generator(generator)
    if weight is not None:
        weight = per_sample_number(x, weight, "weight")
    return Given(x.detach(), score_time(score, x, t), weight)


def check_samples(score: object, x: Tensor) -> None:
    """Refuse what is no batch of states on the score's device.

    Raises
    ------
    ShapeError
        ``x`` is not ``(B, *E)`` in floating point with B >= 1 on the network's device.
    """
    require_state(x)
    if len(x) == 0:
        raise ShapeError(
            f"expected at least one sample, got x of shape {tuple(x.shape)}; the mean of no "
            "losses is undefined"
        )
    if isinstance(score, nn.Module):
        home = next((p.device for p in score.parameters()), x.device)
        if home != x.device:
            raise ShapeError(f"expected x on the network's device {home}, got {x.device}")


def check_generator(generator: object) -> None:
    """Refuse what is no generator of random numbers.

    Raises
    ------
    IncompatibleError
        Neither None nor a generator.
    """
    if generator is not None and not isinstance(generator, torch.Generator):
        raise IncompatibleError(
            f"expected generator as a torch.Generator or None, got {generator!r:.100}; use "
            "torch.Generator().manual_seed(0)"
        )


def score_time(score: object, x: Tensor, t: Time | None) -> tuple[Tensor, ...]:
    """The time in the form the score takes it: (), or one tensor ``(B,)``.

    Raises
    ------
    IncompatibleError
        The score has an SDE and there is no ``t``.
    ShapeError, TimeError
        As :func:`per_sample_time`.
    """
    sde = sde_of(score)
    if t is None:
        if sde is not None:
            raise IncompatibleError(
                f"expected t= for {type(score).__name__}, whose score depends on the time, got none"
            )
        return ()
    t64 = per_sample_time(x, t, None if sde is None else sde.T)
    # An SDE's coefficients want the time in full precision, a plain network its own dtype.
    return (t64.to(x.dtype) if sde is None else t64,)


def per_sample_time(x: Tensor, t: Time, T: float | None) -> Tensor:
    """One time per sample of ``x``, ``(B,)`` float64, a copy.

    Raises
    ------
    ShapeError
        ``t`` fits neither one time nor one per sample.
    TimeError
        ``t`` is not finite, or outside [0, T] where T is given.
    """
    t64 = float64(t if T is None else checks.time(t, T), like=x)
    if not bool(t64.isfinite().all()):
        raise TimeError(f"expected a finite t, got {t!r:.100}")
    align(t64, x)
    return t64.expand(len(x)).clone()


def per_sample_number(
    x: Tensor, value: float | Tensor, name: str, *, positive: bool = False
) -> Tensor:
    """A number for all samples or one for each, ``()`` or ``(B,)``, on the device of ``x``.

    Raises
    ------
    ShapeError
        A tensor of another shape.
    ScheduleError
        Not finite or negative; or 0, where it is to be positive.
    """
    wanted = f"0 {'<' if positive else '<='} {name} < ∞"
    if not isinstance(value, Tensor):
        usable_number = finite(value) and (value > 0 if positive else value >= 0)
        require(usable_number, wanted, f"{value!r:.100}")
        return float64(value, like=x)
    if value.shape not in ((), x.shape[:1]):
        raise ShapeError(
            f"expected {name} as a number or one per sample, ({len(x)},), got {tuple(value.shape)}"
        )
    inside = value > 0 if positive else value >= 0
    if not bool((inside & value.isfinite()).all()):
        raise ScheduleError(
            f"expected {wanted}, got values in [{value.min().item():g}, {value.max().item():g}]"
        )
    return usable(value).to(x.device)


def evaluate(score: AnyScore, given: Given, x: Tensor, name: str = "the score") -> Tensor:
    """The score at the states ``x``, refused unless it is like them.

    Raises
    ------
    ShapeError
        It is not.
    """
    s = score(x.clone(), *given.time)
    require_same_shape(s, x, name, "x")
    return s


def density(energy: object, time: tuple[Tensor, ...], x: Tensor) -> Tensor:
    """The log density ``(B,)`` at ``x``, in the finer of its own precision and that of ``x``.

    Raises
    ------
    IncompatibleError
        The score knows none.
    ShapeError
        It is not one floating-point number per sample.
    """
    f = log_density_of(energy)(x.clone(), *time)
    require_scalars(f, x, "the log density")
    # A constant in f is free, so differences of f are taken before any rounding.
    return f.to(torch.promote_types(torch.promote_types(f.dtype, x.dtype), torch.float32))


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
    """Standard normal numbers, made where the generator lives, on the device of ``like``.

    Raises
    ------
    IncompatibleError
        ``generator`` is none.
    """
    check_generator(generator)
    source = like.device if generator is None else generator.device
    dtype = torch.promote_types(like.dtype, torch.float32)
    return torch.randn(shape, generator=generator, device=source, dtype=dtype).to(like)
