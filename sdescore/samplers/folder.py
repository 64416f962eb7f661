"""A request drawn to a folder by one process or many; it can be resumed."""

from __future__ import annotations

import json
import math
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import CheckpointError
from sdescore.files import replacing
from sdescore.samplers.chunks import Sampler
from sdescore.samplers.description import described
from sdescore.samplers.ranks import all_ranks, bar
from sdescore.typing import Condition, Score

__all__ = ["sample_to_folder"]

MANIFEST = "samples.json"


def sample_to_folder(
    sampler: Sampler,
    model: Score,
    shape: tuple[int, ...],
    out: str | os.PathLike[str],
    *,
    shard_size: int | None = None,
    seed: int = 0,
    init: Tensor | None = None,
    label: Condition | None = None,
    max_batch: int | None = None,
    progress: bool = False,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> list[Path]:
    """Write the samples of ``sampler.sample`` to a folder; continue where an earlier run ended.

    The samples are in shards, ``.npy`` files that are named by their first sample, so that their
    sorted names are in order. A shard gets its name when it is complete. ``samples.json`` in the
    folder describes the request; a folder with the samples of another request is refused. Under a
    process group all ranks call it with the same arguments, as in :func:`sample_distributed`, and
    with one folder. The number of ranks may differ from run to run.

    Parameters
    ----------
    sampler : PredictorCorrector, AdaptiveSampler or ProbabilityFlow
        How to sample.
    shape : tuple of int
        ``(B, *E)``.
    out : path
        The folder; made where there is none.
    shard_size : int, optional
        Samples of a shard, >= 1, which a process holds in memory; by default max(B/64, 256), but at
        most 2²⁴ numbers.
    max_batch : int, optional
        The most samples that a process draws at a time, >= 1; by default a shard.
    progress : bool
        Whether rank 0 shows a progress bar of the samples that are missing.
    model, seed, init, label, dtype, device
        As in :meth:`PredictorCorrector.sample`.

    Returns
    -------
    list of Path
        All shards in the order of the samples, on each rank.

    Raises
    ------
    CheckpointError
        The folder holds other samples or a damaged shard, or cannot be written.
    IncompatibleError
        The ranks ask for different samples, have models with different weights, or pass different
        folders.
    RankError
        Another rank failed, and raises its own error; or another rank was killed.
    ShapeError, ParameterError, TimeError, DivergenceError
        As in :meth:`PredictorCorrector.sample`; the shards before are kept.

    Examples
    --------
    >>> import numpy, tempfile, torch, sdescore as ss
    >>> sampler = ss.PredictorCorrector(ss.VPSDE(), steps=5)
    >>> score = ss.GaussianScore(torch.zeros(2), 0.5, sampler.sde)
    >>> folder = tempfile.mkdtemp()
    >>> shards = ss.samplers.sample_to_folder(sampler, score, (1000, 2), folder, shard_size=400)
    >>> [shard.name for shard in shards]
    ['samples-000000000000.npy', 'samples-000000000400.npy', 'samples-000000000800.npy']
    >>> x = numpy.concatenate([numpy.load(shard) for shard in shards])
    >>> torch.equal(torch.from_numpy(x), sampler.sample(score, (1000, 2)))
    True
    """
    with all_ranks() as ranks:

        def request() -> dict[str, Any]:
            found = described(sampler, model, shape, seed, init, label, dtype)
            B, *event = found["shape"]
            usual = min(max(256, -(-B // 64)), max(1, 2**24 // max(1, math.prod(event))))
            checks.flag("progress", progress)
            size = usual if shard_size is None else checks.count("shard_size", shard_size)
            return found | {"shard_size": size, "out": str(checks.path(out, "out"))}

        manifest = ranks.require_equal(request)
        folder, B, size = Path(manifest.pop("out")), manifest["shape"][0], manifest["shard_size"]
        shards = {
            folder / f"samples-{first:012}.npy": range(B)[first : first + size]
            for first in range(0, B, size)
        }
        draw = partial(sampler.sample, model, shape, seed=seed, init=init, label=label)
        draw = partial(draw, max_batch=max_batch, dtype=dtype, device=device)

        def write(paths: list[Path]) -> None:
            for path in paths:
                x = draw(samples=shards[path]).cpu().numpy()
                with replacing(path) as file:
                    numpy.save(file, x)

        first = ranks.rank == 0
        missing = ranks.agree(lambda: begun(folder, manifest, shards) if first else [])[0]
        rounds = [missing[i : i + ranks.size] for i in range(0, len(missing), ranks.size)]
        try:
            with bar(progress and first, sum(len(shards[path]) for path in missing)) as tick:
                for paths in rounds:
                    ranks.agree(partial(write, paths[ranks.rank :][:1]))
                    tick(sum(len(shards[path]) for path in paths))
        except BaseException:
            # A request that was refused leaves no folder that refuses its correction.
            if first and not any(path.exists() for path in shards):
                (folder / MANIFEST).unlink(missing_ok=True)
            raise
        return list(shards)


def begun(folder: Path, manifest: dict[str, Any], shards: dict[Path, range]) -> list[Path]:
    """The shards that a folder lacks. A new one gets its manifest, one of others is refused."""
    path, expected = folder / MANIFEST, f"{folder} to be new, or a folder of these samples"
    if path.exists():
        try:
            other = json.loads(path.read_text(encoding="utf-8"))
            different = [key for key in manifest if other.get(key) != manifest[key]]
        except (ValueError, AttributeError):
            checks.refuse(expected, f"a damaged {MANIFEST}", CheckpointError)
        if different:
            key = different[0]
            got = f"one of others, by {key}: {other.get(key)!r:.200}, not {manifest[key]!r:.200}"
            checks.refuse(expected, got, CheckpointError)
    else:
        found = sorted(folder.glob("samples-*.npy"))
        checks.that(not found, expected, f"shards without {MANIFEST}", CheckpointError)
        with replacing(path) as file:
            file.write(json.dumps(manifest, indent=1).encode())
    for shard, rows in shards.items():
        if shard.exists():
            require_shard(shard, (len(rows), *manifest["shape"][1:]), manifest["dtype"])
    return [shard for shard in shards if not shard.exists()]


def require_shard(path: Path, shape: tuple[int, ...], dtype: str) -> None:
    """Refuse a file that does not hold such numbers; they are not read."""
    try:
        x = numpy.load(path, mmap_mode="r")
        fits = x.shape == shape and str(x.dtype) == dtype
    except (ValueError, OSError, EOFError):
        fits = False
    expected = f"{path} to hold {dtype} numbers of shape {shape}"
    checks.that(fits, expected, "a damaged file; remove it, and it is drawn again", CheckpointError)
