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

**Data of any scale.** A model may keep a mean m and a standard deviation s of its data. Its states
are then those of

.. math:: z_0 = (x_0 - m) / s, \qquad \log p(x_0) = \log p(z_0) - \sum_i \log s_i ,

where the sum, over all elements of a sample, is the Jacobian of the change of variables. Samplers
return data; losses and likelihoods take data. Everything in between works on states.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import IncompatibleError, ShapeError, TimeError
from sdescore.score.same_log_snr import matched, require_log_snr
from sdescore.score.time_input import TimeFunction, nearest_level_time, require_time_input, value_of
from sdescore.sde.linear import LinearSDE
from sdescore.typing import Time

__all__ = ["Convention"]

Pair = tuple[Tensor, Tensor]
"""``(p, q)`` of a prediction ``y = p x₀ + q ε``; float64, ``()`` or ``(B,)``."""

Number = float | tuple[float, ...]
Numbers = float | Sequence[float] | Tensor

KINDS = ("score", "epsilon", "x0", "v")
PREDICTIONS = (*KINDS, "velocity", "F")
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
    prediction, time_input, input_scaling, sigma_data, snap
        As :class:`sdescore.ScoreModel` takes them.
    sde : LinearSDE, optional
        The SDE of the states and times at which the network will be called; by default the one that
        it was trained on.

    Raises
    ------
    IncompatibleError
        An unknown option, an SDE that is not linear, or levels asked of a continuous SDE.
    ParameterError
        ``sigma_data`` is not a number from 1e-15 to 1e15.
    """

    trained_on: LinearSDE
    prediction: str = "F"
    time_input: str | TimeFunction | None = None
    input_scaling: str = "none"
    sigma_data: float = 1.0
    snap: bool = False
    sde: LinearSDE = None  # type: ignore[assignment]  # never None after __post_init__

    def __post_init__(self) -> None:
        checks.choice("prediction", self.prediction, PREDICTIONS)
        if self.time_input is None:
            vars(self).update(time_input="quarter_log_sigma" if self.prediction == "F" else "t")
        checks.choice("input_scaling", self.input_scaling, INPUT_SCALINGS)
        checks.linear(self.trained_on, "ScoreModel")
        require_time_input(self.time_input, self.snap, self.trained_on)
        vars(self).update(
            sigma_data=checks.number("sigma_data", self.sigma_data, at_least=1e-15, at_most=1e15),
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
        ShapeError, IncompatibleError
            A function of t returned another shape, or no real numbers.
        """
        alpha_t, sigma_t = self.sde.marginal(t) if marginal is None else marginal
        own_t, own_alpha, own_sigma, scale = t, alpha_t, sigma_t, torch.ones_like(t)
        if self.sde != self.trained_on:
            own_t, scale = matched(self.trained_on, self.sde, t)
            own_alpha, own_sigma = self.trained_on.marginal(own_t)
        if self.input_scaling == "unit":
            scale = scale / (own_alpha * self.sigma_data).hypot(own_sigma)
        if self.snap:
            own_t = nearest_level_time(self.trained_on, own_t)
            own_alpha, own_sigma = self.trained_on.marginal(own_t)
        if self.prediction in KINDS:
            own_pair = pair(self.prediction, own_alpha, own_sigma)
        else:
            own_pair = self._pair_of_schedule(own_t, own_alpha, own_sigma)
        return Coefficients(
            alpha_t, sigma_t, own_pair, self._time_value(own_t, own_alpha, own_sigma), scale
        )

    def _pair_of_schedule(self, t: Tensor, alpha_t: Tensor, sigma_t: Tensor) -> Pair:
        if self.prediction == "velocity":
            # α̇ = f α and σ̇ = f σ + g²/(2σ), from d(σ²)/dt = 2 f σ² + g².
            f, g2 = self.trained_on.rates(t)
            return f * alpha_t, f * sigma_t + g2 / (2 * sigma_t)
        norm = sigma_t.hypot(alpha_t * self.sigma_data)
        return sigma_t / (self.sigma_data * norm), -self.sigma_data * alpha_t / norm

    def _time_value(self, t: Tensor, alpha_t: Tensor, sigma_t: Tensor) -> Tensor:
        """What the network is given at float64 times of the SDE that it was trained on, like ``t``;
        errors as :meth:`at`.
        """
        sde, name = self.trained_on, self.time_input
        if callable(name):
            return value_of(name, t)
        match name:
            case "t":
                return t
            case "999t":
                return 999 * t
            case "log_snr":
                return sde.log_snr(t)
            case "quarter_log_sigma":
                return (sigma_t / alpha_t).log() / 4
            case "sigma":
                return sigma_t
            case "log_sigma":
                return sigma_t.log()
        level: Tensor = sde.level(t)  # type: ignore[attr-defined]
        if name == "continuous_level":
            return level
        index = level.round()
        off = (level - index).abs()
        if bool((off > 1e-3).any()) or bool((index < 0).any()):
            raise TimeError(
                "expected times at the SDE's levels, for this network takes integer levels; got "
                f"level {level.flatten()[off.flatten().argmax()].item():.4f}. If it embeds the "
                "level by sines, as DDPM's and diffusers' networks do, declare "
                "time_input='continuous_level'; if it looks it up in a table, use LevelGrid(), or "
                "snap=True for the nearest level"
            )
        return index.to(torch.int64)

    def log_snr_change(self, t: Time) -> Tensor:
        """How far ``snap`` moves the log-SNR at times ``()`` or ``(n,)``: float64, like ``t``.

        It is the log-SNR of the level that the network is given, less that of the state; 0 for a
        network that is given any time. For a sampler take ``sampler.times``.

        Raises
        ------
        TimeError
            A time is outside [0, T], or more than half a level below the SDE's first level.

        Examples
        --------
        >>> import torch, sdescore as ss
        >>> sde = ss.DiscreteVPSDE.linear(1000)
        >>> net = lambda x, level: torch.zeros_like(x)
        >>> model = ss.ScoreModel(net, sde, "epsilon", "level", snap=True)
        >>> sampler = ss.PredictorCorrector(sde, grid=ss.LogSNRGrid(), steps=10)
        >>> round(model.convention.log_snr_change(sampler.times).abs().max().item(), 3)
        0.049
        """
        own_t = t = checks.time(t, self.sde.T)
        if self.sde != self.trained_on:
            own_t = matched(self.trained_on, self.sde, t)[0]
        if not self.snap:
            return torch.zeros_like(own_t)
        level_t = nearest_level_time(self.trained_on, own_t)
        return self.trained_on.log_snr(level_t) - self.trained_on.log_snr(own_t)


def _numbers(name: str, value: object) -> Number:
    """A finite number or several, as floats."""
    if checks.is_number(value):
        return float(value)
    if isinstance(value, Tensor) and value.ndim == 0:
        return checks.number(name, value.item())
    return checks.numbers(name, value)


def data_range_of(value: object) -> tuple[float, float]:
    """The least and the largest number of data, refused unless they are two, in this order."""
    ends = checks.numbers("data_range", value)
    fits = len(ends) == 2 and ends[0] < ends[1]
    checks.that(fits, "data_range as (lowest, highest)", f"{value!r:.100}")
    return ends[0], ends[1]


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
    farthest: float = field(init=False, repr=False, compare=False)  # largest |mean| / std

    def __post_init__(self) -> None:
        mean, std = _numbers("data_mean", self.mean), _numbers("data_std", self.std)
        for value in std if isinstance(std, tuple) else (std,):
            checks.number("data_std", value, above=0)
        lengths = {len(value) for value in (mean, std) if isinstance(value, tuple)}
        got = " and ".join(map(str, sorted(lengths)))
        checks.that(len(lengths) <= 1, "as many numbers in data_mean as in data_std", got)
        m, s = (torch.tensor(v, dtype=torch.float64, device="cpu") for v in (mean, std))
        farthest = (m.abs() / s).max().item()
        vars(self).update(mean=mean, std=std, plain=(mean, std) == (0.0, 1.0), farthest=farthest)

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
        step = self.farthest * torch.finfo(z.dtype).eps  # between two numbers
        if step > 0.01:
            got = f"{z.dtype} with steps of {step:.2g} there; pass dtype=torch.float64 to sample()"
            expected = "expected numbers at most 1 % of data_std apart near data_mean"
            warnings.warn(f"{expected}; got {got}", RuntimeWarning, stacklevel=3)
        return std * z + mean

    def unit(self, z: Tensor) -> Tensor:
        """The std, as what broadcasts over states ``(B, *E)``."""
        return self._with(z)[2]

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
