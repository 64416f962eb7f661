"""What a source of noise draws for a small chain."""

from __future__ import annotations

import torch

import sdescore as ss
from sdescore.noise.counter import Domain


def numbers(source: ss.noise.NoiseSource, domain: Domain) -> torch.Tensor:
    """Four draws ``(3, 2)`` of three samples: the start, two of a step in time, one without."""
    spans = [None, (1.0, 0.5), (0.5, 0.25), None]
    stream = source.open(
        range(2, 5), (3, 2), spans, dtype=torch.float32, device=torch.device("cpu"), domain=domain
    )
    return torch.stack([stream.draw(k).clone() for k in range(4)])
