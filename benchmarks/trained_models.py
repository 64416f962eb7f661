"""What trained.py samples from: a trained model, the digits it saw and others, and a judge."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import mnist
import torch
from features import features, load_network
from targets import digit_mixture
from torch import Tensor

import sdescore as ss
from sdescore.datasets import digits
from sdescore.demo.recipes import digit_model
from sdescore.metrics import sliced_wasserstein
from sdescore.metrics.frechet import frechet_distance

RESULTS = Path(__file__).resolve().parent / "results"
OUT, MNIST = Path("out/trained"), Path("out/mnist")
SEED = 0


@dataclass(frozen=True)
class Subject:
    """A trained model, the digits that it saw and others, and how its samples are judged.

    ``reference`` is what another run's sampler reads, ``exact`` a score without a network's error.
    """

    title: str
    model: ss.ScoreModel
    checkpoint: str
    seen: Tensor
    held: Tensor
    judge: Judge
    samples: int
    reference: dict[str, Any] | None = None
    exact: Callable[[Tensor, Tensor], Tensor] | None = None


def digits_subject(
    recipe: str = "vp", title: str = "DDPM, 8×8 digits", file: str = "digits.safetensors"
) -> Subject:
    """A model of 1200 of the 8×8 digits, trained where out/trained has none."""
    images = digits()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(SEED))
    seen, held = images[order[:1200]], images[order[1200:]]
    path = OUT / file
    if not path.exists():
        train_digits(seen, path, recipe)
    judge = Judge(lambda x: x, seen, held, 400)
    made = subject(title, path, seen, held, judge, 1200)
    exact = digit_mixture().score(made.model.sde)
    return replace(made, exact=lambda x, t: exact(x.flatten(1), t).reshape(x.shape))


def train_digits(seen: Tensor, path: Path, recipe: str = "vp", steps: int = 1600) -> None:
    """The demonstration's recipe."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    ss.train(
        digit_model(recipe),
        seen,
        steps=steps,
        batch_size=128,
        lr=2e-3,
        ema_decay=0.998,
        seed=SEED,
        standardize=False,
        progress=False,
        path=path,
        info={"event_shape": [1, 8, 8], "data": f"{len(seen)} of scikit-learn's 8×8 digits"},
    )


def mnist_subject(name: str) -> Subject:
    """One of mnist.py's, and what its own sampler reads there."""
    path = MNIST / f"{name}.safetensors"
    if not path.exists():
        raise SystemExit(f"expected {path}; python benchmarks/mnist.py makes it in half an hour")
    seen, _, held = mnist.split(SEED)
    network = load_network().to(memory_format=torch.channels_last)
    judge = Judge(lambda x: features(network, x, batch=25), seen, held, 1000)
    saved = json.loads((RESULTS / "mnist-cpu.json").read_text())["models"][name]
    reference = {
        "title": saved["title"],
        "evaluations": saved["sampling"]["evaluations"],
        "fd": saved["fd"]["in_floors"],
        "w2": saved["sliced_w2"]["in_floors"],
    }
    title = f"{name.upper()}, 28×28 digits"
    return subject(title, path, seen, held, judge, 1000, reference)


def subject(title: str, path: Path, *rest: Any) -> Subject:
    """With the checkpoint at ``path``."""
    model = ss.load(path)
    model.net.to(memory_format=torch.channels_last)  # half as fast again on a CPU
    return Subject(title, model, hashlib.sha256(path.read_bytes()).hexdigest(), *rest)


SUBJECTS: dict[str, Callable[[], Subject]] = {
    "digits": digits_subject,
    "ddpm": lambda: mnist_subject("ddpm"),
    "ncsn": lambda: mnist_subject("ncsn"),
    "cosine": lambda: digits_subject(
        "cosine", "v, cosine schedule, 8×8 digits", "cosine.safetensors"
    ),
}


def first_error(model: ss.ScoreModel, data: Tensor, count: int = 400) -> float:
    """Root mean square error of the network's ε at T, over ``count`` of the data.

    Its measure is the Gaussian of the data's mean and covariance: of their shape nothing else is
    left there.
    """
    sde, flat = model.sde, data.flatten(1).double()
    alpha, sigma = (value.item() for value in sde.marginal(torch.tensor(sde.T).double()))
    mean, covariance = flat.mean(0), torch.cov(flat.T)
    noise = torch.randn(data[:count].shape, generator=torch.Generator().manual_seed(SEED))
    x = alpha * data[:count] + sigma * noise
    noisy = covariance + (sigma / alpha) ** 2 * torch.eye(len(covariance)).double()
    shrunk = torch.linalg.solve(noisy, covariance)  # C and C + (σ/α)² I commute
    x0 = mean + (x.flatten(1).double() / alpha - mean) @ shrunk
    denoised = torch.cat([model.denoise(part, sde.T) for part in x.split(100)])
    off = (denoised.flatten(1).double() - x0).square().mean().sqrt()
    return off.item() * alpha / sigma


class Judge:
    """Sets samples against held-out data, a part of ``size`` at a time."""

    def __init__(
        self, embed: Callable[[Tensor], Tensor], seen: Tensor, held: Tensor, size: int
    ) -> None:
        self.embed, self.held, self.size = embed, held, size
        self.held_embedded = embed(held)
        found = self._of_parts(seen)
        self.floors = {
            key: {"mean": fmean(values), "std": stdev(values), "parts": len(values)}
            for key, values in found.items()
        }

    def _of_parts(self, x: Tensor) -> dict[str, list[float]]:
        parts = [part for part in x.split(self.size) if len(part) == self.size]
        return {
            "fd": [frechet_distance(self.embed(part), self.held_embedded) for part in parts],
            "w2": [sliced_wasserstein(part, self.held) for part in parts],
        }

    def __call__(self, x: Tensor) -> dict[str, float | None]:
        """FD and W2 relative to real against real, None where a sample is not finite."""
        if not bool(x.isfinite().all()):
            return {"fd": None, "w2": None}
        found = self._of_parts(x)
        return {key: fmean(values) / self.floors[key]["mean"] for key, values in found.items()}
