"""The scale of a data set: measured before the first step, set in the model, or warned about.

At most 10,000 samples of a tensor or an array are looked at, and some 1,000 of a Dataset or a
stream: in floating point and transformed, as training sees them.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from sdescore import checks
from sdescore.checkpoint.manifest import get, read_scale
from sdescore.checkpoint.store import read_manifest
from sdescore.noise.torch_global import borrowed_generator, step_seed
from sdescore.score.model import ScoreModel
from sdescore.score.scale import DataScale
from sdescore.training.data import Batch, Source
from sdescore.training.guards import Recipe

USUAL_STD, USUAL_MEAN = (0.2, 5.0), 2.0  # of states; the mean in standard deviations
SPREAD = 1e-12  # of the mean: less is rounding, and a feature without spread


def standardise(
    model: ScoreModel,
    source: Source,
    transform: Callable[[Tensor], Tensor] | None,
    recipe: Recipe,
    device: torch.device,
    resumed: str | os.PathLike[str] | None,
) -> Tensor:
    """Give ``model`` the mean and standard deviation of its data, unless it has its own.

    A run that resumes has those of its file. States that are far from unit scale are warned about.
    Returns some samples ``(n, *E)``, as training sees them.
    """
    known = resumed is not None and os.path.exists(resumed)
    if resumed is not None and known and model.data_scale.plain:
        model.data_scale = read_scale(get(read_manifest(resumed), "convention", dict))

    def seen(batch: Batch) -> Tensor:
        x = batch.to(device).x
        x = x if transform is None else transform(x)
        checks.state(x, "what transform returns")
        return checks.finite_tensor("x0", x)

    generator = torch.Generator("cpu").manual_seed(step_seed(recipe.seed, 0, domain=2))
    with borrowed_generator(step_seed(recipe.seed, 0, domain=1), device):
        batches = source.look(generator)
        first, found = seen(next(batches)), Moments()
        if known:
            return first
        found.add(model.from_data(first))
        for batch in batches:
            found.add(model.from_data(seen(batch)))
    c = model.convention
    unit = c.sigma_data if c is not None and c.input_scaling == "unit" else 1.0
    if recipe.standardize and model.data_scale.plain:
        model.data_scale = found.scale(unit)
    else:
        found.warn(unit)
    return first


class Moments:
    """Mean and variance of each feature or channel, in float64, block by block."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = self.squares = torch.zeros((), dtype=torch.float64, device="cpu")

    def add(self, x: Tensor) -> None:
        """Samples ``(n, *E)``; two means are merged as in Chan et al. 1979, eq. 2.1."""
        if x.numel() == 0:
            return
        features = x.shape[1] if x.ndim > 1 else 1
        block = x.detach().to("cpu", torch.float64).reshape(len(x), features, -1)
        variance, mean = torch.var_mean(block, dim=(0, 2), correction=0)
        n = block.numel() // features
        total, apart = self.count + n, mean - self.mean
        self.squares = self.squares + n * variance + apart.square() * (self.count * n / total)
        self.mean, self.count = self.mean + apart * (n / total), total

    def scale(self, unit: float) -> DataScale:
        """That of states with mean 0 and standard deviation ``unit``.

        Six digits: what the number of threads does to a sum is not among them.
        """
        if not self.count:
            return DataScale()
        means, stds = [], []
        for mean, square in zip(self.mean.tolist(), self.squares.tolist(), strict=True):
            std = math.sqrt(square / self.count)
            spread = std > max(SPREAD * abs(mean), 1e-30)
            digits = 5 - math.floor(math.log10(std)) if spread else 0
            means.append(round(mean, digits) if spread else float(f"{mean:.12g}"))
            stds.append(float(f"{std / unit:.6g}") if spread else 1.0)
        one = len(means) == 1
        return DataScale(means[0], stds[0]) if one else DataScale(tuple(means), tuple(stds))

    def warn(self, unit: float) -> None:
        """Say what to do about data for which no usual noise schedule is made."""
        mean = self.mean.mean().item()
        variance = (self.squares / max(1, self.count) + (self.mean - mean).square()).mean().item()
        std, (low, high) = math.sqrt(variance), USUAL_STD
        if std and not (low <= std / unit <= high and abs(mean) <= USUAL_MEAN * std):
            warnings.warn(
                f"expected data of mean near 0 and standard deviation near {unit:g}; got mean "
                f"{mean:.3g} and standard deviation {std:.3g}; train with standardize=True and a "
                "model without data_mean= and data_std=, or scale the data",
                RuntimeWarning,
                stacklevel=6,
            )
