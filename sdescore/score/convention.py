r"""What a network's output, input and time mean: its convention, as a value.

Every prediction is a pair ``(p, q)``: the network estimates ``y = p x₀ + q ε``. With
``x_t = α x₀ + σ ε`` the two equations are solved for any other pair
(the determinant is :math:`D = \alpha q - \sigma p`):

.. math:: y' = \frac{(p'q - q'p)\,x_t + (\alpha q' - \sigma p')\,y}{D} .

========  =================  ==========================================================
kind      (p, q)             source
========  =================  ==========================================================
score     (0, −1/σ)          Vincent 2011; Song et al. 2021, arXiv:2011.13456, eq. 7
epsilon   (0, 1)             Ho et al. 2020, arXiv:2006.11239, eq. 12
x0        (1, 0)             Ho et al. 2020, section 3.2
v         (−σ, α)            Salimans & Ho 2022, arXiv:2202.00512, appendix D
velocity  (α̇, σ̇)             Lipman et al. 2023, arXiv:2210.02747, eq. 15
F         below              Karras et al. 2022, arXiv:2206.00364, eq. 7
========  =================  ==========================================================

With :math:`n^2 = \sigma^2 + \alpha^2 \sigma_{data}^2` EDM's F has the pair
:math:`(\sigma/(\sigma_{data} n),\, -\sigma_{data} \alpha/n)`. For
:math:`\alpha^2 + \sigma^2 = \sigma_{data} = 1` it is minus the pair of v.

**One network, any linear SDE.** Under a linear SDE
:math:`x_t/\alpha_t = x_0 + (\sigma_t/\alpha_t)\,\epsilon`, so two SDEs, the network's own (a prime)
and another, have the same distribution of :math:`x/\alpha` wherever their log-SNRs agree:

.. math::
   \frac{\alpha'_{t'}}{\sigma'_{t'}} = \frac{\alpha_t}{\sigma_t}, \qquad
   k = \frac{\alpha'_{t'}}{\alpha_t} = \frac{\sigma'_{t'}}{\sigma_t} \quad\Longrightarrow\quad
   p_t(x) = k^d\, p'_{t'}(k x), \qquad \nabla \log p_t(x) = k\, \nabla \log p'_{t'}(k x)

(Kingma et al. 2021, arXiv:2107.00630, section 5.1; Karras et al. 2022, section 2 and appendix B,
with :math:`s = \alpha` and the VE SDE as the one in common). :math:`E[x_0 | x_t]` and
:math:`E[\epsilon | x_t]` do not change. So a network under another SDE keeps the pair
:math:`(p, q)` and the time input of t′, and its input is scaled by k.

**Data of any scale.** A model may keep a mean m and a standard deviation s of its data. Its states
are then those of

.. math:: z_0 = (x_0 - m) / s, \qquad \log p(x_0) = \log p(z_0) - \sum_i \log s_i ,

where the sum, over all elements of a sample, is the Jacobian of the change of variables. Samplers
return data; losses and likelihoods take data. Everything in between works on states.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import IncompatibleError, ShapeError, TimeError
from sdescore.sde.linear import LinearSDE
from sdescore.shapes import float64
from sdescore.typing import Time

__all__ = ["Convention"]

Pair = tuple[Tensor, Tensor]
"""``(p, q)`` of a prediction ``y = p x₀ + q ε``; float64, ``()`` or ``(B,)``."""

Number = float | tuple[float, ...]
Numbers = float | Sequence[float] | Tensor

KINDS = ("score", "epsilon", "x0", "v")
PREDICTIONS = (*KINDS, "velocity", "F")
LEVELS = ("level", "continuous_level")
TIME_INPUTS = ("t", "999t", *LEVELS, "sigma", "log_sigma", "log_snr", "quarter_log_sigma")
INPUT_SCALINGS = ("none", "unit")


def pair(kind: str, alpha: Tensor, sigma: Tensor) -> Pair:
    """``(p, q)`` of one of :data:`KINDS`, which follow from (α, σ) alone; others are refused."""
    match kind:
        case "score":
            return torch.zeros_like(sigma), -1 / sigma
        case "epsilon":
            return torch.zeros_like(sigma), torch.ones_like(sigma)
        case "x0":
            return torch.ones_like(sigma), torch.zeros_like(sigma)
        case "v":
            return -sigma, alpha
    expected = f"a prediction among {', '.join(KINDS)} or a pair (p, q)"
    checks.refuse(expected, repr(kind), IncompatibleError)


def conversion(alpha: Tensor, sigma: Tensor, from_: Pair, to: Pair) -> tuple[Tensor, Tensor]:
    """``(u, w)`` with ``y' = u x_t + w y``, in float64."""
    (p, q), (p_to, q_to) = from_, to
    determinant = alpha * q - sigma * p
    return (p_to * q - q_to * p) / determinant, (alpha * q_to - sigma * p_to) / determinant


class Coefficients(NamedTuple):
    """A convention at some times, as numbers; each is float64, ``()`` or ``(n,)``."""

    alpha: Tensor  # of the SDE that the states are on
    sigma: Tensor
    pair: Pair  # the network's output is p x₀ + q ε
    time_value: Tensor  # what the network is given as time; int64 for integer levels
    input_scale: Tensor  # what the state is multiplied with before the network

    def to(self, kind: str) -> tuple[Tensor, Tensor]:
        """``(u, w)`` that turn the network's output ``y`` into ``u x_t + w y`` of a kind."""
        return conversion(self.alpha, self.sigma, self.pair, pair(kind, self.alpha, self.sigma))


@dataclass(frozen=True)
class Convention:
    """How a network's output, input and time relate to a score under an SDE.

    Parameters
    ----------
    trained_on : LinearSDE
        The SDE that the network was trained on.
    prediction, time_input, input_scaling, sigma_data
        As :class:`sdescore.ScoreModel` takes them.
    sde : LinearSDE, optional
        The SDE of the states and times at which the network will be called; by default the one that
        it was trained on.

    Raises
    ------
    IncompatibleError
        An unknown option, an SDE that is not linear, or levels asked of a continuous SDE.
    ParameterError
        ``sigma_data`` is not a finite number > 0.
    """

    trained_on: LinearSDE
    prediction: str = "F"
    time_input: str | None = None
    input_scaling: str = "none"
    sigma_data: float = 1.0
    sde: LinearSDE = None  # type: ignore[assignment]  # never None after __post_init__

    def __post_init__(self) -> None:
        checks.choice("prediction", self.prediction, PREDICTIONS)
        if self.time_input is None:
            vars(self).update(time_input="quarter_log_sigma" if self.prediction == "F" else "t")
        checks.choice("time_input", self.time_input, TIME_INPUTS)
        checks.choice("input_scaling", self.input_scaling, INPUT_SCALINGS)
        checks.linear(self.trained_on, "ScoreModel")
        checks.that(
            self.time_input not in LEVELS or hasattr(self.trained_on, "level"),
            f"a discrete SDE for time_input={self.time_input!r}",
            f"{type(self.trained_on).__name__}; use DiscreteVPSDE or DiscreteVESDE, or another "
            "time input",
            IncompatibleError,
        )
        vars(self).update(
            sigma_data=checks.number("sigma_data", self.sigma_data, above=0),
            # The input of F is scaled by definition.
            input_scaling="unit" if self.prediction == "F" else self.input_scaling,
            sde=self.trained_on if vars(self)["sde"] is None else self.sde,
        )

    def under(self, sde: LinearSDE) -> Convention:
        """The same network's convention for states on another linear SDE.

        Raises
        ------
        IncompatibleError
            ``sde``, or the SDE that the network was trained on, has no log-SNR.
        """
        require_log_snr(self.trained_on)
        require_log_snr(sde)
        return replace(self, sde=sde)

    def at(self, t: Tensor, marginal: tuple[Tensor, Tensor] | None = None) -> Coefficients:
        """The convention's numbers at float64 times of its SDE, ``()`` or ``(n,)``.

        ``marginal`` is ``sde.marginal(t)``, where the caller knows it already.

        Raises
        ------
        TimeError
            The network takes integer levels and a time is between two, or the SDE that it was
            trained on does not reach the log-SNR of a time.
        """
        alpha_t, sigma_t = self.sde.marginal(t) if marginal is None else marginal
        own_t, own_alpha, own_sigma, scale = t, alpha_t, sigma_t, torch.ones_like(t)
        if self.sde != self.trained_on:
            own_t, scale = matched(self.trained_on, self.sde, t)
            own_alpha, own_sigma = self.trained_on.marginal(own_t)
        if self.input_scaling == "unit":
            scale = scale / (own_alpha * self.sigma_data).hypot(own_sigma)
        if self.prediction in KINDS:
            own_pair = pair(self.prediction, own_alpha, own_sigma)
        else:
            own_pair = self._pair_of_schedule(own_t, own_alpha, own_sigma)
        return Coefficients(alpha_t, sigma_t, own_pair, self.time_value(own_t), scale)

    def _pair_of_schedule(self, t: Tensor, alpha_t: Tensor, sigma_t: Tensor) -> Pair:
        if self.prediction == "velocity":
            # α̇ = f α and σ̇ = f σ + g²/(2σ), from d(σ²)/dt = 2 f σ² + g².
            f, g2 = self.trained_on.rates(t)
            return f * alpha_t, f * sigma_t + g2 / (2 * sigma_t)
        norm = sigma_t.hypot(alpha_t * self.sigma_data)
        return sigma_t / (self.sigma_data * norm), -self.sigma_data * alpha_t / norm

    def time_value(self, t: Tensor) -> Tensor:
        """What the network is given at float64 times of the SDE that it was trained on, like ``t``.

        A subclass overrides it for a time input that is not in the list.

        Raises
        ------
        TimeError
            The network takes integer levels and a time is between two.
        """
        sde = self.trained_on
        match self.time_input:
            case "t":
                return t
            case "999t":
                return 999 * t
            case "log_snr":
                return sde.log_snr(t)
            case "quarter_log_sigma":
                return -sde.log_snr(t) / 8  # ¼ log(σ/α)
            case "sigma":
                return sde.marginal(t)[1]
            case "log_sigma":
                return sde.marginal(t)[1].log()
        level: Tensor = sde.level(t)  # type: ignore[attr-defined]
        if self.time_input == "continuous_level":
            return level
        index = level.round()
        if bool(((level - index).abs() > 1e-3).any()) or bool((index < 0).any()):
            raise TimeError(
                "expected times at the SDE's levels, for this network takes integer levels; got "
                f"level {level.flatten()[(level - index).abs().flatten().argmax()].item():.4f}. "
                "Use LevelGrid(), or time_input='continuous_level' if the network allows it"
            )
        return index.to(torch.int64)


def require_log_snr(sde: LinearSDE) -> None:
    """Refuse an SDE without marginal, log-SNR or the log-SNR's inverse."""
    needed = ("marginal", "log_snr", "time_at_log_snr")
    has = not isinstance(sde, type) and all(callable(getattr(sde, name, None)) for name in needed)
    expected = "linear SDEs, which differ by time and scale alone"
    checks.that(has, expected, f"{sde!r:.200}", IncompatibleError)


def matched(own: LinearSDE, other: LinearSDE, t: Time) -> tuple[Tensor, Tensor]:
    """The times t′ of ``own`` at the log-SNRs of ``other`` at ``t``, and k; both float64.

    A log-SNR outside the range of ``own`` is refused. If only the rounding of ``t`` to float32 (or
    its coarser dtype) moves it out, it becomes the end of the range.
    """
    t64 = checks.time(t, other.T)
    log_snr = other.log_snr(t64)
    low, high = (own.log_snr(float64(end)).item() for end in (own.T, 0.0))
    coarse = t.dtype if isinstance(t, Tensor) and t.is_floating_point() else torch.float32
    eps = max(torch.finfo(coarse).eps, torch.finfo(torch.float32).eps)
    slack = 8 * eps * (1 + log_snr.abs().nan_to_num(posinf=0.0))
    if not bool(((log_snr >= low - slack) & (log_snr <= high + slack)).all()):
        raise TimeError(
            f"expected times of {type(other).__name__} with a log-SNR in [{low:g}, {high:g}], "
            f"which {type(own).__name__}, the score's own SDE, covers; got [{log_snr.min():g}, "
            f"{log_snr.max():g}] at t in [{t64.min():g}, {t64.max():g}]. Keep the grid inside, or "
            "choose the SDE's range to fit"
        )
    own_t = own.time_at_log_snr(log_snr.clamp(low, high))
    # k = α′/α = σ′/σ = √(α′²+σ′²)/√(α²+σ²), which amplifies no rounding of t′ at small α′ or σ′.
    (own_alpha, own_sigma), (alpha, sigma) = own.marginal(own_t), other.marginal(t64)
    return own_t, own_alpha.hypot(own_sigma) / alpha.hypot(sigma)


def _numbers(name: str, value: object) -> Number:
    """A finite number or several, as floats."""
    if checks.is_number(value):
        return float(value)
    if isinstance(value, Tensor) and value.ndim == 0:
        return checks.number(name, value.item())
    return checks.numbers(name, value)


@dataclass(frozen=True)
class DataScale:
    """``z = (x − mean)/std``, with one number each, or one for each feature or channel.

    ``plain`` says whether states are the data themselves.

    Raises
    ------
    ParameterError
        ``mean`` or ``std`` is not finite, a ``std`` is not > 0, or their lengths differ.
    """

    mean: Number = 0.0
    std: Number = 1.0
    plain: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        mean, std = _numbers("data_mean", self.mean), _numbers("data_std", self.std)
        for value in std if isinstance(std, tuple) else (std,):
            checks.number("data_std", value, above=0)
        lengths = {len(value) for value in (mean, std) if isinstance(value, tuple)}
        got = " and ".join(map(str, sorted(lengths)))
        checks.that(len(lengths) <= 1, "as many numbers in data_mean as in data_std", got)
        vars(self).update(mean=mean, std=std, plain=(mean, std) == (0.0, 1.0))

    def check_event(self, event: Sequence[int]) -> None:
        """Refuse an event ``*E`` that has another number of features or channels."""
        for value in (self.mean, self.std):
            if isinstance(value, tuple) and tuple(event[:1]) != (len(value),):
                expected = f"an event with the {len(value)} features or channels of data_mean="
                got = f"one of shape {tuple(event)}"
                checks.refuse(f"{expected} and data_std=", got, ShapeError)

    def to_state(self, x: Tensor) -> Tensor:
        """The states of data ``(B, *E)``, in at least float32."""
        x, mean, std = self._with(x)
        return (x - mean) / std

    def to_data(self, z: Tensor) -> Tensor:
        """The data of states ``(B, *E)``, the inverse of :meth:`to_state`."""
        z, mean, std = self._with(z)
        return std * z + mean

    def log_volume(self, event: Sequence[int]) -> float:
        """``Σ log s`` over all elements of an event ``*E``, in nats."""
        self.check_event(event)
        if isinstance(self.std, tuple):
            return math.prod(event[1:]) * math.fsum(map(math.log, self.std))
        return math.prod(event) * math.log(self.std)

    def _with(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``x`` in at least float32, and mean and std as what broadcasts over it."""
        self.check_event(x.shape[1:])
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        numbers = (torch.tensor(v, dtype=x.dtype, device=x.device) for v in (self.mean, self.std))
        mean, std = (v.reshape(-1, *(1,) * (x.ndim - 2)) if v.ndim else v for v in numbers)
        return x, mean, std


PLAIN = DataScale()
