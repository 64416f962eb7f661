"""Densities on the cells of a box: made, checked, integrated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import SDEScoreError, ShapeError
from sdescore.fokker_planck.box import Box

LogDensity = Callable[[Tensor], Tensor]
"""``(N, d) -> (N,)``, up to a constant."""


def from_log_density(box: Box, log_density: LogDensity) -> Tensor:
    """``exp(log_density)`` at the cells' centres, scaled to mass 1: ``(*cells,)`` float64."""
    points = box.centres.flatten(0, -2)
    with torch.no_grad(), float64_states("a log density"):
        values = log_density(points)
    fits = isinstance(values, Tensor) and values.shape == points.shape[:1]
    expected = f"a log density (N, d) -> (N,), with N = {len(points)} here"
    checks.that(fits, expected, _shape(values), ShapeError)
    values = values.double()
    top = values.max().item()
    expected = "a log density below +inf, finite on some cell"
    checks.that(checks.is_number(top), expected, f"a maximum {top}")
    return _scaled(box, (values - top).exp().reshape(box.cells))


@contextmanager
def float64_states(what: str) -> Iterator[None]:
    """Say what to do where ``what``, called inside, holds a network that takes no float64."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, SDEScoreError) or "double" not in str(error).lower():
            raise
        raise ShapeError(
            f"expected {what} to take states in float64, got a network that does not ({error}); "
            "use .double() on it"
        ) from error


def normalised(box: Box, p: Tensor) -> Tensor:
    """``p`` ``(*cells,)`` scaled to mass 1, float64; refused if it is no density."""
    fits = isinstance(p, Tensor) and p.shape == box.cells
    checks.that(fits, f"p0 as a log density or a tensor {box.cells}", _shape(p), ShapeError)
    p = p.detach().to(device="cpu", dtype=torch.float64)
    checks.that(bool((p >= 0).all()), "p0 >= 0", f"a smallest value {p.min().item():g}")
    checks.number("sum of p0", p.sum().item(), above=0)
    return _scaled(box, p)


def flat_density(box: Box, p: Tensor) -> Tensor:
    """``(…, *cells)`` → ``(…, N)`` float64."""
    d = len(box.cells)
    fits = isinstance(p, Tensor) and p.ndim >= d and p.shape[-d:] == box.cells
    checks.that(fits, f"densities (…, *cells) with cells {box.cells}", _shape(p), ShapeError)
    return p.double().flatten(-d)


def _scaled(box: Box, p: Tensor) -> Tensor:
    return p / (p.sum() * box.volume)


def _shape(value: object) -> object:
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
