"""Three targets whose diffused scores are exact: Gaussian mixtures in 2, 10 and 64 dimensions.

A target is in the units of its data: nothing is centred or scaled. Standard deviations are those of
a component along its principal axes.

=============  ==  ==========  ===========  ====================================================
name           d   components  stds         what it asks of a sampler
=============  ==  ==========  ===========  ====================================================
ring           2   8           0.2          modes far apart (radius 4), none to be lost
anisotropic    10  5           0.03 … 1     stiffness: wide and narrow in one component
digits         64  10          0.05 … 1.8   a fit of real 8×8 digits: many narrow directions
=============  ==  ==========  ===========  ====================================================

Three more, HELD_OUT, were written down after the form of the objective was settled. They are not
untouched: they were run three times, their earlier figures were known when the price on squared
weights was dropped, and ``uneven`` was tried before weights were left free at every N.

=============  ==  ==========  ===========  ====================================================
helix          3   24          0.08         many narrow modes in a row, weights from 1 to 5
uneven         20  12          0.05 … 1.5   weights, scales and axes all at random
patches        64  20          0.03 … 2     a fit of 8×8 pieces of photographs
=============  ==  ==========  ===========  ====================================================
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

import sdescore as ss
from sdescore.datasets import digits


@dataclass(frozen=True, eq=False)
class Target:
    """A mixture of Gaussians: ``weights (K,)``, ``means (K, d)``, ``covariances (K, d, d)``."""

    title: str
    weights: Tensor
    means: Tensor
    covariances: Tensor

    @property
    def dim(self) -> int:
        return self.means.shape[1]

    def score(self, sde: ss.LinearSDE) -> ss.MixtureScore:
        """The exact score under an SDE."""
        return ss.MixtureScore(self.weights, self.means, self.covariances, sde)

    @functools.cached_property
    def _clean(self) -> ss.MixtureScore:
        return self.score(ss.VPSDE())  # α(0) = 1, σ(0) = 0: at t = 0 it is the data

    def sample(self, n: int, seed: int) -> Tensor:
        """``n`` exact draws, ``(n, d)`` float64."""
        return self._clean.sample(n, seed=seed, dtype=torch.float64)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density of the data in nats, ``(n,)`` float64."""
        return self._clean.log_prob(x.double(), 0.0)


def ring() -> Target:
    """Eight equal modes of std 0.2 on a circle of radius 4, as ``datasets.ring``."""
    angle = torch.arange(8, dtype=torch.float64) * (2 * math.pi / 8)
    means = 4 * torch.stack([angle.cos(), angle.sin()], 1)
    covariances = (0.2**2 * torch.eye(2, dtype=torch.float64)).expand(8, 2, 2)
    title = "ring of 8 modes (radius 4, std 0.2), 2-D"
    return Target(title, torch.full((8,), 1 / 8, dtype=torch.float64), means, covariances)


def anisotropic() -> Target:
    """Five equal modes in 10-D, means N(0, I), stds log-spaced in [0.03, 1], axes at random."""
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(5, 10, 11, generator=generator, dtype=torch.float64)
    axes = torch.linalg.qr(normal[..., :10]).Q
    stds = torch.logspace(math.log10(0.03), 0, 10, dtype=torch.float64)
    covariances = axes @ torch.diag(stds.square()) @ axes.transpose(1, 2)
    covariances = (covariances + covariances.transpose(1, 2)) / 2
    title = "anisotropic mixture of 5 modes (stds 0.03 to 1), 10-D"
    weights = torch.full((5,), 1 / 5, dtype=torch.float64)
    return Target(title, weights, normal[..., 10], covariances)


@functools.cache
def digit_mixture() -> Target:
    """Ten full covariances fitted to the 1797 digits of 8×8 pixels in [-1, 1].

    EM from one seeded start; ``reg_covar`` adds 0.05² to every variance, so the pixels that are
    black in all digits have std 0.05 and every covariance is well conditioned.
    """
    from sklearn.mixture import GaussianMixture

    pixels = digits().flatten(1).double().numpy()
    model = GaussianMixture(10, covariance_type="full", reg_covar=0.05**2, random_state=0)
    fit = model.fit(pixels)
    weights, means, covariances = map(
        torch.from_numpy, (fit.weights_, fit.means_, fit.covariances_)
    )
    title = "10-component mixture fitted to the 8×8 digits, 64-D"
    return Target(title, weights, means, covariances)


def helix() -> Target:
    """24 modes of std 0.08 on two turns of radius 1 and rise 3, weights growing from 1 to 5."""
    s = torch.linspace(0, 1, 24, dtype=torch.float64)
    means = torch.stack([(4 * math.pi * s).cos(), (4 * math.pi * s).sin(), 3 * (s - 0.5)], 1)
    weights = torch.linspace(1, 5, 24, dtype=torch.float64)
    covariances = (0.08**2 * torch.eye(3, dtype=torch.float64)).expand(24, 3, 3)
    title = "helix of 24 modes (std 0.08), 3-D"
    return Target(title, weights / weights.sum(), means, covariances)


def uneven() -> Target:
    """Twelve modes in 20-D: means N(0, I), log-uniform stds, random axes, uneven weights."""
    generator = torch.Generator().manual_seed(20)
    normal = torch.randn(12, 20, 21, generator=generator, dtype=torch.float64)
    uniform = torch.rand(12, 21, generator=generator, dtype=torch.float64)
    axes = torch.linalg.qr(normal[..., :20]).Q
    stds = (math.log(0.05) + uniform[:, :20] * math.log(1.5 / 0.05)).exp()
    covariances = axes @ torch.diag_embed(stds.square()) @ axes.mT
    weights = uniform[:, 20] + 0.1
    title = "uneven mixture of 12 modes (stds 0.05 to 1.5), 20-D"
    covariances = (covariances + covariances.mT) / 2
    return Target(title, weights / weights.sum(), normal[..., 20], covariances)


@functools.cache
def patches() -> Target:
    """Twenty full covariances fitted to 8×8 pieces of scikit-image's photographs in [-1, 1]."""
    from skimage import color, data
    from sklearn.mixture import GaussianMixture

    images = [data.camera() / 255, *(color.rgb2gray(f()) for f in (data.astronaut, data.coffee))]
    pieces = [torch.from_numpy(i).unfold(0, 8, 8).unfold(1, 8, 8).reshape(-1, 64) for i in images]
    pixels = 2 * torch.cat(pieces).double() - 1
    model = GaussianMixture(20, covariance_type="full", reg_covar=0.03**2, random_state=0)
    fit = model.fit(pixels.numpy())
    weights, means, covariances = map(
        torch.from_numpy, (fit.weights_, fit.means_, fit.covariances_)
    )
    title = "20-component mixture fitted to 8×8 pieces of photographs, 64-D"
    return Target(title, weights, means, covariances)


HELD_OUT = {"helix": helix, "uneven": uneven, "patches": patches}
TARGETS = {"ring": ring, "anisotropic": anisotropic, "digits": digit_mixture}
