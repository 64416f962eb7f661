"""Operators on images and signals: mask, blur, down-sampling, colour to grey."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import ShapeError
from sdescore.inverse.operators import Constant, Diagonal, numbers

__all__ = ["Blur", "Downsample", "Grayscale", "Mask"]


def _one(value: float) -> Constant:
    return Constant(torch.tensor(value, dtype=torch.float64, device="cpu"))


class Mask(Diagonal):
    """Inpainting: the observed elements of an event, as a vector.

    Parameters
    ----------
    mask : Tensor
        ``(*E)`` bool, True where an element is observed. At least one element is True. ``*M`` is
        ``(n,)`` for n True elements, in the order of ``x[mask]``. The adjoint puts 0 at the others.

    Raises
    ------
    ShapeError
        The mask is not a tensor of bool, or has no True element.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> see = ss.inverse.Mask(torch.tensor([[True, False], [True, True]]))
    >>> see(torch.arange(4.0).reshape(1, 2, 2))
    tensor([[0., 2., 3.]])
    """

    def __init__(self, mask: Tensor) -> None:
        usable = isinstance(mask, Tensor) and mask.dtype == torch.bool
        usable = usable and bool(checks.dense("the mask", mask).any())
        got = f"{getattr(mask, 'dtype', type(mask).__name__)}"
        expected = "a mask of bool with an element that is seen; write values > 0"
        checks.that(usable, expected, got, ShapeError)
        pixels = mask.flatten().nonzero().flatten()
        super().__init__(tuple(mask.shape), (len(pixels),))
        self._pixels, self.eigenvalues = pixels.cpu(), _one(1.0)

    @classmethod
    def examples(cls) -> Sequence[Mask]:
        return [cls(torch.tensor([[1, 0, 1], [0, 1, 1]], dtype=torch.bool, device="cpu"))]

    def _apply(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, self._pixels.to(x.device)]

    def _adjoint(self, y: Tensor) -> Tensor:
        empty = y.new_zeros(len(y), math.prod(self.event_shape))
        return empty.index_add(1, self._pixels.to(y.device), y).reshape(-1, *self.event_shape)


class Blur(Diagonal):
    """Circular convolution of the last axes with a kernel, by the FFT.

    Parameters
    ----------
    kernel : Tensor
        ``(k,)`` for the last axis or ``(k, l)`` for the last two; element ``k // 2`` is its centre.
        It is no larger than the event.
    event_shape : tuple of int
        ``*E``; ``*M`` is the same.

    Raises
    ------
    ShapeError
        The kernel has another number of axes, or does not fit into the event.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> shift = ss.inverse.Blur(torch.tensor([0.0, 0.0, 1.0]), event_shape=(4,))
    >>> [round(v, 4) + 0.0 for v in shift(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))[0].tolist()]
    [4.0, 1.0, 2.0, 3.0]
    """

    def __init__(self, kernel: Tensor, event_shape: Sequence[int]) -> None:
        super().__init__(event_shape, event_shape)
        k = numbers("kernel", kernel, (1, 2), "(k,) or (k, l)")
        self._sizes = self.event_shape[-k.ndim :]
        fits = len(self._sizes) == k.ndim and all(
            n <= size for n, size in zip(k.shape, self._sizes, strict=True)
        )
        expected = f"a kernel no larger than the event {self.event_shape}"
        checks.that(fits, expected, tuple(k.shape), ShapeError)
        self._axes = tuple(range(-k.ndim, 0))
        padded = torch.zeros(self._sizes, dtype=torch.float64, device="cpu")
        padded[tuple(slice(n) for n in k.shape)] = k
        centred = padded.roll([-(n // 2) for n in k.shape], self._axes)
        spectrum = torch.fft.rfftn(centred, dim=self._axes)
        power = spectrum.abs().square()
        eps = torch.finfo(torch.float32).eps  # what rounding cannot tell from 0 is 0
        self._spectrum = Constant(spectrum)
        self.eigenvalues = Constant(torch.where(power > eps**2 * power.max(), power, 0.0))

    @classmethod
    def examples(cls) -> Sequence[Blur]:
        kernel = [[0.1, 0.3, 0.0], [0.2, 0.1, 0.4]]
        square = torch.tensor(kernel, dtype=torch.float64, device="cpu")
        return [cls(square, (2, 4, 5)), cls.gaussian(0.7, (2, 6), axes=1)]

    @classmethod
    def gaussian(cls, std: float, event_shape: Sequence[int], axes: int = 2) -> Blur:
        """A Gaussian kernel of standard deviation ``std`` > 0 in pixels, cut at 4 ``std``.

        It sums to 1; ``axes`` is 1 or 2.
        """
        std, axes = checks.number("std", std, above=0), checks.count("axes", axes, at_most=2)
        rows = []
        for size in checks.shape(event_shape, "event_shape", axes, 0)[-axes:]:
            radius = min(math.ceil(4 * std), (size - 1) // 2)
            place = torch.arange(-radius, radius + 1, device="cpu").double()
            row = torch.exp(-0.5 * (place / std).square())
            rows.append(row / row.sum())
        return cls(rows[0] if axes == 1 else torch.outer(*rows), event_shape)

    def _rotate(self, v: Tensor) -> Tensor:
        spectrum: Tensor = torch.fft.rfftn(v, dim=self._axes)
        return spectrum

    def _rotate_back(self, v: Tensor) -> Tensor:
        found: Tensor = torch.fft.irfftn(v, s=self._sizes, dim=self._axes)
        return found

    def _apply(self, x: Tensor) -> Tensor:
        return self._rotate_back(self._spectrum.like(x) * self._rotate(x))

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._rotate_back(self._spectrum.like(y).conj() * self._rotate(y))


class Downsample(Diagonal):
    """Super-resolution: the mean of each block of pixels.

    Parameters
    ----------
    factor : int or tuple of int
        The side of a block on the last two axes, or on the one axis of a vector. A tuple has one
        side for each of the last axes, such as ``(4,)`` for the last axis alone. Each side divides
        its axis.
    event_shape : tuple of int
        ``*E``.

    Raises
    ------
    ShapeError
        A factor is no positive integer or does not divide its axis.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> halve = ss.inverse.Downsample(2, event_shape=(4,))
    >>> halve(torch.tensor([[1.0, 2.0, 3.0, 5.0]])).tolist()
    [[1.5, 4.0]]
    """

    def __init__(self, factor: int | Sequence[int], event_shape: Sequence[int]) -> None:
        event = checks.shape(event_shape, "event_shape", 1, 0)
        sides = tuple(factor) if isinstance(factor, Sequence) else (factor,) * min(2, len(event))
        axes = event[len(event) - len(sides) :] if 0 < len(sides) <= len(event) else ()
        fits = len(axes) == len(sides) > 0 and all(
            checks.is_count(k) and k > 0 and n % k == 0 for k, n in zip(sides, axes, strict=True)
        )
        expected = f"factors that divide the last axes of {event}"
        checks.that(fits, expected, f"{factor!r:.100}", ShapeError)
        rest = event[: len(event) - len(sides)]
        blocks = tuple(n // k for n, k in zip(axes, sides, strict=True))
        super().__init__(event, (*rest, *blocks))
        pairs = zip(blocks, sides, strict=True)
        self._split = (*rest, *(size for pair in pairs for size in pair))
        self._inner = tuple(range(-2 * len(sides) + 1, 0, 2))  # the axes within a block
        self._numel = math.prod(sides)
        self.eigenvalues = _one(1 / self._numel)

    @classmethod
    def examples(cls) -> Sequence[Downsample]:
        return [cls(2, (2, 4, 6)), cls((3,), (2, 6))]

    def _apply(self, x: Tensor) -> Tensor:
        return x.reshape(-1, *self._split).mean(self._inner)

    def _adjoint(self, y: Tensor) -> Tensor:
        for axis in reversed(self._inner):
            y = y.unsqueeze(axis)
        return (y / self._numel).expand(-1, *self._split).reshape(-1, *self.event_shape)


class Grayscale(Diagonal):
    """Colorisation: a weighted sum of an image's channels.

    Parameters
    ----------
    event_shape : tuple of int
        ``(C, *rest)``; ``*M`` is ``(1, *rest)``.
    weights : sequence of float
        ``(C,)``. By default ITU-R BT.601's luma of red, green and blue.

    Raises
    ------
    ShapeError
        The number of weights is not the number of channels.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> grey = ss.inverse.Grayscale((3, 8, 8))
    >>> grey(torch.ones(1, 3, 8, 8)).shape
    torch.Size([1, 1, 8, 8])
    """

    def __init__(
        self, event_shape: Sequence[int], weights: Sequence[float] = (0.299, 0.587, 0.114)
    ) -> None:
        w = numbers("weights", weights, (1,), "(C,)")
        event = checks.shape(event_shape, "event_shape", 1, 0)
        expected = f"an event (C, *rest) of {len(w)} channels, as many as weights"
        checks.that(event[:1] == (len(w),), expected, event, ShapeError)
        super().__init__(event, (1, *event[1:]))
        self._weights = Constant(w.reshape(-1, *(1,) * (len(event) - 1)))
        self.eigenvalues = _one(w.square().sum().item())

    @classmethod
    def examples(cls) -> Sequence[Grayscale]:
        return [cls((3, 2, 2))]

    def _apply(self, x: Tensor) -> Tensor:
        return (self._weights.like(x) * x).sum(1, keepdim=True)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._weights.like(y) * y
