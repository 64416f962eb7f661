"""Every refusal, one wording a question.

A function here looks at one value and returns it; numpy's scalars become Python numbers. Each
message says what was expected, what came, and what to do.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import os
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from operator import ge, gt, le, lt
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeGuard, TypeVar

import torch
from torch import Tensor

from sdescore.errors import IncompatibleError, ParameterError, SDEScoreError, ShapeError, TimeError

if TYPE_CHECKING:
    from sdescore.sde.linear import LinearSDE

T = TypeVar("T")
ErrorClass = type[SDEScoreError]
MOST = 2**63 - 1  # the largest number that torch counts to
USUAL = {torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8}


def refuse(expected: str, got: object, error: ErrorClass = ParameterError) -> NoReturn:
    """Raise ``error`` in the wording that all refusals share."""
    raise error(f"expected {expected}; got {got}")


def that(condition: bool, expected: str, got: object, error: ErrorClass = ParameterError) -> None:
    """Refuse unless ``condition`` holds."""
    if not condition:
        refuse(expected, got, error)


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a finite real number; numpy's are, booleans and tensors are not."""
    try:
        return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)
    except OverflowError:  # an integer beyond float64
        return False


def is_count(value: object) -> TypeGuard[int]:
    """Whether a value is a non-negative integer; numpy's are, booleans are not."""
    return not isinstance(value, bool) and isinstance(value, Integral) and int(value) >= 0


def number(
    name: str,
    value: object,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
    error: ErrorClass = ParameterError,
) -> float:
    """``value`` as a float, refused unless it is a finite real number in the range asked for."""
    bounds = ((above, ">", gt), (at_least, ">=", ge), (below, "<", lt), (at_most, "<=", le))
    asked = [(sign, bound, holds) for bound, sign, holds in bounds if bound is not None]
    if not is_number(value) or not all(holds(value, bound) for _, bound, holds in asked):
        ranges = " and ".join(f"{name} {sign} {bound:g}" for sign, bound, _ in asked)
        refuse(f"a finite number {ranges or name}", named(name, value), error)
    return float(value)


def count(
    name: str,
    value: object,
    *,
    at_least: int = 1,
    at_most: int = MOST,
    error: ErrorClass = ParameterError,
) -> int:
    """``value`` as an int, refused unless it is a whole number in the range asked for."""
    if not is_count(value) or not at_least <= value <= at_most:
        top = f" and at most {at_most}" * (at_most < MOST or (is_count(value) and value > MOST))
        refuse(f"an integer {name} >= {at_least}{top}", named(name, value), error)
    return int(value)


def seed(value: object) -> int:
    """``value`` modulo 2⁶⁴ as an int64, refused unless it is whole; negative seeds are seeds."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        refuse("an integer seed", named("seed", value))
    return (int(value) + 2**63) % 2**64 - 2**63


def flag(name: str, value: bool) -> bool:
    """``value``, refused unless it is True or False."""
    if not isinstance(value, bool):
        refuse(f"{name} as True or False", f"{value!r:.100}")
    return value


def choice(name: str, value: T, allowed: Sequence[T], error: ErrorClass = IncompatibleError) -> T:
    """``value``, refused unless it is one of those allowed."""
    array = getattr(value, "ndim", 0)  # whose == is one too
    if array or not any(value is option or value == option for option in allowed):
        refuse(f"{name} among {', '.join(map(str, allowed))}", f"{value!r:.100}", error)
    return value


def instance(name: str, value: object, kind: type[T], example: str = "") -> T:
    """``value``, refused unless it is an instance of ``kind``; a class of it is a common slip."""
    if not isinstance(value, kind):
        such = f" instance, such as {example}" if example else " instance"
        refuse(f"{name} to be a {kind.__name__}{such}", f"{value!r:.200}", IncompatibleError)
    return value


def function(name: str, value: T) -> T:
    """``value``, refused unless it can be called and is no class."""
    if isinstance(value, type) or not callable(value):
        refuse(f"{name} to be callable", f"{value!r:.200}", IncompatibleError)
    return value


def device(value: torch.device | str, error: ErrorClass = ParameterError) -> torch.device:
    """``value`` as a device, refused unless this machine has it and it holds data."""
    try:
        found = torch.device(value)
        torch.empty(0, dtype=torch.float32, device=found)
    except (RuntimeError, AssertionError, TypeError, ValueError, NotImplementedError) as cause:
        why = (str(cause).splitlines() or ["it is not there"])[0]
        raise error(
            f'expected a device of this machine, "cpu" for one; got {value!r:.100} ({why:.100})'
        ) from cause
    that(found.type != "meta", "a device of this machine that holds data", f"{value!r}", error)
    return found


def path(value: object, name: str = "path") -> Path:
    """``value`` as a path, refused unless a file or folder may be called so."""
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        refuse(f"{name} as a string or a pathlib.Path", f"{value!r:.100}", IncompatibleError)
    found = Path(value)
    usable = "\0" not in str(found) and all(len(os.fsencode(part)) <= 255 for part in found.parts)
    expected = f"{name} with names of at most 255 bytes, without NUL"
    that(usable and os.fspath(value) != "", expected, f"{os.fspath(value)!r:.100}")
    return found


def is_linear(sde: object) -> TypeGuard[LinearSDE]:
    """Whether this is an SDE with a marginal kernel: the one place that asks."""
    return not isinstance(sde, type) and hasattr(sde, "marginal")


def linear(sde: object, user: str, advice: str = "use LinearSDE.from_marginal") -> LinearSDE:
    """``sde``, refused unless it has a marginal kernel, which ``user`` needs."""
    if not is_linear(sde):
        got = f"{sde!r:.200}" if isinstance(sde, type) else type(sde).__name__
        refuse(f"a LinearSDE for {user}, an instance", f"{got}, {advice}", IncompatibleError)
    return sde


def numbers(
    name: str, values: object, *, at_least: int = 1, error: ErrorClass = ParameterError
) -> tuple[float, ...]:
    """``values`` as floats, refused unless they are ``at_least`` finite numbers in a row."""
    # Numbers without a dtype of their own must not pass through the caller's default one.
    dtype = None if hasattr(values, "dtype") else torch.float64
    try:
        row = torch.as_tensor(values, dtype=dtype, device="cpu").detach()
        usable = row.ndim == 1 and len(row) >= at_least and not row.is_complex()
        if usable and bool(row.isfinite().all()):
            return tuple(row.to(torch.float64).tolist())
    except (TypeError, ValueError, RuntimeError, OverflowError):
        pass
    expected = f"{name} as a one-dimensional sequence of at least {at_least} finite numbers"
    refuse(expected, f"{values!r:.200}", error)


def with_float64(device: torch.device | str) -> torch.device:
    """``device``, or the CPU where that has no float64."""
    # A graph cannot try the device; it is for devices that have float64.
    return torch.device(device if torch.compiler.is_compiling() or _has_float64(device) else "cpu")


@functools.cache
def _has_float64(name: torch.device | str) -> bool:
    try:
        torch.empty(0, dtype=torch.float64, device=name)
    except (RuntimeError, AssertionError, TypeError) as why:
        device(name)  # refuses one that is not there
        if not isinstance(why, TypeError):  # MPS raises this one for want of float64
            raise
        return False
    return True


def time(t: object, T: float, name: str = "t") -> Tensor:
    """``t`` as a float64 tensor, refused outside ``[0, T]``.

    ``T`` rounded to float32 (or to the dtype of ``t``, if coarser) may lie above ``T``; it is
    taken for ``T``.
    """
    if isinstance(t, Tensor):
        t64 = dense(name, t, TimeError).to(with_float64(t.device), torch.float64)
    elif is_number(t):
        t64 = torch.tensor(t, dtype=torch.float64, device="cpu")
    else:
        refuse(f"{name} to be a finite number or a real tensor", f"{t!r:.100}", TimeError)
    if torch.compiler.is_compiling():  # a graph cannot look at a value
        return t64.clamp(max=T)
    # One time is by far the most common, and comparing it as a Python float the cheapest.
    if t64.numel() == 1 and 0.0 <= t64.item() <= T:
        return t64
    coarse = t.dtype if isinstance(t, Tensor) and t.is_floating_point() else torch.float64
    slack = T * max(torch.finfo(coarse).eps, torch.finfo(torch.float32).eps)
    if not bool(((t64 >= 0.0) & (t64 <= T + slack)).all()):
        worst = f"values in [{t64.min().item():g}, {t64.max().item():g}]"
        got = f"{worst}; data is at t = 0 and noise at t = T"
        refuse(f"0 <= {name} <= T = {T:g}", got, TimeError)
    return t64.clamp(max=T)


def shape(value: object, name: str = "shape", axes: int = 1, above: int = -1) -> tuple[int, ...]:
    """``value`` as a tuple, refused unless it holds ``axes`` or more whole numbers."""
    sizes = value if isinstance(value, Sequence) and not isinstance(value, str) else (None,)
    if len(sizes) < axes or not all(is_count(n) and above < n <= MOST for n in sizes):
        what = "a shape (B, *E) with a batch dimension" if name == "shape" else name
        refuse(f"{what}, integer sizes > {above}", f"{value!r:.100}", ShapeError)
    return tuple(map(int, sizes))


def rows(name: str, value: range | None, total: int) -> range:
    """``value``, all by default, refused unless it is a range of step 1 within ``range(total)``."""
    value = range(total) if value is None else value
    inside = (
        isinstance(value, range) and value.step == 1 and 0 <= value.start <= value.stop <= total
    )
    that(inside, f"{name} as a range(first, last + 1) within range(0, {total})", f"{value!r:.100}")
    return value


def generator(value: torch.Generator | None) -> torch.Generator | None:
    """``value``, refused unless it is None or a generator of random numbers."""
    example = "torch.Generator()"
    return None if value is None else instance("generator", value, torch.Generator, example)


def accepts(
    function: Callable[..., object],
    positional: Sequence[str],
    keywords: Sequence[str],
    expected: str,
    got: str,
) -> None:
    """Refuse a function that cannot be called so, or whose signature cannot be read."""
    try:
        inspect.signature(function).bind(*positional, **dict.fromkeys(keywords))
    except (TypeError, ValueError) as error:
        raise IncompatibleError(f"expected {expected}; got {got}: {error}") from None


def score_output(y: object, x: Tensor, who: str = "the score") -> Tensor:
    """What a score or network returned at ``x``, refused unless it is a real tensor like ``x``.

    Of an object with a tensor ``sample``, as diffusers' networks return, it is that tensor.
    """
    y = y if isinstance(y, Tensor) else getattr(y, "sample", y)
    if not isinstance(y, Tensor):
        got = f"{type(y).__name__}; wrap it in a module that returns the tensor"
        refuse(f"{who} to return a tensor", got, IncompatibleError)
    if not y.is_floating_point():
        advice = "torch.view_as_real(y) as two channels" if y.is_complex() else "y.to(x)"
        got = f"{y.dtype}; return {advice}"
        refuse(f"{who} to return real numbers", got, IncompatibleError)
    if y.shape != x.shape:
        refuse(f"{who} to return its input's shape {tuple(x.shape)}", tuple(y.shape), ShapeError)
    return y


def named(name: str, value: object) -> str:
    """``name=value``, for what an error got; it says so where the value is no Python number."""
    if isinstance(value, Integral) and int(value).bit_length() > 330:  # Python prints no huge ones
        return f"{name}, an integer of {int(value).bit_length()} bits"
    if isinstance(value, Real):
        return f"{name}={value!r}"
    hint = "; use .item()" if isinstance(value, Tensor) else ""
    return f"{name}={value!r:.100}, which is no Python number{hint}"


def part_name(part: object) -> str:
    """A name that is the same in every process, so never an address."""
    if part is None or isinstance(part, str | bool | int | float) or dataclasses.is_dataclass(part):
        return repr(part)
    if isinstance(part, functools.partial):
        named = (f"{k}={part_name(v)}" for k, v in part.keywords.items())
        return f"{part_name(part.func)}({', '.join((*map(part_name, part.args), *named))})"
    return str(getattr(part, "__qualname__", type(part).__qualname__))


def dense(name: str, x: Tensor, error: ErrorClass = ShapeError, real: bool = True) -> Tensor:
    """``x``, refused unless all of torch takes its dtype and layout, and its numbers are there."""
    if x.dtype in USUAL and x.layout is torch.strided and not (x.is_nested or x.is_meta):
        return x
    if x.is_nested:
        got = "nested tensor; stack its rows"
    elif x.layout is not torch.strided:
        got = "sparse tensor; use .to_dense()"
    elif real and x.is_complex():  # .float() would drop the imaginary part
        got = "tensor; take torch.view_as_real of it, two real channels"
    elif x.is_quantized:
        got = "quantised tensor; use .dequantize()"
    elif x.is_floating_point() and x.itemsize < 2:
        got = "tensor; convert it to floating point of 16 bits or more, e.g. with .float()"
    elif x.device.type == "meta":
        got = 'tensor on the device "meta"; make it on the CPU'
    else:
        return x
    refuse(f"{name} as a dense, real tensor with numbers", f"a {x.dtype} {got}", error)


def finite_tensor(name: str, x: Tensor) -> Tensor:
    """``x``, refused where it holds NaN or infinity; looked at without a large copy."""
    if not abs(dense(name, x).detach().sum().item()) < torch.inf:  # so is a sum of huge numbers
        for block in torch.split(x.detach().flatten(), 1 << 20):
            that(bool(block.isfinite().all()), f"finite {name}", "NaN or infinity in it")
    return x


def state(x: Tensor, name: str = "x") -> None:
    """Refuse anything that is not a floating-point ``(B, *E)`` tensor."""
    if not isinstance(x, Tensor):
        refuse(f"{name} to be a torch.Tensor", type(x).__name__, ShapeError)
    if not dense(name, x).is_floating_point():
        refuse(f"{name} in floating point", f"{x.dtype}; use e.g. {name}.float()", ShapeError)
    if x.ndim < 1:
        got = f"a 0-dim tensor; use {name}[None]"
        refuse(f"{name} of shape (B, *E) with a batch dimension", got, ShapeError)


def same_shape(value: Tensor, x: Tensor, name: str, x_name: str = "x") -> None:
    """Refuse a ``value`` that is not shaped like the state ``x``; nothing broadcasts silently."""
    state(value, name)
    state(x, x_name)
    expected = f"{name} shaped like {x_name}, {tuple(x.shape)}"
    that(value.shape == x.shape, expected, tuple(value.shape), ShapeError)
