r"""What a sampler does to data, computed and not sampled.

On Gaussian data the score is linear, so a chain of tableaux maps Gaussians to Gaussians by known
numbers: :func:`gaussian_error` is the exact law of what a sampler draws.
"""

from __future__ import annotations

from sdescore.analysis.error import GaussianError, gaussian_error
from sdescore.analysis.optimal_grid.optimal import OptimalGrid, optimal_grid
from sdescore.analysis.optimal_grid.recommended import recommended_sampler
from sdescore.analysis.order import order
from sdescore.analysis.pca import local_spectra

__all__ = [
    "GaussianError",
    "OptimalGrid",
    "gaussian_error",
    "local_spectra",
    "optimal_grid",
    "order",
    "recommended_sampler",
]
