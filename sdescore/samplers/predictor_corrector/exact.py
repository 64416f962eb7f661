r"""A chain of tableaux on one Gaussian mode: an affine map with known noise.

For a mode of variance Λ and mean μ the diffused distribution at t is :math:`N(\alpha \mu, v)` with
:math:`v = \alpha^2 \Lambda + \sigma^2`, and every output of the exact model is affine in the state,

.. math::
   \hat x_0 = \mu + \frac{\alpha \Lambda}{v} (y - \alpha \mu), \qquad
   \hat\epsilon = \frac{\sigma}{v} (y - \alpha \mu), \qquad
   s = -\frac{1}{v} (y - \alpha \mu),

so a step is affine in the state, the past outputs and the noise, and so is the whole chain:
:math:`x_N = P x_0 + m + N(0, Q)`, mode by mode. A model whose ε is off by independent errors adds
to Q, each by what the conversion from ε to the output makes of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sdescore.errors import IncompatibleError
from sdescore.samplers.predictor_corrector.chain import Move
from sdescore.score.convention import conversion, pair
from sdescore.sde.linear import LinearSDE
from sdescore.tableau.tableau import Tableau

ModelErrorStd = Callable[[Tensor], Tensor]
"""``σ²/α² (…) -> standard deviation of ε's error (…)``."""

# Numbers of the rows that are taken at once: they fit into the cache.
BLOCK = 2**17


class AffineMap(NamedTuple):
    """``x → transfer x + offset + N(0, variance)`` on each mode, ``(M,)``."""

    transfer: Tensor
    offset: Tensor
    variance: Tensor


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Independent Gaussian modes: ``variance`` and ``mean``, ``(M,)`` float64."""

    variance: Tensor
    mean: Tensor

    def marginal(self, sde: LinearSDE, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance at ``t`` ``()``, ``(M,)``."""
        alpha_t, sigma_t = sde.marginal(t)
        return alpha_t * self.mean, alpha_t.square() * self.variance + sigma_t.square()

    def output(self, sde: LinearSDE, t: Tensor, kind: str) -> tuple[Tensor, Tensor]:
        """``(slope, offset)`` of the exact model's output at times ``(R,)``: ``(R, M)``."""
        alpha_t, sigma_t = (v[:, None] for v in sde.marginal(t))
        v = alpha_t.square() * self.variance + sigma_t.square()
        if kind == "score":
            slope = -1 / v
            return slope, -slope * (alpha_t * self.mean)
        p, q = pair(kind, alpha_t, sigma_t)
        slope = (p * alpha_t * self.variance + q * sigma_t) / v
        return slope, (p - slope * alpha_t) * self.mean

    def outputs(self, sde: LinearSDE, t: Tensor, kinds: list[str]) -> tuple[Tensor, Tensor]:
        """:meth:`output` where each time asks for its own kind."""
        slope, offset = self.output(sde, t, kinds[0])
        for kind in set(kinds) - {kinds[0]}:
            asks = mask(kinds, kind)[:, None]
            other = self.output(sde, t, kind)
            slope = torch.where(asks, other[0], slope)
            offset = torch.where(asks, other[1], offset)
        return slope, offset


def mask(kinds: list[str], kind: str) -> Tensor:
    """Which of ``kinds`` are ``kind``, ``(R,)``."""
    return torch.tensor([k == kind for k in kinds], dtype=torch.bool, device="cpu")


def output_errors(sde: LinearSDE, t: Tensor, kinds: list[str], error: ModelErrorStd) -> Tensor:
    """Standard deviation of the error of the output asked for at each time, ``(R,)``."""
    alpha_t, sigma_t = sde.marginal(t)
    from_, found = pair("epsilon", alpha_t, sigma_t), torch.zeros_like(t)
    for kind in set(kinds):
        _, w = conversion(alpha_t, sigma_t, from_, pair(kind, alpha_t, sigma_t))
        found = torch.where(mask(kinds, kind), w, found)
    return error((sigma_t / alpha_t).square()) * found


class AffineRows:
    """The rows of a chain of affine moves, kept as tensors so that gradients flow through them."""

    def __init__(self, moves: Iterable[Move]) -> None:
        self.rows: list[tuple[Tableau, int, bool]] = []
        for move in moves:
            if move.tableau is None:
                raise IncompatibleError(
                    f"expected affine steps to analyse, got one at t = {move.t:g} that no tableau "
                    "describes; use Langevin(norm='expected') and predictors with a tableau"
                )
            self.rows.append((move.tableau, move.n, move.corrects))

    def on(
        self, sde: LinearSDE, spectrum: Spectrum, error: ModelErrorStd | None = None
    ) -> AffineMap:
        """The map of all rows on the modes of a spectrum.

        With ``error``, each evaluation's ε has an error of its own, independent of the others.
        """
        tableaux = [tableau for tableau, _, _ in self.rows]
        if all(T.b.shape[1:] == (1, 1) and T.start is None for T in tableaux):
            return self._one_stage(sde, spectrum, error)
        return self._general(sde, spectrum, error)

    def _one_stage(
        self, sde: LinearSDE, spectrum: Spectrum, error: ModelErrorStd | None
    ) -> AffineMap:
        """Products and sums along blocks of rows that are small enough for the cache."""
        tableaux = {id(tableau): tableau for tableau, _, _ in self.rows}
        lengths = itertools.accumulate((len(T) for T in tableaux.values()), initial=0)
        first = dict(zip(tableaux, lengths, strict=False))
        order = [first[id(tableau)] + n for tableau, n, _ in self.rows]
        parts = [
            (T.times[:, 0], T.a[:, 0], T.b[:, 0, 0], T.c[:, 0].square().sum(1))
            for T in tableaux.values()
        ]
        t, a, b, added = (torch.cat(numbers)[order] for numbers in zip(*parts, strict=True))
        kinds = [tableau.output for tableau, _, _ in self.rows]
        if error:
            added = added + (b * output_errors(sde, t, kinds, error)).square()
        transfer, offset, variance = a.new_tensor([1.0, 0.0, 0.0])
        block = max(BLOCK // (8 * len(spectrum.variance)), 8)
        for start in range(0, len(order), block):
            rows = slice(start, start + block)
            slopes, offsets = spectrum.outputs(sde, t[rows], kinds[rows])
            factor = torch.addcmul(a[rows, None], b[rows, None], slopes)
            # The derivative of the state after the block by the state before each row.
            left = factor.flip(0).cumprod(0).flip(0)
            after = torch.cat([left[1:], torch.ones_like(left[:1])])
            transfer = left[0] * transfer
            offset = left[0] * offset + (b[rows, None] * offsets * after).sum(0)
            variance = left[0].square() * variance + added[rows] @ after.square()
        return AffineMap(transfer, offset, variance)

    def _general(
        self, sde: LinearSDE, spectrum: Spectrum, error: ModelErrorStd | None
    ) -> AffineMap:
        """Maps of the vector of the state and the past outputs, composed in pairs."""
        modes = len(spectrum.variance)
        past = max((T.b.shape[-1] - 1 for T, _, corrects in self.rows if not corrects), default=0)
        eye = torch.eye(1 + past, dtype=torch.float64, device="cpu").expand(modes, -1, -1)
        whole: VectorMap = eye, torch.zeros_like(eye[..., 0]), torch.zeros_like(eye)
        block = max(BLOCK // (4 * modes * (1 + past) ** 2), 8)
        for start in range(0, len(self.rows), block):
            alike: dict[tuple[int, bool], list[int]] = {}
            for r, (tableau, _, corrects) in enumerate(self.rows[start : start + block], start):
                alike.setdefault((id(tableau), corrects), []).append(r)
            parts = []
            for (_, corrects), found in alike.items():
                of = self.rows[found[0]][0], [self.rows[r][1] for r in found]
                A, constant, on_noise = step_matrices(
                    *of, sde, spectrum, past, error, corrects=corrects
                )
                parts.append((A, constant, on_noise @ on_noise.mT))
            taken = [*itertools.chain(*alike.values())]
            order = torch.tensor(taken, dtype=torch.int64, device="cpu").argsort()
            A, constant, Q = (torch.cat(part)[order] for part in zip(*parts, strict=True))
            while len(A) > 1:
                odd = [v[-1:] for v in (A, constant, Q)] if len(A) % 2 else []
                n = len(A) - len(A) % 2
                pairs = [(v[:n:2], v[1:n:2]) for v in (A, constant, Q)]
                first, second = zip(*pairs, strict=True)
                joined = compose(first, second)
                A, constant, Q = (
                    (torch.cat(v) for v in zip(joined, odd, strict=True)) if odd else joined
                )
            whole = compose(whole, (A[0], constant[0], Q[0]))
        return AffineMap(whole[0][:, 0, 0], whole[1][:, 0], whole[2][:, 0, 0])


VectorMap = tuple[Tensor, Tensor, Tensor]


def compose(first: VectorMap, second: VectorMap) -> VectorMap:
    """``y ← A y + m + N(0, Q)`` of one map after another, ``(…, D, D)``, ``(…, D)``, as A."""
    A, constant, Q = second
    return (
        A @ first[0],
        (A @ first[1][..., None])[..., 0] + constant,
        A @ first[2] @ A.mT + Q,
    )


def step_matrices(
    tableau: Tableau,
    n: list[int],
    sde: LinearSDE,
    spectrum: Spectrum,
    past: int,
    error: ModelErrorStd | None,
    *,
    corrects: bool = False,
) -> VectorMap:
    """Rows ``n`` on the vector (x, past outputs): matrix, constant and noise, ``(R, M, …)``.

    A corrector's row neither uses nor changes the past outputs.
    """
    stages, width, noises = *tableau.b.shape[1:], tableau.c.shape[-1]
    times, rows, modes = tableau.times[n], len(n), len(spectrum.variance)
    a, b, c = (v[n, ..., None, None] for v in (tableau.a, tableau.b, tableau.c))
    slopes, offsets = (
        v.reshape(*times.shape, modes, 1)
        for v in spectrum.output(sde, times.flatten(), tableau.output)
    )
    # Coordinates: the vector's entries, the constant 1, the noises, the outputs' errors.
    coordinates = 2 + past + noises + (stages if error else 0)
    eye = torch.eye(coordinates, dtype=torch.float64, device="cpu")
    basis = eye[:, None, None, :].expand(-1, rows, modes, -1)
    x, constant, z = basis[0], basis[1 + past], basis[2 + past : 2 + past + noises]
    off = basis[2 + past + noises :]
    if error:
        kinds = [tableau.output] * times.numel()
        sizes = output_errors(sde, times.flatten(), kinds, error).reshape(times.shape)
        off = sizes.T[..., None, None] * off
    outputs = [] if corrects else list(basis[1 : 1 + past])
    y = x
    if tableau.start is not None:
        start_a, start_c = (v[n, ..., None, None] for v in tableau.start)
        y = start_a * x
        for k in range(noises):
            y = y + start_c[:, k] * z[k]
    for j in range(stages):
        exact = slopes[:, j] * y + offsets[:, j] * constant
        outputs.insert(0, exact + off[j] if error else exact)
        del outputs[width:]
        y = a[:, j] * x
        for h, o in enumerate(outputs):
            y = y + b[:, j, h] * o
        for k in range(noises):
            y = y + c[:, j, k] * z[k]
    newest = list(basis[1 : 1 + past]) if corrects else outputs[:past]
    newest += list(basis[1 + len(newest) : 1 + past])  # a first step has fewer outputs than `past`
    whole = torch.stack([y, *newest], 2)
    return whole[..., : 1 + past], whole[..., 1 + past], whole[..., 2 + past :]
