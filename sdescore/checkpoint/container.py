r"""A safetensors file with a manifest and a digest, written atomically.

safetensors alone does not notice a flipped bit in the data. Here the metadata holds

``manifest``
    JSON, see :mod:`sdescore.checkpoint.manifest`;
``sha256``
    64 hex digits, SHA-256 over every byte of the file with these 64 written as ``0``.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor

from sdescore.errors import CheckpointError

_EMPTY = b"0" * 64
# Inside the manifest, itself a JSON string, every quote is escaped: this cannot match there.
_DIGEST = re.compile(rb'"sha256":"([0-9a-f]{64})"')


def previous_path(path: str | os.PathLike[str]) -> Path:
    """Where the version before the last save is kept: ``vp.previous.safetensors``."""
    path = Path(path)
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def write(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], manifest: Mapping[str, Any]
) -> None:
    """Write the file, or leave the one that was there: a crash at any point loses neither.

    The version before becomes :func:`~sdescore.checkpoint.container.previous_path`.

    Raises
    ------
    CheckpointError
        The manifest is not JSON.
    """
    from safetensors.torch import save

    path = Path(path)
    owned = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    data = save(owned, {"manifest": to_json(manifest), "sha256": _EMPTY.decode()})
    _, start = _digest(data, path)
    digest = hashlib.sha256(data).hexdigest().encode()

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")  # a fixed name: the next save reuses it
    with open(temporary, "wb") as file:
        file.write(data[:start] + digest + data[start + 64 :])
        file.flush()
        os.fsync(file.fileno())
    if path.exists():
        _keep_previous(path)
    os.replace(temporary, path)
    _sync_directory(path.parent)


def _keep_previous(path: Path) -> None:
    """Give the present file a second name, so that it stays at the first one meanwhile."""
    second = path.with_name(f".{path.name}.previous")
    second.unlink(missing_ok=True)
    try:
        os.link(path, second)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, second)
    os.replace(second, previous_path(path))
    # A rename between two names of one file does nothing: so after a crash right here.
    second.unlink(missing_ok=True)


def _sync_directory(folder: Path) -> None:
    if os.name != "posix":
        return  # elsewhere a directory cannot be opened, and the rename is durable by itself
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """``(manifest, tensors)`` of a file that is whole, to the last bit.

    Raises
    ------
    CheckpointError
        Some bit differs from what was written, or sdescore did not write it.
    FileNotFoundError
        There is no such file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = Path(path)
    data = path.read_bytes()
    digest, start = _digest(data, path)
    blank = hashlib.sha256(data[:start])
    blank.update(_EMPTY)
    blank.update(data[start + 64 :])
    if blank.hexdigest().encode() != digest:
        raise damaged(path, "its SHA-256 does not match")
    # Whole, but perhaps not ours: from here on the contents may still be malicious.
    try:
        header = from_json(data[8 : 8 + int.from_bytes(data[:8], "little")])
        manifest = from_json(header["__metadata__"]["manifest"])
        tensors: dict[str, Tensor] = load(data)
    except (
        ValueError,
        TypeError,
        LookupError,
        RecursionError,
        SafetensorError,
        OverflowError,
        AttributeError,
    ) as error:
        raise damaged(path, f"its contents do not parse ({error})") from error
    if not isinstance(manifest, dict):
        raise damaged(path, "its manifest is not an object")
    return manifest, tensors


def _digest(data: bytes, path: Path) -> tuple[bytes, int]:
    """The digest in the header, and where it stands."""
    length = int.from_bytes(data[:8], "little")
    match = _DIGEST.search(data, 8, 8 + length) if 8 + length <= len(data) else None
    if match is None:
        raise damaged(path, "it is cut short, or was not written by sdescore")
    return match.group(1), match.start(1)


def damaged(path: Path, what: str) -> CheckpointError:
    """The error for a file that must not be used; it names the previous version if there is one."""
    previous = previous_path(path)
    advice = (
        f"the version before it is {previous}: load that, or copy it over {path.name}"
        if previous.exists()
        else "train or save it again"
    )
    return CheckpointError(f"expected a whole sdescore checkpoint, got {path}: {what}; {advice}")


def to_json(value: object) -> str:
    """JSON text, with sorted keys and without NaN.

    Raises
    ------
    CheckpointError
        Something in it is no JSON.
    """
    try:
        return json.dumps(value, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"expected JSON values (str, int, finite float, bool, None, list, dict) in the "
            f"manifest, got {error}; convert them, e.g. float(x) or x.tolist()"
        ) from error


def from_json(text: str | bytes) -> Any:
    """Parse JSON, refusing NaN and infinities, which JSON does not have."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} in JSON")

    return json.loads(text, parse_constant=refuse)
