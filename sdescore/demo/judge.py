"""How good samples of digits are: distances relative to real digits, and a classifier's answers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sdescore import metrics
from sdescore.datasets import labelled_digits

__all__ = ["Judge"]


class Judge:
    """The real digits, the distances between them, and a classifier fitted on half of them.

    ``generated`` samples will be judged at a time, and the real distances are taken at that size.
    """

    def __init__(self, generated: int, seed: int) -> None:
        self.images, self.labels = labelled_digits()  # says what to install if it is missing
        from sklearn.neural_network import MLPClassifier

        size = min(generated, len(self.images) // 2)
        self.metrics: dict[str, Callable[[Tensor, Tensor], float]] = {
            "sliced_w2": metrics.sliced_wasserstein,
            "energy": metrics.energy_distance,
            "mmd": partial(metrics.mmd, bandwidth=metrics.median_bandwidth(self.images)),
        }
        self.real_distances = {
            name: metrics.noise_floor(metric, self.images, size=size, seed=seed)
            for name, metric in self.metrics.items()
        }
        between = torch.cdist(self.images.flatten(1), self.images.flatten(1))
        self.real_nearest = between.fill_diagonal_(torch.inf).amin(1).median().item()
        generator = torch.Generator("cpu").manual_seed(seed)
        order = torch.randperm(len(self.images), generator=generator, device="cpu")
        fitted, held_out = order[::2], order[1::2]
        self.classifier = MLPClassifier((64,), alpha=1e-2, max_iter=300, random_state=seed)
        pixels = self.images[fitted].flatten(1).numpy()
        self.classifier.fit(pixels, self.labels[fitted].numpy())
        probability = self._probability(self.images[held_out])
        distances = {
            name: {"mean": real.mean, "std": real.std, "sizes": real.size}
            for name, real in self.real_distances.items()
        }
        classified = {
            "images": len(held_out),
            "accuracy": (probability.argmax(1) == self.labels[held_out]).double().mean().item(),
            "confidence": probability.amax(1).mean().item(),
        }
        # What the judgements are relative to.
        self.report: dict[str, Any] = {
            "real_distances": distances,
            "classifier_on_held_out_digits": classified,
        }

    def _probability(self, images: Tensor) -> Tensor:
        return torch.from_numpy(self.classifier.predict_proba(images.flatten(1).numpy()))

    def agreement(self, samples: Tensor, labels: Tensor) -> float:
        """The share of ``samples`` that the classifier puts in the class of their label."""
        found = self._probability(samples.cpu()).argmax(1)
        return (found == labels.cpu()).double().mean().item()

    def __call__(self, samples: Tensor) -> dict[str, Any]:
        """Figures of quality of ``samples`` ``(n, 1, 8, 8)``.

        - each metric's distance to the real digits, and relative to that between real digits
        - the median distance to the nearest real digit, over that of a real digit to another; it
          is 0 for copies
        - how many samples the classifier puts in each class, and its mean confidence
        """
        samples = samples.cpu()
        verdict: dict[str, Any] = {}
        for name, metric in self.metrics.items():
            real = self.real_distances[name]
            distance = metrics.relative_to_floor(metric, samples, self.images, floor=real)
            verdict[name] = {"relative": distance.ratio, "value": distance.value}
        nearest = torch.cdist(samples.flatten(1), self.images.flatten(1)).amin(1)
        verdict["nearest_real"] = nearest.median().item() / self.real_nearest
        probability = self._probability(samples)
        counts = torch.bincount(probability.argmax(1), minlength=10)
        return verdict | {
            "class_counts": counts.tolist(),
            "classes": int((counts > 0).sum()),
            "confidence": probability.amax(1).mean().item(),
        }
