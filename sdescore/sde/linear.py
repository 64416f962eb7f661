r"""Linear SDEs: everything that follows from the pair :math:`(\alpha_t, \sigma_t)`.

.. math:: \mathrm{d}x = f(t)\,x\,\mathrm{d}t + g(t)\,\mathrm{d}w
   \quad\Longleftrightarrow\quad x_t = \alpha_t x_0 + \sigma_t \epsilon, \qquad
   f = \frac{\dot\alpha}{\alpha}, \quad
   g^2 = \frac{\mathrm{d}\sigma^2}{\mathrm{d}t} - 2 f \sigma^2
   = -2 \sigma^2 \frac{\mathrm{d}\lambda}{\mathrm{d}t}, \quad
   \lambda = \log\frac{\alpha}{\sigma}

(Kingma et al. 2021, arXiv:2107.00630, eqs. 1–2; Lu et al. 2022, arXiv:2206.00927, eq. 2.3).
A subclass gives ``_marginal``; every other hook has a default built on it. Override a hook where
there is a closed form that does not cancel.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import IncompatibleError, ScheduleError, ShapeError, TimeError
from sdescore.grids.base import Grid
from sdescore.grids.spaced import LogSNRGrid
from sdescore.noise.counter import Domain, standard_normal
from sdescore.sde.base import SDE
from sdescore.sde.kernel import AffineKernel, Bridge, Gaussian
from sdescore.shapes import align, float64
from sdescore.typing import Time

__all__ = ["LinearSDE", "MarginalSDE"]


class LinearSDE(SDE):
    """``dx = f(t) x dt + g(t) dw`` with its kernels in closed form.

    Times may be floats, 0-dim tensors or ``(B,)``; one outside [0, T] raises ``TimeError``.
    Scalars are computed and returned in float64, with the shape of ``t``.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sde = ss.LinearSDE.from_marginal(lambda t: 1 - 0.5 * t, lambda t: t)
    >>> f, g2 = sde.rates(0.5)
    >>> round(f.item(), 6)  # α′/α = −0.5/0.75
    -0.666667
    """

    default_grid: Grid = LogSNRGrid()

    # Hooks: float64 tensors in, float64 tensors out, times already checked.

    @abstractmethod
    def _marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """``(α_t, σ_t)``."""

    def _log_alpha(self, t: Tensor) -> Tensor:
        return self._marginal(t)[0].log()

    def _log_snr(self, t: Tensor) -> Tensor:
        alpha_t, sigma_t = self._marginal(t)
        return 2 * (alpha_t.log() - sigma_t.log())

    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        # Where σ(0) = 0 the log-SNR and its derivative are infinite: take the limit t → 0.
        t = t.clamp(min=1e-12 * self.T)

        def logs(t: Tensor) -> tuple[Tensor, Tensor]:
            return self._log_alpha(t), self._log_snr(t)

        f, log_snr_rate = torch.func.jvp(logs, (t,), (torch.ones_like(t),))[1]
        return f, -self._marginal(t)[1].square() * log_snr_rate

    def _transition(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha_s, sigma_s = self._marginal(s)
        alpha_t, sigma_t = self._marginal(t)
        a = alpha_t / alpha_s
        return a, ((sigma_t - a * sigma_s) * (sigma_t + a * sigma_s)).clamp(min=0.0)

    def _time_at_log_snr(self, log_snr: Tensor) -> Tensor:
        low, high = torch.zeros_like(log_snr), torch.full_like(log_snr, self.T)
        # The log-SNR falls with t. 110 halvings reach neighbouring floats down to t = 1e-17 T.
        for _ in range(110):
            middle = 0.5 * (low + high)
            if bool(((middle == low) | (middle == high)).all()):
                break
            above = self._log_snr(middle) > log_snr
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        return 0.5 * (low + high)

    # What users call.

    def marginal(self, t: Time) -> tuple[Tensor, Tensor]:
        """``(α_t, σ_t)`` of ``x_t = α_t x_0 + σ_t ε``."""
        t = checks.time(t, self.T)
        alpha, sigma = self._marginal(t)
        for value in (alpha, sigma):  # of a class of one's own
            fits = isinstance(value, Tensor) and value.dtype == t.dtype and value.shape == t.shape
            if not fits:
                expected = f"_marginal(t) of {type(self).__name__} as two tensors like t, {t.dtype}"
                got = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else value
                checks.refuse(f"{expected} {tuple(t.shape)}", got, IncompatibleError)
        return alpha, sigma

    def rates(self, t: Time) -> tuple[Tensor, Tensor]:
        """``(f, g²)`` of ``dx = f x dt + g dw``."""
        return self._rates(checks.time(t, self.T))

    def log_snr(self, t: Time) -> Tensor:
        """``log(α_t²/σ_t²)``, strictly falling in ``t``; infinite where σ_t = 0."""
        return self._log_snr(checks.time(t, self.T))

    def half_log_snr(self, t: Time) -> Tensor:
        """``λ_t = log(α_t/σ_t)``, the clock of the exponential methods."""
        return 0.5 * self.log_snr(t)

    def noise_ratio(self, t: Time) -> Tensor:
        """``σ_t/α_t``, the noise-to-signal ratio; Karras et al.'s σ of ``x_t/α_t``."""
        alpha_t, sigma_t = self.marginal(t)
        return sigma_t / alpha_t

    def time_at_log_snr(self, log_snr: Time) -> Tensor:
        """The ``t`` at which ``log_snr(t)`` has this value.

        No time in [0, T] has it: ``TimeError``. First derivatives flow through it on every SDE,
        where :attr:`rates` gives ``d log_snr/dt = −g²/σ²``.
        """
        value = float64(log_snr)
        highest, lowest = self._log_snr(float64(0.0)), self._log_snr(float64(self.T))
        slack = 1e-9 * (1.0 + lowest.abs().item())
        if not bool(((value >= lowest - slack) & (value <= highest + slack)).all()):
            expected = f"a log-SNR in [{lowest:g}, {highest:g}], the range of {type(self).__name__}"
            got = f"values in [{value.min():g}, {value.max():g}]"
            checks.refuse(expected, got, TimeError)
        t = self._time_at_log_snr(value.detach()).clamp(0.0, self.T)
        if not (value.requires_grad and torch.is_grad_enabled()):
            return t
        # The default bisects, which autodiff cannot see through, and some closed forms have a
        # NaN derivative at their ends: the derivative is that of the inverse function.
        slope = -self._rates(t)[1] / self._marginal(t)[1].square()
        return t + (value - value.detach()) / slope

    def time_at_half_log_snr(self, half_log_snr: Time) -> Tensor:
        """The ``t`` at which ``half_log_snr(t)`` has this value; see :meth:`time_at_log_snr`."""
        return self.time_at_log_snr(2 * float64(half_log_snr))

    def drift(self, x: Tensor, t: Time) -> Tensor:
        """``f(t) x``, like ``x``."""
        checks.state(x)
        return align(self.rates(t)[0].to(x), x) * x

    def diffusion(self, t: Time) -> Tensor:
        """``g(t)``, shaped like ``t``, float64."""
        return self.rates(t)[1].sqrt()

    def kernel(self, t: Time) -> AffineKernel:
        """``x_t | x_0``: call the result with ``x_0``."""
        alpha_t, sigma_t = self.marginal(t)
        return AffineKernel(alpha_t, sigma_t.square())

    def transition(self, s: Time, t: Time) -> AffineKernel:
        """``x_t | x_s`` for ``s <= t`` (or ``TimeError``): call the result with ``x_s``.

        Where σ(0) is not 0 (:class:`sdescore.VESDE`) ``transition(0, t)`` starts from the state at
        time 0, which already carries σ(0); ``kernel(t)`` starts from the clean datum.
        """
        s, t = checks.time(s, self.T, "s"), checks.time(t, self.T)
        if s.ndim and t.ndim and s.shape != t.shape:
            got = f"{tuple(s.shape)} and {tuple(t.shape)}"
            checks.refuse("s and t of one shape, or one of them a single time", got, ShapeError)
        if not bool((s <= t).all()):
            got = f"s up to {s.max().item():g} and t from {t.min().item():g}"
            checks.refuse("s <= t, for the forward kernel runs from s to t", got, TimeError)
        return AffineKernel(*self._transition(s, t))

    def bridge(self, s: Time, t: Time) -> Bridge:
        """``x_s | x_t, x_0`` for ``s <= t``, DDPM's posterior; see :class:`sdescore.sde.Bridge`.

        It also raises ``TimeError`` where ``σ_t = 0``, for there x_t is x_0 itself.
        """
        transition, (alpha_s, sigma_s) = self.transition(s, t), self.marginal(s)
        sigma_t = self.marginal(t)[1]
        if not bool((sigma_t > 0).all()):
            got = "a time at which x_t carries no noise; use a later t"
            checks.refuse("t with σ_t > 0 for a bridge", got, TimeError)
        return Bridge.of(transition, alpha_s, sigma_s, sigma_t)

    def perturb(self, x0: Tensor, t: Time, noise: Tensor) -> Tensor:
        """``α_t x_0 + σ_t · noise``, like ``x_0`` ``(B, *E)``.

        ``ShapeError`` unless ``x0`` is a floating-point state, ``noise`` is shaped like it, and
        ``t`` is ``()`` or ``(B,)``.
        """
        checks.same_shape(noise, x0, "noise", "x0")
        alpha_t, sigma_t = self.marginal(t)
        return align(alpha_t.to(x0), x0) * x0 + align(sigma_t.to(x0), x0) * noise.to(x0)

    def prior_std(self, data_std: float = 0.0, t: Time | None = None) -> float:
        r"""Standard deviation of the prior at ``t``, ``√(σ_t² + α_t² data_std²)``; by default at T.

        ``data_std = 0`` is the field's usual ``N(0, σ_T² I)``, which neglects the data's own
        spread. Pass it for a VE SDE whose σ_max is not large compared with the data.
        """
        data_std = checks.number("data_std", data_std, at_least=0)
        alpha_t, sigma_t = (v.item() for v in self.marginal(self.T if t is None else t))
        return math.hypot(sigma_t, alpha_t * data_std)

    def prior_sample(
        self,
        shape: tuple[int, ...],
        *,
        seed: int = 0,
        data_std: float = 0.0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Draw ``x_T ~ N(0, prior_std²)`` of ``shape`` ``(B, *E)``, one stream per sample.

        A sampler with the same seed draws other numbers, both for its start and for its steps.
        A bad ``shape`` raises ``ShapeError``, a ``seed`` that is no integer or a ``data_std`` that
        is no finite number >= 0 ``ParameterError``.
        """
        batch, *event = checks.shape(shape)
        noise = standard_normal(
            seed, range(batch), range(1), tuple(event), device=device, domain=Domain.PRIOR
        )
        return self.prior_std(data_std) * noise[0].to(dtype)

    def prior_log_prob(self, x: Tensor, *, data_std: float = 0.0) -> Tensor:
        """Log density of ``x`` ``(B, *E)`` under the prior at ``T``, in nats: ``(B,)``."""
        checks.state(x)
        variance = float64(self.prior_std(data_std) ** 2, like=x)
        return Gaussian(torch.zeros_like(x), variance).log_prob(x)

    @staticmethod
    def from_marginal(
        alpha: Callable[[Tensor], Tensor],
        sigma: Callable[[Tensor], Tensor],
        *,
        T: float = 1.0,
        t_min: float = 1e-3,
    ) -> MarginalSDE:
        """The linear SDE with these differentiable marginals; f and g² follow by autodiff.

        Parameters
        ----------
        alpha, sigma : callable
            Elementwise functions of a float64 time tensor; α > 0 and σ/α rising on [0, T].
        T, t_min : float
            End of the forward time, and where sampling stops; ``0 <= t_min < T``.

        Raises
        ------
        ScheduleError, IncompatibleError
            α <= 0, σ < 0, σ/α does not rise, or a time is out of range; a function is none.
        """
        return MarginalSDE(alpha=alpha, sigma=sigma, T=T, t_min=t_min)


@dataclass(frozen=True, kw_only=True)
class MarginalSDE(LinearSDE):
    """What :meth:`sdescore.LinearSDE.from_marginal` makes, with the same parameters.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sde = ss.LinearSDE.from_marginal(torch.ones_like, lambda t: t)
    >>> type(sde).__name__, sde.marginal(0.5)[1].item()
    ('MarginalSDE', 0.5)
    """

    alpha: Callable[[Tensor], Tensor]
    sigma: Callable[[Tensor], Tensor]
    T: float = 1.0
    t_min: float = 1e-3

    def __post_init__(self) -> None:
        T = checks.number("T", self.T, above=0, error=ScheduleError)
        t_min = checks.number("t_min", self.t_min, at_least=0, below=T, error=ScheduleError)
        vars(self).update(T=T, t_min=t_min)
        t = torch.linspace(0.0, T, 257, dtype=torch.float64, device="cpu")
        alpha_t = elementwise("alpha", checks.function("alpha", self.alpha)(t), t)
        sigma_t = elementwise("sigma", checks.function("sigma", self.sigma)(t), t)
        for name, values, holds in (
            ("alpha(t) > 0", alpha_t, alpha_t > 0),
            ("sigma(t) >= 0", sigma_t, sigma_t >= 0),
            ("sigma/alpha to rise strictly", rises := (sigma_t / alpha_t).diff(), rises > 0),
        ):
            least = f"a least value or rise of {values.min():g}"
            checks.that(bool(holds.all()), f"{name} on [0, T]", least, ScheduleError)
        try:
            g2 = self._rates(t)[1]
        except RuntimeError:  # numpy, or .item(), of a value that carries a derivative
            g2 = torch.zeros_like(t)
        expected = "alpha and sigma that autodiff can differentiate, written in torch"
        got = "derivatives of 0 everywhere; no numpy, detach() or new tensors inside"
        checks.that(bool((g2 > 0).any()), expected, got, ScheduleError)

    def _marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.alpha(t), self.sigma(t)


def elementwise(name: str, value: object, t: Tensor) -> Tensor:
    """``value``, refused unless it is a real tensor like ``t``."""
    if not isinstance(value, Tensor) or value.is_complex() or value.shape != t.shape:
        expected = f"{name} to be elementwise: real, one number a time (as torch.ones_like(t))"
        checks.refuse(expected, f"{type(value).__name__}, {value!r:.100}", ScheduleError)
    return value
