r"""A network's convention, declared once.

:class:`ScoreModel` is the one place that knows what a network predicts, which time it is
given, how its input is scaled and in which precision it runs. Everything else sees a score.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sdescore import checks
from sdescore.conditions import in_dtype
from sdescore.errors import IncompatibleError, TimeError
from sdescore.score import interface
from sdescore.score.convention import Coefficients, Convention, DataScale, Numbers, data_range_of
from sdescore.score.hub import HubMethods
from sdescore.score.parameterization import combine
from sdescore.score.time_input import TimeFunction
from sdescore.sde.linear import LinearSDE
from sdescore.shapes import align, sum_event
from sdescore.typing import Condition, Time

__all__ = ["ScoreModel"]


class ScoreModel(HubMethods, interface.MeasuredByTraining, nn.Module):
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
        ``"F"`` (Karras et al. 2022, arXiv:2206.00364, eq. 7: :math:`D = c_{skip} x + c_{out} F`),
        see benchmarks/defaults.py; or a paper's own: ``"score"``, ``"epsilon"``, ``"x0"``,
        ``"v"`` (:math:`\alpha\epsilon - \sigma x_0`), ``"velocity"`` (:math:`\dot\alpha x_0 +
        \dot\sigma\epsilon`).
    time_input : str or callable, optional
        ``"t"``; ``"999t"`` (Song et al. 2021's code); ``"continuous_level"``, the index of a
        discrete SDE's level as a real number, for a network that embeds it by sines (DDPM,
        diffusers); ``"level"``, the same as an integer, for one that looks it up in a table (NCSN);
        ``"sigma"``, ``"log_sigma"``; ``"log_snr"``; ``"quarter_log_sigma"``, EDM's ¼ log(σ/α), the
        default for ``"F"`` (for others ``"t"``). Or a function of t, such as
        ``lambda t: 10 * t``, from float64 times to a tensor of their shape.
    input_scaling : str
        ``"none"``, or ``"unit"``: the network gets
        :math:`x/\sqrt{\alpha^2\sigma_{data}^2 + \sigma^2}`, EDM's :math:`c_{in}`, as for ``"F"``.
    sigma_data : float
        Standard deviation of the data, > 0; used by ``"F"`` and ``"unit"``.
    snap : bool
        Give a network of integer levels the nearest one at any other time, where it would be
        refused. ``model.convention.log_snr_change(times)`` says how far it is.
    label_required : bool, optional
        True: the network was trained with labels and never without, and a call without one is
        refused. None: it was trained without labels, and samplers refuse one. False: it takes both.
        :func:`sdescore.train` sets it, and a checkpoint keeps it.
    data_mean, data_std : float or sequence of float
        The model's states are standardised data, ``(x0 − data_mean)/data_std``. Each is one number,
        or one for each feature of a vector or channel of an image. Samplers return data; losses and
        likelihoods take data. ``x`` of ``model(x, t)``, ``init=`` and what ``iterate`` yields are
        states. :func:`sdescore.train` measures both.
    data_range : (float, float), optional
        Least and largest datum, for :func:`sdescore.guidance.clipped`; ``train`` sets it for bytes.

    Raises
    ------
    IncompatibleError
        An unknown option, an SDE without kernels, levels asked of a continuous SDE, or ``snap``
        without ``time_input="level"``.
    ParameterError
        A number or a flag out of its range.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sde = ss.VPSDE()
    >>> model = ss.ScoreModel(lambda x, c: torch.zeros_like(x), sde, prediction="x0")
    >>> score = model(torch.ones(1, 2), 1.0)  # −x/σ² for a network that always says x₀ = 0
    >>> bool(torch.allclose(score, torch.tensor(-1.0), atol=1e-3))
    True
    """

    def __init__(
        self,
        net: nn.Module,
        sde: LinearSDE,
        prediction: str = "F",
        time_input: str | TimeFunction | None = None,
        *,
        input_scaling: str = "none",
        sigma_data: float = 1.0,
        snap: bool = False,
        label_required: bool | None = False,
        data_mean: Numbers = 0.0,
        data_std: Numbers = 1.0,
        data_range: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.net = checks.function("net", net)
        self._convention = Convention(sde, prediction, time_input, input_scaling, sigma_data, snap)
        required = None if label_required is None else checks.flag("label_required", label_required)
        self.label_required = required
        self.data_scale = DataScale(data_mean, data_std)  # type: ignore[arg-type]
        self.data_range = None if data_range is None else data_range_of(data_range)

    @property
    def convention(self) -> Convention | None:
        """The network's convention, by which a sampler calls the network in the model's place.

        None in a subclass with a ``forward`` or ``predict`` of its own: such a model must be
        called, for its network alone does not say what the score is.
        """
        kind = type(self)
        plain = kind.forward is ScoreModel.forward and kind.predict is ScoreModel.predict
        return self._convention if plain else None

    @property
    def sde(self) -> LinearSDE:
        """The SDE of the states and times that the model is called with."""
        return self._convention.sde

    @property
    def prediction(self) -> str:
        """What the network predicts, under the SDE that it was trained on."""
        return self._convention.prediction

    @property
    def sigma_data(self) -> float:
        """Standard deviation of the data, in the units of the states."""
        return self._convention.sigma_data

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments that rebuild the model from its network and its SDE.

        Raises
        ------
        IncompatibleError
            The model is under another SDE than its network was trained on.
        """
        own, now = self._convention.trained_on, f"one under {type(self.sde).__name__}"
        expected = f"a ScoreModel on the SDE its network was trained on, {own!r:.200}"
        advice = "take model.under(model.convention.trained_on), and .under(sde) again later"
        checks.that(self.sde == own, expected, f"{now}; {advice}", IncompatibleError)
        return self._options()

    def _options(self) -> dict[str, Any]:
        names = ("prediction", "time_input", "input_scaling", "sigma_data", "snap")
        options = {name: getattr(self._convention, name) for name in names}
        scale = {"data_mean": self.data_scale.mean, "data_std": self.data_scale.std}
        own = {"label_required": self.label_required, "data_range": self.data_range}
        return {**options, **own, **scale}

    def extra_repr(self) -> str:
        """Shown inside the module's repr."""
        own = self._convention.trained_on
        shown: dict[str, Any] = {} if own == self.sde else {"trained_on": own}
        shown.update(self._options(), default_grid=self.sde.default_grid)
        if not isinstance(shown["time_input"], str):  # a function, whose repr is an address
            shown["time_input"] = checks.part_name(shown["time_input"])
        return ", ".join([repr(self.sde), *(f"{name}={value!r}" for name, value in shown.items())])

    @property
    def dtype(self) -> torch.dtype:
        """The network's dtype (float32 for a plain function)."""
        floating = (p.dtype for p in self.parameters() if p.is_floating_point())
        return next(floating, torch.float32)

    @property
    def device(self) -> torch.device:
        """The network's device (CPU for a plain function)."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    def from_data(self, x0: Tensor) -> Tensor:
        """Data ``(B, *E)`` as states at t = 0, ``(x0 − data_mean)/data_std``, at least float32.

        Raises
        ------
        ShapeError
            The event's first axis has another length than ``data_mean`` or ``data_std``.

        Examples
        --------
        >>> import torch, sdescore as ss
        >>> model = ss.ScoreModel(
        ...     ss.MLP(2), ss.VPSDE(), data_mean=[0.0, 50.0], data_std=[0.1, 10.0]
        ... )
        >>> model.from_data(torch.tensor([[0.2, 40.0]]))
        tensor([[ 2., -1.]])
        >>> model.to_data(torch.tensor([[2.0, -1.0]]))
        tensor([[ 0.2000, 40.0000]])
        """
        checks.state(x0, "x0")
        return x0 if self.data_scale.plain else self.data_scale.to_state(x0)

    def to_data(self, x: Tensor) -> Tensor:
        """States ``(B, *E)`` at t = 0 as data, the inverse of :meth:`from_data`; errors alike."""
        checks.state(x)
        return self.data_scale.to_data(x)

    def require_times(self, t: Tensor) -> None:
        """Refuse float64 times ``(n,)`` that the network does not cover, by a ``TimeError``."""
        self._convention.at(t)

    def require_label(self, label: object) -> None:
        """Refuse, by ``IncompatibleError``, a label that does not go with ``label_required``."""
        if label is None and not self.label_required:
            return
        interface.require_trained(self.net, label, self.label_required)
        ask = interface.require_label if self.convention else interface.require_arguments
        ask(self.net if self.convention else self, label)

    def _numbers(self, x: Tensor, t: Time) -> Coefficients:
        """The convention's numbers at ``t``, on the device of ``x``."""
        checks.state(x)
        t64 = checks.time(t, self.sde.T).to(checks.with_float64(x.device))
        align(t64, x)  # refuses a t that is neither one time nor one per sample
        return self._convention.at(t64)

    def _inputs(self, x: Tensor, numbers: Coefficients, label: object) -> tuple[Tensor, Tensor]:
        """What the network is given for ``x``: the scaled state, and one time value a sample."""
        if self.label_required is not False and (label is None) == bool(self.label_required):
            self.require_label(label)
        dtype, value, scale = self.dtype, numbers.time_value, numbers.input_scale.to(x)
        of_time = getattr(self.net, "time_dtype", dtype)  # half precision has few levels
        value = value.to(x.device, value.dtype if value.dtype == torch.int64 else of_time)
        if scale.ndim:
            scale = scale.reshape(-1, *(1,) * (x.ndim - 1))
        return (scale * x).to(dtype), value.expand(x.shape[0])

    def output_at(self, x: Tensor, numbers: Coefficients, label: Condition | None = None) -> Tensor:
        """The network's own output, like ``x`` ``(B, *E)``; errors as :meth:`predict`.

        ``numbers`` is ``convention.at(t)`` of float64 times ``()`` or ``(B,)`` on ``x``'s device.
        """
        scaled, value = self._inputs(x, numbers, label)
        conditions = () if label is None else (in_dtype(label, scaled.dtype),)
        try:
            y = self.net(scaled, value, *conditions)
        except TypeError:
            interface.require_label(self.net, label)  # it may take none
            raise
        return checks.score_output(y, scaled, "the network").to(x.dtype)

    def predict(self, kind: str, x: Tensor, t: Time, label: Condition | None = None) -> Tensor:
        """The prediction at ``x = x_t``, converted to ``kind``, like ``x``.

        Parameters
        ----------
        kind : str
            ``"score"``, ``"epsilon"``, ``"x0"`` or ``"v"``.
        x : Tensor
            ``(B, *E)``.
        t : float or Tensor
            ``()`` or ``(B,)``, in [0, T]; σ_t > 0.
        label : Tensor or dict, optional
            ``(B,)`` int64, ``(B, *C)``, or a dict of them; real numbers in the network's dtype.

        Raises
        ------
        ShapeError, TimeError, IncompatibleError
            The state, the time or the kind is bad (at σ_t = 0 some kinds do not exist), or the
            network's output does not fit.
        """
        numbers = self._numbers(x, t)
        y = self.output_at(x, numbers, label)
        own = self.sde == self._convention.trained_on and not self._convention.snap
        if kind == self.prediction and own:
            return y
        u, w = numbers.to(kind)
        if not bool((u + w).isfinite().all()):
            expected = f"t with alpha_t, sigma_t > 0 to get {kind} from {self.prediction}"
            checks.refuse(expected, f"{numbers.alpha.min():g}, {numbers.sigma.min():g}", TimeError)
        return combine(x, y, u, w)

    def forward(self, x: Tensor, t: Time, label: Condition | None = None) -> Tensor:
        r"""The score :math:`\nabla_x \log p_t(x)`, like ``x``; see :meth:`predict`."""
        return self.predict("score", x, t, label)

    @property
    def has_log_density(self) -> bool:
        """Whether the network is an energy's gradient, so that :meth:`log_density` works."""
        return callable(getattr(self.net, "log_density", None))

    def log_density(self, x: Tensor, t: Time, label: Condition | None = None) -> Tensor:
        r"""``log p_t(x)`` up to a constant in ``x``, for a network that is an energy's gradient.

        With the score :math:`u x + w \nabla f(k x)`, ``u, w`` those of the convention and k its
        input scaling, this is :math:`\tfrac u2 \|x\|^2 + \tfrac wk f(k x)`, ``(B,)`` in x's
        precision or, where it is higher, the energy's. Parameters are those of :meth:`predict`.

        Raises
        ------
        IncompatibleError
            The network is not a :class:`sdescore.EnergyModel`.
        ShapeError, TimeError
            As :meth:`predict`.
        """
        energy: Any = self.net
        expected = "ScoreModel(EnergyModel(net), …) to have a log density"
        got = f"{type(energy).__name__}, whose output need not be a gradient"
        checks.that(self.has_log_density, expected, got, IncompatibleError)
        numbers = self._numbers(x, t)
        scaled, value = self._inputs(x, numbers, label)
        f: Tensor = energy.log_density(scaled, value, in_dtype(label, scaled.dtype))  # type: ignore[arg-type]
        f = f.to(torch.promote_types(f.dtype, x.dtype))
        u, w = numbers.to("score")
        return combine(0.5 * sum_event(x.square()), f, u, w / numbers.input_scale)

    def denoise(self, x: Tensor, t: Time, label: Condition | None = None) -> Tensor:
        """``E[x_0 | x_t = x]``, like ``x``; see :meth:`predict`."""
        return self.predict("x0", x, t, label)

    def epsilon(self, x: Tensor, t: Time, label: Condition | None = None) -> Tensor:
        """``E[ε | x_t = x]``, like ``x``; see :meth:`predict`."""
        return self.predict("epsilon", x, t, label)

    def under(self, sde: LinearSDE) -> ScoreModel:
        """The same network as a model under another linear SDE.

        The network is shared, and so is what training measures of the data. The way back is
        ``model.under(model.convention.trained_on)``. The equations are those of
        :mod:`sdescore.score.same_log_snr`.

        Raises
        ------
        IncompatibleError
            ``sde`` is not linear, or this is a subclass with a ``forward`` or ``predict`` of its
            own: use :func:`sdescore.under` for it.
        """
        if self.convention is None:
            got = f"{type(self).__name__}, which overrides it; use under(model, sde)"
            checks.refuse("a ScoreModel whose score is its network's", got, IncompatibleError)
        if sde == self.sde:
            return self
        moved = copy.copy(self)
        moved._modules = dict(self._modules)  # its own, as PyTorch's replicas have
        moved._convention = self.convention.under(sde)
        return moved
