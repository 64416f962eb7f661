r"""How a network is told the time, and optionally the class.

A network sees a scalar ``c`` per sample, in whatever scale the user declared
(``t`` in ``[0, 1]``, a level in ``0 … 999``, ``log sigma``). A number enters a network
badly as it is; it is spread over sines and cosines first:

.. math::

    \gamma(c) = [\sin(\omega_k c),\ \cos(\omega_k c)]_k

The two embeddings differ only in the angular frequencies :math:`\omega_k`: a geometric
ladder over four decades (:class:`PositionalEmbedding`), or Gaussian draws
(:class:`FourierEmbedding`). A feature tells two times apart when
:math:`\omega_k |c - c'|` is of order one, and it is smooth over the range of ``c`` when
:math:`\omega_k` times that range is not much larger than a few turns. The scale sets both.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sdescore import checks
from sdescore.errors import IncompatibleError, ShapeError

__all__ = ["FourierEmbedding", "PositionalEmbedding", "TimeEmbedding"]

DECADES = 4.0  # between the fastest and the slowest positional feature
FOURIER_SEED = 0
DEFAULT_SCALES = {"positional": 30.0, "fourier": 1.0}


class TimeEmbedding(nn.Module):
    r"""Sines and cosines of ``c`` at fixed angular frequencies.

    Parameters
    ----------
    omega : Tensor
        ``(dim / 2,)`` angular frequencies :math:`\omega_k`, radians per unit of ``c``.
        They are a buffer: saved with the network, never trained.
    """

    omega: Tensor

    def __init__(self, omega: Tensor) -> None:
        super().__init__()
        self.register_buffer("omega", omega)

    def forward(self, c: Tensor) -> Tensor:
        """``(B,)`` → ``(B, dim)``, in the dtype of ``c`` and bounded by 1."""
        # The angle needs float32: in bfloat16 level 999 is 1000, and 100 * 0.3 is off by 0.1 rad.
        precision = torch.promote_types(c.dtype, torch.float32)
        angle = torch.outer(c.to(precision), self.omega.to(precision))
        return torch.cat([angle.sin(), angle.cos()], dim=1).to(c.dtype)


class PositionalEmbedding(TimeEmbedding):
    r"""Geometric frequencies, :math:`\omega_k = \mathrm{scale} \cdot 10^{-4 k / (K - 1)}`.

    The ladder of Vaswani et al. 2017, section 3.5, is ``scale=1`` and suits levels
    ``0 … 999``. Because it spans four decades it forgives a wrong scale.

    Parameters
    ----------
    dim : int
        Number of features ``2 K``; even.
    scale : float
        The fastest angular frequency. Times ``1 / scale`` apart are clearly distinct;
        the slowest feature turns by one radian over ``1e4 / scale``. Guidance:

        ======================================  ==============
        ``c``                                   ``scale``
        ======================================  ==============
        ``t`` in ``[0, 1]``                     30 … 1000
        ``log sigma`` or log-SNR, ``-20 … 20``  10 … 100
        level ``0 … 999``, or ``999 t``         1 … 30
        ======================================  ==============

        The default 30 serves all three.

    Raises
    ------
    ParameterError
        ``dim`` is not a positive even integer, or ``scale`` is not positive and finite.

    Examples
    --------
    >>> import torch
    >>> PositionalEmbedding(4, scale=1.0)(torch.tensor([0.0]))
    tensor([[0., 0., 1., 1.]])
    """

    def __init__(self, dim: int, scale: float = DEFAULT_SCALES["positional"]) -> None:
        count, scale = _check_frequencies(dim, scale)
        # Computed on the CPU, so that every device has the same frequencies.
        exponent = torch.linspace(0.0, -DECADES, count, dtype=torch.float64, device="cpu")
        super().__init__((scale * 10.0**exponent).to(torch.get_default_device(), torch.float32))


class FourierEmbedding(TimeEmbedding):
    r"""Gaussian frequencies, :math:`\omega_k = 2 \pi \, \mathrm{scale} \, n_k`, :math:`n_k` normal.

    Tancik et al. 2020, Eq. 5 with Gaussian frequencies and unit amplitudes; used for
    ``log sigma`` by Song et al. 2021.

    Parameters
    ----------
    dim : int
        Number of features; even.
    scale : float
        Standard deviation of the frequencies, in turns per unit of ``c``. All features
        share this one scale, so it must fit: about 1 to 4 turns over the range of ``c`` is smooth,
        16 resolves fine detail and wiggles more. Guidance:

        ======================================  ===============
        ``c``                                   ``scale``
        ======================================  ===============
        ``t`` in ``[0, 1]``                     1 … 4
        ``log sigma``, ``-7 … 5``               0.1 … 1
        level ``0 … 999``, or ``999 t``         0.001 … 0.004
        ======================================  ===============
    seed : int
        The frequencies are drawn once from this seed; the global generator is untouched.

    Raises
    ------
    ParameterError
        ``dim`` is not a positive even integer, or ``scale`` is not positive and finite.

    Examples
    --------
    >>> import torch
    >>> FourierEmbedding(64, scale=1.0)(torch.rand(5)).shape
    torch.Size([5, 64])
    """

    def __init__(
        self, dim: int, scale: float = DEFAULT_SCALES["fourier"], *, seed: int = FOURIER_SEED
    ) -> None:
        count, scale = _check_frequencies(dim, scale)
        generator = torch.Generator("cpu").manual_seed(checks.seed(seed))
        turns = torch.randn(count, generator=generator, dtype=torch.float64, device="cpu")
        omega = 2.0 * math.pi * scale * turns
        super().__init__(omega.to(torch.get_default_device(), torch.float32))


def _check_frequencies(dim: int, scale: float) -> tuple[int, float]:
    """The number of frequencies, half the features ``dim``, and their scale."""
    dim = checks.count("embedding_dim", dim)
    checks.that(
        dim % 2 == 0,
        "an even embedding_dim (a sine and a cosine per frequency)",
        f"{dim}; use {dim + 1}",
    )
    return dim // 2, checks.number("embedding_scale", scale, above=0)


KINDS: dict[str, type[PositionalEmbedding] | type[FourierEmbedding]] = {
    "positional": PositionalEmbedding,
    "fourier": FourierEmbedding,
}


class Conditioning(nn.Module):
    """Turn ``(c, label)`` into one vector per sample, and check both at the door.

    Parameters
    ----------
    embedding : {"positional", "fourier"}
        Which frequencies.
    dim : int
        Number of time features and width of the vector; even.
    scale : float or None
        Scale of the frequencies; None takes the embedding's default.
    classes : int or None
        Number of classes. The table has one row more: index ``classes`` is the null class,
        "no label", which classifier-free guidance needs (Ho & Salimans 2022, section 3.2).

    Attributes
    ----------
    dim, scale, classes
        The parameters as Python numbers; the scale is the one in use, never None.

    Raises
    ------
    ParameterError
        An argument lies outside its range.
    IncompatibleError
        An unknown embedding.
    """

    def __init__(
        self, embedding: str, dim: int, *, scale: float | None, classes: int | None
    ) -> None:
        super().__init__()
        checks.choice("embedding", embedding, sorted(KINDS))
        scale = DEFAULT_SCALES[embedding] if scale is None else scale
        self.time = KINDS[embedding](dim, scale)
        self.dim, self.scale = dim, scale = int(dim), float(scale)
        self.classes = None if classes is None else checks.count("classes", classes)
        self.mix = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        if self.classes is not None:
            self.label = nn.Embedding(self.classes + 1, dim)

    def forward(self, x: Tensor, c: Tensor, label: Tensor | None) -> Tensor:
        """The vector ``(B, dim)`` for a batch ``x``, after a last SiLU.

        Raises
        ------
        ShapeError
            ``x`` has another dtype than the weights; ``c`` or ``label`` has a wrong shape,
            dtype, device or range.
        IncompatibleError
            A label was given to a network built without ``classes``.
        """
        dtype = self.mix[0].weight.dtype
        if x.dtype != dtype:
            raise ShapeError(
                f"expected x in the network's dtype {dtype}, got {x.dtype}; cast one of them"
            )
        if not isinstance(c, Tensor) or not c.is_floating_point() or c.shape != x.shape[:1]:
            raise ShapeError(
                f"expected c, the time input, as a floating-point tensor of shape "
                f"({x.shape[0]},), got {_describe(c)}; expand one time with c.expand({x.shape[0]})"
            )
        vector = self.mix(self.time(c).to(dtype))
        if self.classes is None:
            if label is not None:
                raise IncompatibleError(
                    "expected no label, because the network was built with classes=None; "
                    "build it with classes=<number of classes> to condition on labels"
                )
            return nn.functional.silu(vector)
        if label is None:
            label = torch.full_like(c, self.classes, dtype=torch.int64)
        else:
            _check_label(label, x, self.classes)
        return nn.functional.silu(vector + self.label(label))


def _check_label(label: Tensor, x: Tensor, classes: int) -> None:
    checks.label(label, len(x))
    expected = f"labels on {x.device} with values in 0 … {classes} ({classes} means no label)"
    checks.that(label.device == x.device, expected, f"{label.device}", ShapeError)
    # Reading values would break a traced graph, or a CUDA graph under capture.
    if torch.compiler.is_compiling() or (
        label.is_cuda and torch.cuda.is_current_stream_capturing()
    ):
        return
    if label.numel() and not 0 <= label.min().item() <= label.max().item() <= classes:
        found = f"values in {label.min().item()} … {label.max().item()}"
        checks.refuse(expected, f"{found}; relabel the classes", ShapeError)


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)} on {value.device}"
    return type(value).__name__
