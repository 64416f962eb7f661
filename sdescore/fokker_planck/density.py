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
    if not isinstance(values, Tensor) or values.shape != points.shape[:1]:
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ShapeError(
            f"expected a log density (N, d) -> (N,), with N = {len(points)} here; got {got}"
        )
    values = values.double()
    top = values.max().item()
    checks.that(
        checks.is_number(top), "a log density below +inf, finite on some cell", f"a maximum {top}"
    )
    return _scaled(box, (values - top).exp().reshape(box.cells))


@contextmanager
def float64_states(what: str) -> Iterator[None]:
    """Say what to do where ``what``, called inside, holds a network that takes no float64.

    Raises
    ------
    ShapeError
        torch's own complaint was about the dtype.
    """
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
    if not isinstance(p, Tensor) or p.shape != box.cells:
        got = tuple(p.shape) if isinstance(p, Tensor) else type(p).__name__
        raise ShapeError(f"expected p0 as a log density or a tensor {box.cells}, got {got}")
    p = p.detach().to(device="cpu", dtype=torch.float64)
    checks.that(bool((p >= 0).all()), "p0 >= 0", f"a smallest value {p.min().item():g}")
    checks.number("sum of p0", p.sum().item(), above=0)
    return _scaled(box, p)


def flat_density(box: Box, p: Tensor) -> Tensor:
    """``(…, *cells)`` → ``(…, N)`` float64."""
    d = len(box.cells)
    if not isinstance(p, Tensor) or p.ndim < d or p.shape[-d:] != box.cells:
        got = tuple(p.shape) if isinstance(p, Tensor) else type(p).__name__
        raise ShapeError(f"expected densities (…, *cells) with cells {box.cells}, got {got}")
    return p.double().flatten(-d)


def _scaled(box: Box, p: Tensor) -> Tensor:
    return p / (p.sum() * box.volume)
