"""Conditions: a tensor with one row a sample, or a dict of such tensors, nested ones too."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import IncompatibleError, ShapeError
from sdescore.typing import Condition


def each_tensor(function: Callable[[Any], Any], condition: Any) -> Any:
    """``function`` of a condition, or of each part of a dict; a part that is None stays None."""
    if isinstance(condition, Mapping):
        return {key: each_tensor(function, part) for key, part in condition.items()}
    return None if condition is None else function(condition)


def in_dtype(condition: Condition, dtype: torch.dtype) -> Condition:
    """A copy for a network, which may write to it: floating point in its dtype, integers as is."""

    def copied(part: object) -> object:
        if not isinstance(part, Tensor):
            return part
        return part.to(dtype, copy=True) if part.is_floating_point() else part.clone()

    found: Condition = each_tensor(copied, condition)
    return found


def parts_of(condition: object, name: str = "label") -> Iterator[tuple[str, object]]:
    """The parts of a condition that are no dict and not None, and their names."""
    if isinstance(condition, Mapping):
        for key in sorted(condition, key=str):
            expected = f"strings as the keys of {name}"
            checks.that(isinstance(key, str), expected, f"{key!r:.100}", ShapeError)
            yield from parts_of(condition[key], f"{name}[{key!r}]")
    elif condition is not None:
        yield name, condition


def names_of(condition: object) -> tuple[str, ...]:
    """The names of a condition's parts; none of no condition."""
    return tuple(name for name, _ in parts_of(condition))


def require_rows(condition: object, samples: int) -> None:
    """Refuse a condition unless each part has a row for each of so many samples."""
    for name, part in _some(condition):
        tensor = checks.dense(name, part, real=False) if isinstance(part, Tensor) else None
        size = type(part).__name__ if tensor is None else tuple(tensor.shape)
        expected = f"{name} to be a tensor of shape ({samples},), or ({samples}, *C)"
        checks.that(size[:1] == (samples,), expected, size, ShapeError)


def require_labels(condition: object, samples: int, finite: bool = False) -> None:
    """Refuse a condition that no training takes; see :func:`require_label_each`.

    ``finite`` looks for NaN and infinity too.
    """
    for name, part in _some(condition):
        require_label_each(part, samples, name=name)
        if finite and isinstance(part, Tensor) and part.is_floating_point():
            checks.finite_tensor(name, part)


def require_label_each(
    value: object, samples: int, classes: bool = False, name: str = "label"
) -> None:
    """Refuse what is not one int64 class index per sample.

    Without ``classes`` it may also be another condition, ``(samples, *C)``.
    """
    if isinstance(value, Tensor) and checks.dense(name, value, real=False).shape[:1] == (samples,):
        one_each = value.dtype == torch.int64 and value.ndim == 1
        if one_each or (value.ndim > 1 and not classes and not value.is_complex()):
            return
    got, advice = type(value).__name__, "pass a tensor of class indices"
    if isinstance(value, Tensor):
        got = f"{value.dtype} of shape {tuple(value.shape)}"
        if value.is_floating_point() or value.is_complex():
            advice = f"number the classes from 0, as whole numbers, or pass {name}[:, None]"
        elif value.dtype != torch.int64:
            advice = "convert it with label.long()"
    others = "" if classes else f", or a condition of shape ({samples}, *C)"
    expected = f"{name} with one label per sample, int64 of shape ({samples},){others}"
    checks.refuse(expected, f"{got}; {advice}", ShapeError)


def _some(condition: object) -> list[tuple[str, object]]:
    parts = list(parts_of(condition))
    checks.that(bool(parts), "label to hold a tensor", f"{condition!r:.100}", ShapeError)
    return parts


def alike(one: object, other: object) -> bool:
    """Whether two conditions have the same parts, of the same shapes beside the batch."""
    first, second = (
        [
            (name, part.shape[1:], part.is_floating_point()) if torch.is_tensor(part) else None
            for name, part in parts_of(condition)
        ]
        for condition in (one, other)
    )
    return None not in first and first == second


def joined(one: Condition, other: Condition) -> Condition:
    """The rows of two conditions that are :func:`alike`, one after the other."""
    if isinstance(one, Mapping):
        parts: Any = other
        return {k: None if part is None else joined(part, parts[k]) for k, part in one.items()}
    second: Any = other
    return torch.cat([one, second.to(one)])


def replaced(condition: Condition, null: object, missing: Tensor) -> Condition:
    """``null``, which has one row and no batch, for the samples that ``missing`` ``(B,)`` says."""
    if isinstance(condition, Mapping):
        keys = set(null) if isinstance(null, Mapping) else type(null).__name__
        expected = f"the network's null_condition with the keys {sorted(condition)}"
        checks.that(keys == set(condition), expected, keys, IncompatibleError)
        return {
            key: None if part is None else replaced(part, null[key], missing)  # type: ignore[index]
            for key, part in condition.items()
        }
    shape = () if checks.is_number(null) else getattr(null, "shape", None)
    got = type(null).__name__ if shape is None else tuple(shape)
    own, expected = tuple(condition.shape[1:]), "the network's null label shaped like a condition"
    checks.that(got == own, expected, f"{got} for {own}", ShapeError)
    precise = torch.float64 if isinstance(null, float) else None
    known: Tensor = torch.as_tensor(null, dtype=precise, device=condition.device)
    whole = condition.is_floating_point() or not known.is_floating_point()
    expected = f"a null label of integers for labels of {condition.dtype}"
    checks.that(whole, expected, f"{known.dtype}", ShapeError)
    if known.ndim == 0 and not known.is_floating_point() and bool((condition == known).any()):
        got = f"{int(known)}, which means no label; number the classes from 0"
        checks.refuse(f"labels other than {int(known)} beside label_dropout", got, ShapeError)
    value = known.to(condition).detach()
    rows = missing.to(condition.device).reshape(-1, *(1,) * value.ndim)
    return torch.where(rows, value, condition)
