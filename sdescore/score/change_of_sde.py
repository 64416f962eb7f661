r"""One score, any SDE: a change of time and of scale (see :mod:`sdescore.score.same_log_snr`).

A :class:`sdescore.ScoreModel` and an exact score change their SDE themselves. Any other callable is
called at another time and scale: :math:`\nabla \log p_t(x) = k\, \nabla \log p'_{t'}(k x)`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sdescore import checks
from sdescore.errors import IncompatibleError
from sdescore.score.convention import DataScale
from sdescore.score.exact import ExactScore
from sdescore.score.interface import (
    knows_density,
    log_density_of,
    require_label,
    require_times,
    scale_of,
)
from sdescore.score.model import ScoreModel
from sdescore.score.same_log_snr import matched, require_log_snr
from sdescore.sde.linear import LinearSDE
from sdescore.shapes import align
from sdescore.typing import Condition, Score, Time
from sdescore.wrappers import owner_of, sde_of, undisturbed

__all__ = ["under"]


def under(score: Score, sde: LinearSDE, *, own: LinearSDE | None = None) -> Score:
    """Any score, as the score of the same data under another linear SDE.

    Parameters
    ----------
    score : callable
        ``(x, t)`` or ``(x, t, label)``, on its own SDE.
    sde : LinearSDE
        The other SDE. A time is refused if the score's own SDE does not reach its log-SNR; a
        sampler asks this before it calls the score.
    own : LinearSDE, optional
        The score's SDE, where the score has no ``.sde``.

    Returns
    -------
    callable
        A :class:`sdescore.ScoreModel` for a ScoreModel, the exact score under ``sde`` for an exact
        score, and a module around the score for anything else.

    Raises
    ------
    IncompatibleError
        A score that is not callable or on an unknown SDE, an ``own`` that differs from the
        score's, or an SDE that is not linear.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> vp, ve = ss.VPSDE(), ss.VESDE()
    >>> score = ss.under(lambda x, t: -x, ve, own=vp)  # N(0, I) has the score −x at all times of VP
    >>> x, sigma = torch.ones(1, 1), ve.marginal(0.5)[1]
    >>> bool(torch.isclose(score(x, 0.5), -x / (1 + sigma**2).float()))
    True
    """
    checks.function("the score", score)
    own = None if own is None else checks.linear(own, "under")
    known: LinearSDE | None = sde_of(score) or own
    if known is None:
        got = f"{type(score).__name__}, which has no .sde"
        checks.refuse("own=, the SDE that the score is on", got, IncompatibleError)
    expected = f"own= to be the score's SDE {known!r:.200}"
    got = f"{own!r:.200}; leave it out"
    checks.that(own is None or own == known, expected, got, IncompatibleError)
    if isinstance(score, ExactScore | ScoreUnderSDE):
        return score.under(sde)
    if isinstance(score, ScoreModel) and score.convention is not None:
        return score.under(sde)
    return ScoreUnderSDE(score, known, sde)


class ScoreUnderSDE(nn.Module):
    """``k s(k x, t′)``: any callable score under another SDE; made by :func:`sdescore.under`."""

    def __init__(self, score: Score, own_sde: LinearSDE, sde: LinearSDE) -> None:
        super().__init__()
        require_log_snr(own_sde)
        require_log_snr(sde)
        self.score, self.own_sde, self.sde = score, own_sde, sde

    def extra_repr(self) -> str:
        """Shown inside the module's repr."""
        return f"own_sde={self.own_sde!r}, sde={self.sde!r}"

    @property
    def dtype(self) -> torch.dtype:
        """The score's dtype; float32 if it has none."""
        return getattr(self.score, "dtype", torch.float32)

    @property
    def device(self) -> torch.device | str:
        """The score's device; the CPU if it has none."""
        return getattr(self.score, "device", "cpu")

    def _arguments(
        self, x: Tensor, t: Time, label: Condition | None
    ) -> tuple[tuple[Any, ...], Tensor]:
        """The arguments that the score is called with, t′ in at least float32, and k."""
        checks.state(x)
        own_t, k = (value.to(x.device) for value in matched(self.own_sde, self.sde, t))
        scaled = align(k.to(x), x) * x
        time = own_t.to(torch.promote_types(x.dtype, torch.float32))
        return (scaled, time) if label is None else (scaled, time, label), k

    def forward(self, x: Tensor, t: Time, label: Condition | None = None) -> Tensor:
        r""":math:`\nabla_x \log p_t(x)`, like ``x`` ``(B, *E)``."""
        arguments, k = self._arguments(x, t, label)
        return align(k.to(x), x) * checks.score_output(
            undisturbed(self.score, *arguments, who="the score"), x
        )

    @property
    def data_scale(self) -> DataScale | None:
        """The score's own, or None."""
        return scale_of(self.score)

    @property
    def data_range(self) -> tuple[float, float] | None:
        """The score's own, or None."""
        return getattr(owner_of(self.score), "data_range", None)

    @property
    def sigma_data(self) -> float | None:
        """The score's own, or None."""
        return getattr(owner_of(self.score), "sigma_data", None)

    @property
    def has_log_density(self) -> bool:
        """Whether the score knows its log density."""
        return knows_density(self.score)

    def log_density(self, x: Tensor, t: Time, label: Condition | None = None) -> Tensor:
        """``log p_t(x) = log p′_t′(k x) + d log k``, ``(B,)``, normalised where the score's is."""
        log_density = log_density_of(self.score)
        arguments, k = self._arguments(x, t, label)
        value = log_density(*arguments)
        return value + (x[0].numel() if len(x) else 0) * k.log().to(value)

    def require_times(self, t: Tensor) -> None:
        """Refuse times ``(n,)`` whose log-SNR the score's SDE does not reach."""
        require_times(self.score, matched(self.own_sde, self.sde, t)[0])

    def require_label(self, label: object) -> None:
        """Refuse what the score refuses; see :func:`sdescore.score.interface.require_label`."""
        require_label(self.score, label)

    def under(self, sde: LinearSDE) -> Score:
        """The score under a third SDE, straight from its own."""
        return under(self.score, sde, own=self.own_sde)
