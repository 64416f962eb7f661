"""What a training step takes from its number alone."""

from __future__ import annotations

import math


def step_seed(seed: int, step: int, domain: int = 0) -> int:
    """A generator's seed for one step; of 32 bits, all that a CPU generator looks at.

    Runs whose seeds are small numbers never share one within a million steps (Knuth's
    multiplicative hash spreads their starts); the domains sit half the range apart.
    """
    return (seed * 0x9E3779B1 + step + domain * 2**31) % 2**32


def learning_rate(step: int, steps: int, lr: float, schedule: str, warmup: int) -> float:
    """The rate of step 0 … steps − 1."""
    rise = min(1.0, (step + 1) / (warmup + 1))
    fall = 0.5 * (1 + math.cos(math.pi * step / steps)) if schedule == "cosine" else 1.0
    return lr * rise * fall
