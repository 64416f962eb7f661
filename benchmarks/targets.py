"""Three laws whose diffused scores are exact: Gaussian mixtures in 2, 10 and 64 dimensions.

A law is in the units of its data: nothing is centred or scaled. Standard deviations are those of
a component along its principal axes.

=============  ==  ==========  ===========  ====================================================
name           d   components  stds         what it asks of a sampler
=============  ==  ==========  ===========  ====================================================
ring           2   8           0.2          modes far apart (radius 4), none to be lost
anisotropic    10  5           0.03 … 1     stiffness: wide and narrow in one component
digits         64  10          0.05 … 1.8   a fit of real 8×8 digits: many narrow directions
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
        return self.score(ss.VPSDE())  # α(0) = 1, σ(0) = 0: its law at t = 0 is the data's

    def sample(self, n: int, seed: int) -> Tensor:
        """``n`` exact draws, ``(n, d)`` float64."""
        return self._clean.sample(n, seed=seed, dtype=torch.float64)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density of the data in nats, ``(n,)`` float64."""
        return self._clean.log_prob(x.double(), 0.0)


def ring() -> Target:
    """Eight equal modes of std 0.2 on a circle of radius 4: the law of ``datasets.ring``."""
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


TARGETS = {"ring": ring, "anisotropic": anisotropic, "digits": digit_mixture}
