"""What tells one data set from another: its shape, its dtype and a hash of its numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from torch import Tensor

from sdescore.checkpoint.container import raw_bytes

HASHED_WHOLE = 2**28  # bytes: up to here data are hashed in full
PARTS, PART = 256, 2**20  # of larger data: so many parts, of so many bytes


def fingerprint(data: Any, samples: Callable[[Any, int, int], Tensor]) -> dict[str, Any]:
    """Shape, dtype and SHA-256 of a data set ``(N, ...)``, as JSON.

    Up to 256 MiB every sample is hashed. Of a larger data set, 256 parts of at least 1 MiB are
    hashed, evenly from the first sample to the last. A change elsewhere is not seen.

    Parameters
    ----------
    data : Tensor or array
        ``(N, ...)``, N >= 1.
    samples : callable
        ``samples(data, start, stop)`` are some of them, as a tensor.
    """
    first = samples(data, 0, 1)
    digest, count, size = hashlib.sha256(), len(data), max(1, first.nbytes)
    length = min(count, max(1, PART // size))
    starts = list(range(0, count, length))
    if count * size > HASHED_WHOLE:
        starts = [place * (count - length) // (PARTS - 1) for place in range(PARTS)]
    for start in starts:
        digest.update(raw_bytes(samples(data, start, start + length)))
    dtype = str(first.dtype).removeprefix("torch.")
    return {"shape": list(data.shape), "dtype": dtype, "sha256": digest.hexdigest()}
