r"""A residual perceptron for vectors, and how a network is told the time and the class.

Each block normalises, mixes, is scaled and shifted by the time embedding (FiLM, Perez et al.
2018, Eq. 2) and adds its output to the stream:

.. math::

    u &= W_1\, \mathrm{norm}(h) \\
    h &\leftarrow h + W_2\, \mathrm{silu}\big((1 + \gamma(c)) \odot u + \beta(c)\big)

The time is a scalar ``c`` per sample, in whatever scale the user declared (``t`` in ``[0, 1]``, a
level in ``0 … 999``, ``log sigma``). It is spread over sines and cosines,

.. math::

    [\sin(\omega_k c),\ \cos(\omega_k c)]_k ,

at a geometric ladder of angular frequencies :math:`\omega_k` over four decades
(:class:`PositionalEmbedding`), or at Gaussian draws (:class:`FourierEmbedding`). A feature tells
two times apart when :math:`\omega_k |c - c'|` is of order one, and it is smooth when
:math:`\omega_k` times the range of ``c`` is not much larger than a few turns.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from sdescore import checks
from sdescore.conditions import require_label_each
from sdescore.errors import IncompatibleError, ShapeError

__all__ = ["MLP", "FourierEmbedding", "PositionalEmbedding", "TimeEmbedding"]

DECADES = 4.0  # between the fastest and the slowest positional feature
FOURIER_SEED = 0
DEFAULT_SCALES = {"positional": 30.0, "fourier": 1.0}


class MLP(nn.Module):
    """A network for vector data ``(B, dim)``.

    Parameters
    ----------
    dim : int
        Dimension of the data.
    hidden : int
        Width of the stream and of the blocks.
    depth : int
        Number of residual blocks.
    embedding : {"positional", "fourier"}
        "positional" forgives any scale of ``c``; "fourier" wants one that is matched to ``c``.
    embedding_dim : int
        Number of time features; even.
    embedding_scale : float or None
        Scale of the frequencies; None is 30 for "positional", 1 for "fourier". For what suits
        which range of ``c`` see :class:`PositionalEmbedding` and :class:`FourierEmbedding`.
    classes : int or None
        Number of classes; None builds a network without labels.

    Attributes
    ----------
    config : dict[str, Any]
        JSON-able arguments; ``MLP(**net.config)`` builds the same architecture.

    Raises
    ------
    ParameterError
        An argument lies outside its range.
    IncompatibleError
        An unknown embedding.

    Examples
    --------
    >>> import torch
    >>> net = MLP(2, hidden=32)
    >>> net(torch.randn(5, 2), torch.rand(5)).shape
    torch.Size([5, 2])
    """

    config: dict[str, Any]

    def __init__(
        self,
        dim: int,
        hidden: int = 128,
        depth: int = 3,
        embedding: str = "positional",
        embedding_dim: int = 64,
        embedding_scale: float | None = None,
        classes: int | None = None,
    ) -> None:
        super().__init__()
        dim, hidden = checks.count("dim", dim), checks.count("hidden", hidden)
        depth = checks.count("depth", depth)
        self.condition = Conditioning(embedding, embedding_dim, embedding_scale, classes)
        self.config = {"dim": dim, "hidden": hidden, "depth": depth, **self.condition.config}
        self.first = nn.Linear(dim, hidden)
        self.blocks = nn.ModuleList(_Block(hidden, int(embedding_dim)) for _ in range(depth))
        self.norm = nn.LayerNorm(hidden)
        self.last = nn.Linear(hidden, dim)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, c: Tensor, label: Tensor | None = None) -> Tensor:
        """The network's output, shaped like ``x``.

        Parameters
        ----------
        x : Tensor
            ``(B, dim)``, in the network's dtype.
        c : Tensor
            ``(B,)`` time input, floating point.
        label : Tensor or None
            ``(B,)`` int64 in ``0 … classes``; None, or the value ``classes``, is "no label".

        Raises
        ------
        ShapeError
            A wrong shape, dtype, device or label value.
        IncompatibleError
            A label was given to a network built without ``classes``.
        """
        checks.state(x)
        if x.ndim != 2 or x.shape[1] != self.config["dim"]:
            raise ShapeError(
                f"expected x of shape (B, {self.config['dim']}), got {tuple(x.shape)}; "
                "reshape x, or build the network for its dimension"
            )
        vector = self.condition(x, c, label)
        h = self.first(x)
        for block in self.blocks:
            h = block(h, vector)
        y: Tensor = self.last(nn.functional.silu(self.norm(h)))
        return y


class _Block(nn.Module):
    def __init__(self, hidden: int, embedding_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.inner = nn.Linear(hidden, hidden)
        self.film = nn.Linear(embedding_dim, 2 * hidden)
        self.outer = nn.Linear(hidden, hidden)
        # The block starts as the identity.
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, h: Tensor, vector: Tensor) -> Tensor:
        scale, shift = self.film(vector).chunk(2, dim=1)
        branch: Tensor = self.outer(
            nn.functional.silu(torch.addcmul(shift, self.inner(self.norm(h)), 1.0 + scale))
        )
        return h + branch


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
        """``(B,)`` → ``(B, dim)`` in the dtype of ``c``."""
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
        the slowest feature turns by one radian over ``1e4 / scale``. The default serves all of

        ======================================  ==============
        ``c``                                   ``scale``
        ======================================  ==============
        ``t`` in ``[0, 1]``                     30 … 1000
        ``log sigma`` or log-SNR, ``-20 … 20``  10 … 100
        level ``0 … 999``, or ``999 t``         1 … 30
        ======================================  ==============

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
        As :class:`PositionalEmbedding`.

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
    expected = "an even embedding_dim (a sine and a cosine per frequency)"
    checks.that(dim % 2 == 0, expected, f"{dim}; use {dim + 1}")
    return dim // 2, checks.number("embedding_scale", scale, above=0)


KINDS: dict[str, type[PositionalEmbedding] | type[FourierEmbedding]] = {
    "positional": PositionalEmbedding,
    "fourier": FourierEmbedding,
}


class Conditioning(nn.Module):
    """``(c, label)`` as one vector ``(B, dim)``; both are checked here.

    The table of classes has one row more than there are classes: index ``classes`` means "no
    label", which classifier-free guidance needs (Ho & Salimans 2022, section 3.2). ``config``
    holds the arguments, with the scale that is in use.
    """

    def __init__(self, embedding: str, dim: int, scale: float | None, classes: int | None) -> None:
        super().__init__()
        checks.choice("embedding", embedding, sorted(KINDS))
        scale = DEFAULT_SCALES[embedding] if scale is None else scale
        self.time = KINDS[embedding](dim, scale)
        dim = int(dim)
        self.classes = None if classes is None else checks.count("classes", classes)
        self.mix = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        if self.classes is not None:
            self.label = nn.Embedding(self.classes + 1, dim)
        self.config = {
            "embedding": embedding,
            "embedding_dim": dim,
            "embedding_scale": float(scale),
            "classes": self.classes,
        }

    def forward(self, x: Tensor, c: Tensor, label: Tensor | None) -> Tensor:
        """The vector for a batch ``x``, after a last SiLU; errors as :meth:`MLP.forward`."""
        dtype = self.mix[0].weight.dtype
        if x.dtype != dtype:
            got = f"{x.dtype}; cast one of them"
            checks.refuse(f"x in the network's dtype {dtype}", got, ShapeError)
        if not isinstance(c, Tensor) or not c.is_floating_point() or c.shape != x.shape[:1]:
            got = type(c).__name__
            if isinstance(c, Tensor):
                got = f"{c.dtype} of shape {tuple(c.shape)} on {c.device}"
            expected = f"c, the time input, as a floating-point tensor of shape ({len(x)},)"
            advice = f"expand one time with c.expand({len(x)})"
            checks.refuse(expected, f"{got}; {advice}", ShapeError)
        vector = self.mix(self.time(c).to(dtype))
        if self.classes is None:
            if label is not None:
                expected = "no label, because the network was built with classes=None"
                advice = "build it with classes=<number of classes> to condition on labels"
                checks.refuse(expected, f"one; {advice}", IncompatibleError)
            return nn.functional.silu(vector)
        if label is None:
            label = torch.full_like(c, self.classes, dtype=torch.int64)
        else:
            check_label(label, x, self.classes)
        return nn.functional.silu(vector + self.label(label))


def check_label(label: Tensor, x: Tensor, classes: int) -> None:
    """Refuse labels that are not ``(B,)`` int64 in ``0 … classes``."""
    require_label_each(label, len(x), classes=True)
    expected = f"labels on {x.device} with values in 0 … {classes} ({classes} means no label)"
    checks.that(label.device == x.device, expected, f"{label.device}", ShapeError)
    # Reading values would break a traced graph, or a CUDA graph under capture.
    if torch.compiler.is_compiling() or not label.numel():
        return
    if label.is_cuda and torch.cuda.is_current_stream_capturing():
        return
    low, high = label.min().item(), label.max().item()
    if not 0 <= low <= high <= classes:
        checks.refuse(expected, f"values in {low} … {high}; relabel the classes", ShapeError)
