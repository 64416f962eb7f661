r"""A checkpoint as a folder, which many processes write at once, each its own part of the tensors.

``torch.distributed.checkpoint`` writes and reads the parts, which are safetensors files::

    large.dcp/step-2000/shard-00001-model-00001-of-00001.safetensors   one for each process
    large.dcp/step-2000/manifest.json                                  written last

``manifest.json`` holds the manifest, the name, shape and dtype of each tensor, and the SHA-256 of
each file. A step without it was cut short, and is not looked at. The newest whole step counts.
:func:`export` makes one file of it.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdescore import checks
from sdescore.checkpoint.container import BLOCK, CODES, Container, described, has_nan, write
from sdescore.checkpoint.manifest import from_json, to_json
from sdescore.errors import CheckpointError, IncompatibleError, MissingFileError, RankError
from sdescore.files import replacing

__all__ = ["export"]

SUFFIX, MANIFEST = ".dcp", "manifest.json"


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Whether a path names a folder of parts, which may not exist yet."""
    return Path(path).suffix == SUFFIX


def is_there(path: str | os.PathLike[str]) -> bool:
    """Whether there is a checkpoint to resume from."""
    return bool(whole_steps(Path(path))) if is_folder(path) else os.path.exists(path)


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Container | Folder]:
    """A checkpoint, open while the block runs; to call ``verify()`` is the caller's matter.

    A file stays the one opened, even if another is saved under its name meanwhile.
    """
    path = checks.path(path)
    if path.is_dir():
        foreign = (path / "model_index.json").exists()
        expected, got = "a folder of sdescore.train", f"{path} of diffusers; use load_diffusers"
        checks.that(not foreign, expected, got, CheckpointError)
        yield Folder(path)
        return
    try:
        file = open(path, "rb")  # noqa: SIM115 (closed below)
    except FileNotFoundError:
        checks.refuse(f"a checkpoint at {path}", "no file there", MissingFileError)
    except OSError as error:  # no permission, or links that lead in a circle
        raise CheckpointError(f"expected a file that can be read, got {error}") from error
    with file:
        yield Container(path, file)


def export(folder: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Write the checkpoint in a folder ``….dcp`` as one file, tensor by tensor.

    The file is what :func:`sdescore.train` would have written without ``shard=True``. So any
    process can load it, or resume from it.

    Parameters
    ----------
    folder : path
        What ``train(…, path="large.dcp", shard=True)`` wrote.
    path : path
        Conventionally ``….safetensors``.

    Raises
    ------
    CheckpointError, FileNotFoundError
        The folder is damaged or holds no whole checkpoint, or the system refuses to write.

    Examples
    --------
    >>> import tempfile, torch, sdescore as ss
    >>> group, folder = torch.distributed, tempfile.mkdtemp()
    >>> group.init_process_group("gloo", store=group.HashStore(), rank=0, world_size=1)  # or many
    >>> model, parts = ss.ScoreModel(ss.MLP(2, hidden=8), ss.VPSDE()), f"{folder}/large.dcp"
    >>> options = {"steps": 2, "shard": True, "path": parts, "progress": False}
    >>> result = ss.train(model, torch.randn(100, 2), **options)
    >>> group.destroy_process_group()
    >>> ss.checkpoint.export(parts, f"{folder}/large.safetensors")
    >>> x = torch.randn(3, 2)
    >>> torch.equal(ss.load(f"{folder}/large.safetensors")(x, 0.5), result.model(x, 0.5))
    True
    """
    with opened(folder) as file:
        file.verify()
        write(path, file.tensors, file.manifest, read=file.read)


class Folder:
    """The newest whole step of a folder: its ``manifest``, and its tensors.

    ``tensors`` has their names, shapes and dtypes without data, on the device "meta". Of several
    processes that share the work of :meth:`verify`, this is number ``rank`` of ``size``.
    """

    def __init__(self, path: str | os.PathLike[str], rank: int = 0, size: int = 1) -> None:
        steps = whole_steps(Path(path))
        if not steps:
            raise CheckpointError(f"expected a whole checkpoint in the folder {path}, got none")
        self.path, self._part = steps[-1], slice(rank, None, size)
        try:
            record = from_json((self.path / MANIFEST).read_bytes())
            self.manifest: dict[str, Any] = record["manifest"]
            self._digests: dict[str, str] = record["files"]
            self.tensors = {name: described(entry) for name, entry in record["tensors"].items()}
        except Exception as error:  # a forged file may cause any
            raise _damaged(self.path, f"its manifest does not parse ({error})") from error

    def verify(self) -> None:
        """Refuse files of which a bit differs from what was written."""
        for name, digest in sorted(self._digests.items())[self._part]:
            path = self.path / Path(name).name
            if not path.is_file() or _sha256(path) != digest:
                raise _damaged(self.path, f"the SHA-256 of {name} does not match")

    def verify_manifest(self) -> None:
        """Nothing: the manifest was parsed, and has no digest of its own."""

    def read(self, name: str) -> Tensor:
        """One tensor, on the CPU."""
        like = self.tensors[name]
        value = torch.empty(like.shape, dtype=like.dtype, device="cpu")
        self.read_into({name: value})
        return value

    def read_into(self, targets: Mapping[str, Tensor]) -> None:
        """Overwrite tensors, in their own dtypes and on their devices; of shards, the own part."""
        engine, storage = _engine()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*single process")  # as is meant
            reader = storage.HuggingFaceStorageReader(str(self.path))
            try:
                engine.load({**targets}, storage_reader=reader, no_dist=True)
            except engine.CheckpointException as error:  # no Exception, which most code would miss
                causes = "; ".join(f"{cause[0]!s:.200}" for cause in error.failures.values())
                raise _damaged(self.path, f"its tensors cannot be read ({causes})") from error


def write_folder(
    path: str | os.PathLike[str],
    step: int,
    tensors: Mapping[str, Tensor],
    manifest: Mapping[str, Any],
    ranks: Any,
) -> None:
    """Write a step, of which every rank of a group has its part, and remove all but the last two.

    Raises ``CheckpointError`` on all ranks if one cannot write.
    """
    engine, storage = _engine()
    planner = engine.DefaultSavePlanner(dedup_save_to_lowest_rank=True)
    target = Path(path) / f"step-{step}"
    entries = {
        name: {"dtype": CODES[value.dtype], "shape": list(value.shape)}
        for name, value in tensors.items()
    }

    def begin() -> None:
        for name, value in tensors.items():
            own = value.to_local() if hasattr(value, "to_local") else value
            checks.that(not has_nan(own), "numbers to save", f"NaN in {name}", CheckpointError)
        if ranks.rank == 0:
            shutil.rmtree(target, ignore_errors=True)  # that a run left unfinished
            target.mkdir(parents=True)

    def digests() -> dict[str, str]:
        own = target.glob(f"shard-{ranks.rank + 1:05d}-*")
        return {file.name: _sha256(file) for file in own}

    def end() -> None:
        if ranks.rank == 0:
            files = {name: digest for part in found for name, digest in part.items()}
            record = {"manifest": manifest, "tensors": entries, "files": files}
            with replacing(target / MANIFEST) as file:
                file.write(to_json(record).encode())
            for old in whole_steps(Path(path))[:-2]:
                shutil.rmtree(old)

    try:
        ranks.agree(begin)
        writer = storage.HuggingFaceStorageWriter(str(target), save_distributed=True)
        engine.save(
            {name: value.detach() for name, value in tensors.items()},
            storage_writer=writer, planner=planner, process_group=ranks.group,
        )  # fmt: skip
        found = ranks.agree(digests)
        ranks.agree(end)
    except (OSError, RankError, engine.CheckpointException) as error:
        raise CheckpointError(f"expected {path} to be writable, got {error}") from error


def whole_steps(path: Path) -> list[Path]:
    """The steps in a folder that are whole, the newest last."""
    found = [file.parent for file in path.glob(f"step-*/{MANIFEST}")]
    numbered = {int(step.name[5:]): step for step in found if step.name[5:].isdecimal()}
    return [numbered[n] for n in sorted(numbered)]


def _engine() -> tuple[Any, Any]:
    """torch's distributed checkpoints, and their form as safetensors."""
    expected = f"a torch that writes safetensors from many processes, for a folder {SUFFIX}"
    got = f"{torch.__version__}; 2.13 does; or save one file"
    try:
        from torch.distributed import checkpoint
        from torch.distributed.checkpoint import hf_storage

        options = inspect.signature(hf_storage.HuggingFaceStorageWriter).parameters
    except (ImportError, AttributeError):
        checks.refuse(expected, got, IncompatibleError)
    checks.that("save_distributed" in options, expected, got, IncompatibleError)
    return checkpoint, hf_storage


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _damaged(path: Path, what: str) -> CheckpointError:
    advice = f"remove {path.name}, and the whole step before it counts"
    return CheckpointError(f"expected a whole checkpoint, got {path}: {what}; {advice}")
