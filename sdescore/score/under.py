r"""One score, any SDE: a change of time and of scale.

Under a linear SDE :math:`x_t/\alpha_t = x_0 + (\sigma_t/\alpha_t)\,\epsilon`, so two SDEs, the
score's own (a prime) and another, have the same law of :math:`x/\alpha` wherever their log-SNRs
agree:

.. math::
   \lambda'(t') = \lambda(t), \qquad k = \frac{\alpha'_{t'}}{\alpha_t}
   = \frac{\sigma'_{t'}}{\sigma_t} \quad\Longrightarrow\quad
   p_t(x) = k^d\, p'_{t'}(k x), \qquad \nabla \log p_t(x) = k\, \nabla \log p'_{t'}(k x)

(Kingma et al. 2021, arXiv:2107.00630, section 5.1; Karras et al. 2022, arXiv:2206.00364,
section 2 and appendix B, with :math:`s = \alpha` and the VE SDE as the one in common).
:math:`E[x_0 | x_t]` and :math:`E[\epsilon | x_t]` do not change at all, so a network keeps its
pair :math:`(p, q)` of t′ and its time input of t′, and its input is scaled by k.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sdescore.checks import require_state
from sdescore.errors import IncompatibleError, TimeError
from sdescore.score.density import knows_density, log_density_of
from sdescore.score.exact import ExactScore
from sdescore.score.model import Convention, ScoreModel, folds
from sdescore.sde.base import check_time
from sdescore.sde.linear import LinearSDE
from sdescore.shapes import align, float64
from sdescore.typing import Time

__all__ = ["under"]

AnyScore = Callable[..., Tensor]
"""``score(x, t)`` or ``score(x, t, label)``, like ``x``."""


def under(score: AnyScore, sde: LinearSDE, *, own: LinearSDE | None = None) -> AnyScore:
    """Any score, as the score of the same data under another linear SDE.

    Parameters
    ----------
    score : callable
        ``(x, t)`` or ``(x, t, label)``, on its own SDE.
    sde : LinearSDE
        The other SDE. Log-SNRs that its own does not reach are refused, by a sampler before it
        calls the score.
    own : LinearSDE, optional
        The score's SDE, where the score has no ``.sde``.

    Returns
    -------
    callable
        For a :class:`sdescore.ScoreModel` again one, for an exact score the exact score under
        ``sde``, else a module around the score.

    Raises
    ------
    IncompatibleError
        A score that is not callable or on an unknown SDE, an ``own`` that differs from the
        score's, or an SDE that is not linear.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> from sdescore.score.under import under
    >>> vp, ve = ss.VPSDE(), ss.VESDE()
    >>> score = under(lambda x, t: -x, ve, own=vp)  # N(0, I) has the score −x at all times of VP
    >>> x, sigma = torch.ones(1, 1), ve.marginal(0.5)[1]
    >>> bool(torch.isclose(score(x, 0.5), -x / (1 + sigma**2).float()))
    True
    """
    if isinstance(score, type) or not callable(score):
        raise IncompatibleError(f"expected a callable score, got {score!r:.200}")
    known: LinearSDE | None = getattr(score, "sde", own)
    if known is None:
        raise IncompatibleError(
            f"expected own=, the SDE that the score is on, for {type(score).__name__} has no .sde"
        )
    if own is not None and own != known:
        raise IncompatibleError(
            f"expected own= to be the score's SDE {known!r:.200}, got {own!r:.200}; leave it out"
        )
    if folds(score) or isinstance(score, ExactScore | UnderScore):
        changed: AnyScore = score.under(sde)
        return changed
    return UnderScore(score, known, sde)


class UnderModel(ScoreModel):
    """A :class:`sdescore.ScoreModel` under another SDE than its network's; see ``model.under``.

    It shares the network, and a sampler folds the change of time and scale into its own numbers:
    a step costs what it costs under the network's SDE. To save it, save :attr:`own`.

    Attributes
    ----------
    sde : LinearSDE
        The other SDE.
    own : ScoreModel
        The model that it was made from.
    """

    def __init__(self, own: ScoreModel, sde: LinearSDE) -> None:
        require_linear(own.sde)
        require_linear(sde)
        nn.Module.__init__(self)  # the options were checked beside the network's own SDE
        self.net, self.sde, self.sigma_data = own.net, sde, own.sigma_data
        # The raw output is no kind of this SDE: its score, for one, is k times the network's.
        self.prediction = f"{own.prediction} of {type(own.sde).__name__}"
        self.time_input, self.input_scaling = own.time_input, "matched"
        self._own = (own,)  # in a tuple, so that the network is not registered twice

    @property
    def own(self) -> ScoreModel:
        """The model on the network's SDE."""
        return self._own[0]

    @property
    def options(self) -> dict[str, str | float]:
        """None: no keyword arguments make a model under another SDE.

        Raises
        ------
        IncompatibleError
            Always.
        """
        raise IncompatibleError(
            "expected a ScoreModel on its network's SDE, got one under "
            f"{type(self.sde).__name__}; take model.own, and .under(sde) again later"
        )

    def extra_repr(self) -> str:
        """Shown inside the module's repr."""
        return f"sde={self.sde!r}, own=({self.own.extra_repr()})"

    def convention(self, t: Tensor) -> Convention:
        """The network's convention at the times of its own SDE that match ``t``.

        Raises
        ------
        TimeError
            The network's SDE does not reach the log-SNR of some time.
        """
        own_t, k = matched(self.own.sde, self.sde, t)
        convention = self.own.convention(own_t)
        return convention._replace(input_scale=k * convention.input_scale)

    def network_time(self, time_value: Tensor) -> Tensor:
        """Time values in the dtype that the network takes."""
        return self.own.network_time(time_value)

    def require_times(self, t: Tensor) -> None:
        """Refuse times ``(n,)`` that the network does not cover; errors as :meth:`convention`."""
        self.convention(t)

    def under(self, sde: LinearSDE) -> ScoreModel:
        """The model under a third SDE, straight from the network's own."""
        return self if sde == self.sde else self.own.under(sde)


class UnderScore(nn.Module):
    r"""``k s(k x, t′)``: any callable score under another SDE; see :func:`sdescore.under`.

    The score is called at t′ in the dtype of ``x``, at least float32.

    Parameters
    ----------
    score : callable
        ``(x, t)`` or ``(x, t, label)``.
    own_sde, sde : LinearSDE
        The SDE that it is on, and the other one.

    Raises
    ------
    IncompatibleError
        An SDE without log-SNR.
    """

    def __init__(self, score: AnyScore, own_sde: LinearSDE, sde: LinearSDE) -> None:
        super().__init__()
        require_linear(own_sde)
        require_linear(sde)
        self.score, self.own_sde, self.sde = score, own_sde, sde

    def extra_repr(self) -> str:
        """Shown inside the module's repr."""
        return f"own_sde={self.own_sde!r}, sde={self.sde!r}"

    @property
    def dtype(self) -> torch.dtype:
        """The score's, float32 where it has none."""
        return getattr(self.score, "dtype", torch.float32)

    @property
    def device(self) -> torch.device | str:
        """The score's, the CPU where it has none."""
        return getattr(self.score, "device", "cpu")

    def _given(self, x: Tensor, t: Time, label: Tensor | None) -> tuple[tuple[Any, ...], Tensor]:
        """What the score is called with, and k."""
        require_state(x)
        own_t, k = matched(self.own_sde, self.sde, t)
        own_t, k = own_t.to(x.device), k.to(x.device)
        scaled = align(k.to(x), x) * x
        time = own_t.to(torch.promote_types(x.dtype, torch.float32))
        return (scaled, time) if label is None else (scaled, time, label), k

    def forward(self, x: Tensor, t: Time, label: Tensor | None = None) -> Tensor:
        r""":math:`\nabla_x \log p_t(x)`, like ``x`` ``(B, *E)``.

        Raises
        ------
        ShapeError
            No state, or a time that is neither one nor one per sample.
        TimeError
            A time outside [0, T], or one whose log-SNR the score's SDE does not reach.
        """
        given, k = self._given(x, t, label)
        return align(k.to(x), x) * self.score(*given)

    @property
    def has_log_density(self) -> bool:
        """Whether the score knows its log density."""
        return knows_density(self.score)

    def log_density(self, x: Tensor, t: Time, label: Tensor | None = None) -> Tensor:
        """``log p_t(x) = log p′_t′(k x) + d log k``, ``(B,)``, normalised where the score's is.

        Raises
        ------
        IncompatibleError
            The score does not know its log density.
        ShapeError, TimeError
            As the score's.
        """
        log_density = log_density_of(self.score)
        given, k = self._given(x, t, label)
        value = log_density(*given)
        return value + (x[0].numel() if len(x) else 0) * k.log().to(value)

    def require_times(self, t: Tensor) -> None:
        """Refuse times ``(n,)`` whose log-SNR the score's SDE does not reach.

        Raises
        ------
        TimeError
            See above.
        """
        require_times(self.score, matched(self.own_sde, self.sde, t)[0])

    def under(self, sde: LinearSDE) -> AnyScore:
        """The score under a third SDE, straight from its own."""
        return under(self.score, sde, own=self.own_sde)


def require_times(score: object, t: Tensor) -> None:
    """Refuse times ``(n,)`` that a score says it does not cover, before it is called.

    Raises
    ------
    TimeError
        See above.
    """
    refuse = getattr(score, "require_times", None)
    if callable(refuse):
        refuse(t)


def require_linear(sde: LinearSDE) -> None:
    """Refuse an SDE without marginal and log-SNR.

    Raises
    ------
    IncompatibleError
        See above.
    """
    needed = ("marginal", "log_snr", "time_at_log_snr")
    if isinstance(sde, type) or not all(callable(getattr(sde, name, None)) for name in needed):
        raise IncompatibleError(
            f"expected linear SDEs, which differ by time and scale alone, got {sde!r:.200}"
        )


def matched(own: LinearSDE, other: LinearSDE, t: Time) -> tuple[Tensor, Tensor]:
    """The times t′ of ``own`` at the log-SNRs of ``other`` at ``t``, and k; float64.

    Log-SNRs that pass ``own``'s range by no more than rounding ``t`` to float32 moves them (or to
    the dtype of ``t``, if coarser) are taken for its end.

    Raises
    ------
    TimeError
        ``t`` is outside [0, T], or ``own`` does not reach its log-SNR.
    """
    t64 = check_time(t, other.T)
    level = other.log_snr(t64)
    low, high = (own.log_snr(float64(end)).item() for end in (own.T, 0.0))
    coarse = t.dtype if isinstance(t, Tensor) and t.is_floating_point() else torch.float32
    eps = max(torch.finfo(coarse).eps, torch.finfo(torch.float32).eps)
    slack = 8 * eps * (1 + level.abs().nan_to_num(posinf=0.0))
    if not bool(((level >= low - slack) & (level <= high + slack)).all()):
        raise TimeError(
            f"expected times of {type(other).__name__} with a log-SNR in [{low:g}, {high:g}], "
            f"which {type(own).__name__}, the score's own SDE, covers; got [{level.min():g}, "
            f"{level.max():g}] at t in [{t64.min():g}, {t64.max():g}]. Keep the grid inside, or "
            "choose the SDE's range to fit"
        )
    own_t = own.time_at_log_snr(level.clamp(low, high))
    # k = α′/α = σ′/σ = √(α′²+σ′²)/√(α²+σ²), which amplifies no rounding of t′ where α′ or σ′ is
    # small.
    (own_alpha, own_sigma), (alpha, sigma) = own.marginal(own_t), other.marginal(t64)
    return own_t, own_alpha.hypot(own_sigma) / alpha.hypot(sigma)
