r"""A network's convention, declared once.

:class:`ScoreModel` is the one place that knows what a network predicts, which time it is
given, how its input is scaled and in which precision it runs. Everything else sees a score.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn

from sdescore.checks import finite, require, require_state
from sdescore.errors import IncompatibleError, ShapeError, TimeError
from sdescore.score.parameterization import KINDS, Pair, combine, conversion, pair
from sdescore.sde.base import check_time
from sdescore.sde.linear import LinearSDE
from sdescore.shapes import align, sum_event
from sdescore.typing import Time

__all__ = ["ScoreModel"]

PREDICTIONS = (*KINDS, "velocity", "F")
TIME_INPUTS = (
    "t",
    "999t",
    "level",
    "continuous_level",
    "sigma",
    "log_sigma",
    "log_snr",
    "quarter_log_sigma",
)
INPUT_SCALINGS = ("none", "unit")


class Convention(NamedTuple):
    """A network's convention at some times, as numbers; each ``(n,)`` or ``()``, float64."""

    pair: Pair
    time_value: Tensor
    input_scale: Tensor


class ScoreModel(nn.Module):
    r"""A network that predicts score, ε, x₀, v, velocity or F, as a score.

    The network is called as ``net(x, c)``, or ``net(x, c, label)`` where a label is given:
    ``x`` is ``(B, *E)`` in the network's own dtype, ``c`` is the time input ``(B,)``
    (int64 for ``time_input="level"``). It returns a tensor like ``x``.

    Parameters
    ----------
    net : torch.nn.Module or callable
        The network.
    sde : LinearSDE
        The SDE it was trained on.
    prediction : str
        ``"score"``, ``"epsilon"``, ``"x0"``, ``"v"`` (:math:`\alpha\epsilon - \sigma x_0`),
        ``"velocity"`` (:math:`\dot\alpha x_0 + \dot\sigma\epsilon`) or ``"F"`` (Karras et al.
        2022, arXiv:2206.00364, eq. 7: :math:`D = c_{skip} x + c_{out} F`).
    time_input : str
        ``"t"``; ``"999t"`` (Song et al. 2021's code); ``"level"``, the integer index of a
        discrete SDE; ``"continuous_level"``, the same between levels; ``"sigma"``,
        ``"log_sigma"``; ``"log_snr"``; ``"quarter_log_sigma"``, EDM's ¼ log(σ/α).
    input_scaling : str
        ``"none"``, or ``"unit"``: the network is given
        :math:`x/\sqrt{\alpha^2\sigma_{data}^2 + \sigma^2}`, EDM's :math:`c_{in}`. ``"F"``
        implies it.
    sigma_data : float
        Standard deviation of the data, > 0; used by ``"F"`` and ``"unit"``.

    Raises
    ------
    IncompatibleError
        An unknown option, an SDE without kernels, or levels asked of a continuous SDE.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sde = ss.VPSDE()
    >>> model = ss.ScoreModel(lambda x, c: torch.zeros_like(x), sde, prediction="x0")
    >>> x = torch.ones(1, 2)
    >>> score = model(x, torch.tensor(1.0))  # −x/σ² for a network that always says x₀ = 0
    >>> bool(torch.allclose(score, -x, atol=1e-3))
    True
    """

    def __init__(
        self,
        net: nn.Module,
        sde: LinearSDE,
        prediction: str = "epsilon",
        time_input: str = "t",
        *,
        input_scaling: str = "none",
        sigma_data: float = 0.5,
    ) -> None:
        super().__init__()
        for name, value, allowed in (
            ("prediction", prediction, PREDICTIONS),
            ("time_input", time_input, TIME_INPUTS),
            ("input_scaling", input_scaling, INPUT_SCALINGS),
        ):
            if value not in allowed:
                raise IncompatibleError(
                    f"expected {name} among {', '.join(allowed)}; got {value!r}"
                )
        if isinstance(net, type) or not callable(net):
            raise IncompatibleError(f"expected a callable network, got {net!r:.200}")
        if isinstance(sde, type) or not hasattr(sde, "marginal"):
            raise IncompatibleError(f"expected a LinearSDE with a marginal, got {sde!r:.200}")
        if time_input in ("level", "continuous_level") and not hasattr(sde, "level"):
            raise IncompatibleError(
                f"expected a discrete SDE for time_input={time_input!r}, got "
                f"{type(sde).__name__}; use DiscreteVPSDE or DiscreteVESDE, or another time input"
            )
        require(finite(sigma_data) and sigma_data > 0, "sigma_data > 0", f"{sigma_data!r}")
        self.net = net
        self.sde = sde
        self.prediction = prediction
        self.time_input = time_input
        self.input_scaling = "unit" if prediction == "F" else input_scaling
        self.sigma_data = sigma_data

    @property
    def options(self) -> dict[str, str | float]:
        """The convention as keyword arguments that rebuild it."""
        return {
            "prediction": self.prediction,
            "time_input": self.time_input,
            "input_scaling": self.input_scaling,
            "sigma_data": self.sigma_data,
        }

    def extra_repr(self) -> str:
        """Shown inside the module's repr."""
        return ", ".join([repr(self.sde), *(f"{k}={v!r}" for k, v in self.options.items())])

    def convention(self, t: Tensor) -> Convention:
        """The numbers of this convention at float64 times ``()`` or ``(n,)``."""
        alpha_t, sigma_t = self.sde.marginal(t)
        data = alpha_t * self.sigma_data
        scale = torch.ones_like(t) if self.input_scaling == "none" else 1 / data.hypot(sigma_t)
        return Convention(self._pair(t, alpha_t, sigma_t), self._time_value(t), scale)

    def _pair(self, t: Tensor, alpha_t: Tensor, sigma_t: Tensor) -> Pair:
        if self.prediction == "velocity":
            # α̇ = f α and σ̇ = f σ + g²/(2σ), from d(σ²)/dt = 2 f σ² + g².
            f, g2 = self.sde.rates(t)
            return f * alpha_t, f * sigma_t + g2 / (2 * sigma_t)
        if self.prediction == "F":
            ratio = sigma_t / alpha_t
            norm = ratio.square().add(self.sigma_data**2).sqrt()
            return ratio / (self.sigma_data * norm), -self.sigma_data / norm
        return pair(self.prediction, alpha_t, sigma_t)

    def _time_value(self, t: Tensor) -> Tensor:
        if self.time_input == "t":
            return t
        if self.time_input == "999t":
            return 999 * t
        if self.time_input == "log_snr":
            return self.sde.log_snr(t)
        if self.time_input == "quarter_log_sigma":
            return -self.sde.log_snr(t) / 8
        if self.time_input in ("sigma", "log_sigma"):
            sigma_t = self.sde.marginal(t)[1]
            return sigma_t if self.time_input == "sigma" else sigma_t.log()
        level: Tensor = self.sde.level(t)  # type: ignore[attr-defined]
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

    @property
    def dtype(self) -> torch.dtype:
        """The network's dtype (float32 for a plain function)."""
        return next((p.dtype for p in self.parameters() if p.is_floating_point()), torch.float32)

    @property
    def device(self) -> torch.device:
        """The network's device (CPU for a plain function)."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    def network_time(self, time_value: Tensor) -> Tensor:
        """Time values in the dtype the network takes: int64 levels stay, floats are cast."""
        return time_value if time_value.dtype == torch.int64 else time_value.to(self.dtype)

    def _given(self, x: Tensor, t: Time) -> tuple[Tensor, Tensor, Tensor, Convention]:
        """The network's own input and time input, the time in float64, and the convention."""
        require_state(x)
        t64 = check_time(t, self.sde.T).to(x.device)
        align(t64, x)  # refuses a t that is neither one time nor one per sample
        convention = self.convention(t64)
        value = self.network_time(convention.time_value).expand(x.shape[0])
        scaled = x if self.input_scaling == "none" else align(convention.input_scale.to(x), x) * x
        return scaled.to(self.dtype), value, t64, convention

    def predict(self, kind: str, x: Tensor, t: Time, label: Tensor | None = None) -> Tensor:
        """The prediction at ``x = x_t``, converted to ``kind``, like ``x``.

        Parameters
        ----------
        kind : str
            ``"score"``, ``"epsilon"``, ``"x0"`` or ``"v"``.
        x : Tensor
            ``(B, *E)``.
        t : float or Tensor
            ``()`` or ``(B,)``, in [0, T]; σ_t > 0.
        label : Tensor, optional
            ``(B,)`` int64, handed to the network.

        Raises
        ------
        ShapeError, TimeError, IncompatibleError
            A bad state, time (σ_t = 0 where the conversion needs it not to be) or kind; or the
            network's output does not fit.
        """
        given, value, t64, convention = self._given(x, t)
        y = call_net(self.net, given, value, label).to(x.dtype)
        alpha_t, sigma_t = self.sde.marginal(t64)
        if kind == self.prediction:
            return y
        u, w = conversion(alpha_t, sigma_t, convention.pair, pair(kind, alpha_t, sigma_t))
        if not bool((u + w).isfinite().all()):
            raise TimeError(
                f"expected t with sigma_t > 0 to get {kind} from {self.prediction}, got t down to "
                f"{t64.min().item():g}"
            )
        return combine(x, y, u, w)

    def forward(self, x: Tensor, t: Time, label: Tensor | None = None) -> Tensor:
        r"""The score :math:`\nabla_x \log p_t(x)`, like ``x``; see :meth:`predict`."""
        return self.predict("score", x, t, label)

    @property
    def has_log_density(self) -> bool:
        """Whether the network is an energy's gradient, so that :meth:`log_density` works."""
        return callable(getattr(self.net, "log_density", None))

    def log_density(self, x: Tensor, t: Time, label: Tensor | None = None) -> Tensor:
        r"""``log p_t(x)`` up to a constant in ``x``, for a network that is an energy's gradient.

        With the score :math:`u x + w \nabla f(k x)`, ``u, w`` those of the convention and k its
        input scaling, this is :math:`\tfrac u2 \|x\|^2 + \tfrac wk f(k x)`.

        Parameters
        ----------
        x : Tensor
            ``(B, *E)``.
        t : float or Tensor
            ``()`` or ``(B,)``, in [0, T]; σ_t > 0.
        label : Tensor, optional
            ``(B,)`` int64, handed to the network.

        Returns
        -------
        Tensor
            ``(B,)``, in x's precision or, where it is higher, the energy's.

        Raises
        ------
        IncompatibleError
            The network is not a :class:`sdescore.EnergyModel`.
        ShapeError, TimeError
            As :meth:`predict`.
        """
        if not self.has_log_density:
            raise IncompatibleError(
                f"expected ScoreModel(EnergyModel(net), …) to have a log density, got "
                f"{type(self.net).__name__}, whose output need not be a gradient"
            )
        given, value, t64, convention = self._given(x, t)
        energy: Any = self.net
        f: Tensor = energy.log_density(given, value, label)
        f = f.to(torch.promote_types(f.dtype, x.dtype))
        alpha_t, sigma_t = self.sde.marginal(t64)
        u, w = conversion(alpha_t, sigma_t, convention.pair, pair("score", alpha_t, sigma_t))
        w = w / convention.input_scale
        return combine(0.5 * sum_event(x.square()), f, u, w)

    def denoise(self, x: Tensor, t: Time, label: Tensor | None = None) -> Tensor:
        """``E[x_0 | x_t = x]``, like ``x``; see :meth:`predict`."""
        return self.predict("x0", x, t, label)

    def epsilon(self, x: Tensor, t: Time, label: Tensor | None = None) -> Tensor:
        """``E[ε | x_t = x]``, like ``x``; see :meth:`predict`."""
        return self.predict("epsilon", x, t, label)

    def under(self, sde: LinearSDE) -> ScoreModel:
        """The same network as a model under another linear SDE; see :mod:`sdescore.score.under`.

        Raises
        ------
        IncompatibleError
            ``sde`` is not linear, or this is a subclass with a score of its own, which
            :func:`sdescore.under` takes.
        """
        from sdescore.score.under import UnderModel

        if not folds(self):
            raise IncompatibleError(
                f"expected a ScoreModel whose score is its network's, got {type(self).__name__}, "
                "which overrides it; use under(model, sde)"
            )
        return self if sde == self.sde else UnderModel(self, sde)


def folds(model: object) -> TypeGuard[ScoreModel]:
    """Whether a model's numbers can stand in for calling it: a plain :class:`ScoreModel`.

    A subclass that changes what the score is must be called.
    """
    return (
        isinstance(model, ScoreModel)
        and type(model).forward is ScoreModel.forward
        and type(model).predict is ScoreModel.predict
    )


def call_net(net: nn.Module, x: Tensor, time_value: Tensor, label: Tensor | None) -> Tensor:
    """The network's raw output at ``x``, refused unless it is a tensor of ``x``'s shape.

    Raises
    ------
    IncompatibleError
        The network returned something else than a tensor.
    ShapeError
        The network returned another shape.
    """
    y = net(x, time_value) if label is None else net(x, time_value, label)
    if not isinstance(y, Tensor):
        raise IncompatibleError(
            f"expected the network to return a tensor, got {type(y).__name__}; wrap it, e.g. "
            "lambda x, c: net(x, c).sample"
        )
    if y.shape != x.shape:
        raise ShapeError(
            f"expected the network to return its input's shape {tuple(x.shape)}, got "
            f"{tuple(y.shape)}"
        )
    return y
