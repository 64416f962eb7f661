r"""A safetensors file with a manifest and digests, read and written piece by piece.

safetensors alone does not notice a flipped bit in the data. Here the metadata holds

``manifest``
    JSON, see :mod:`sdescore.checkpoint.manifest`;
``manifest_sha256``
    64 hex digits, SHA-256 of the manifest's text in UTF-8;
``sha256``
    64 hex digits, SHA-256 over every byte of the file with these 64 written as ``0``.

Neither writing nor reading holds the file in memory: tensors go to the disk one at a time, and
digests are computed in blocks. How the file gets its name is :mod:`sdescore.files`'s
matter.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from sdescore import checks
from sdescore.checkpoint.manifest import from_json, to_json
from sdescore.errors import CheckpointError
from sdescore.files import previous_path, replacing
from sdescore.nets.ema import is_sharded, laid_out

# safetensors' names of the dtypes that a checkpoint may hold.
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
CODES = {dtype: code for code, dtype in DTYPES.items()}
BLOCK = 2**20  # bytes read at a time; a multiple of every item's size
LONGEST_HEADER = 10**8  # safetensors' own limit, in bytes

FOREIGN = {b"PK": "a file of torch.save", b"\x80\x02": "a pickle", b"\x80\x04": "a pickle"}
ELSEWHERE = "sdescore.interop has loaders for files of other codes"

_EMPTY = b"0" * 64
# Inside the manifest, itself a JSON string, every quote is escaped: this cannot match there.
_DIGEST = re.compile(rb'"sha256":"([0-9a-f]{64})"')


def header(tensors: Mapping[str, Any], manifest: Mapping[str, Any], there: bool = True) -> bytes:
    """The file's first bytes, up to the first tensor, with an empty digest.

    Unless the tensors are ``there``, they have no data yet.

    Building it answers whether a checkpoint can be saved (or ``CheckpointError``), and writes
    nothing.
    """
    text = to_json(manifest)
    seals = {"manifest_sha256": _sha256(text), "sha256": _EMPTY.decode()}
    entries: dict[str, Any] = {"__metadata__": {"manifest": text, **seals}}
    end = 0
    for name, value in _in_order(tensors, there):
        begin, end = end, end + value.nbytes
        about = {"dtype": CODES[value.dtype], "shape": list(value.shape)}
        entries[name] = {**about, "data_offsets": [begin, end]}
    encoded = json.dumps(entries, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    if len(encoded) > LONGEST_HEADER:
        expected = f"a manifest and names of tensors within {LONGEST_HEADER} bytes"
        checks.refuse(expected, f"{len(encoded)}; shorten info=", CheckpointError)
    return len(encoded).to_bytes(8, "little") + encoded


def _in_order(tensors: Mapping[str, Any], there: bool) -> list[tuple[str, Tensor]]:
    """The tensors as the file holds them: the widest items first, so that all are aligned."""
    for name, value in tensors.items():
        dense = isinstance(value, Tensor) and value.layout == torch.strided
        if not dense or value.dtype not in CODES or (value.is_meta and there):
            got = type(value).__name__
            if isinstance(value, Tensor):
                got = f"{value.dtype}, {value.layout}, on {value.device}"
            kinds = "a real, integer or boolean dtype of 8 to 64 bits"
            expected = f"{name} to be a dense tensor in memory, of {kinds}, to save it"
            advice = "Convert it, or take it out of the network's state_dict()"
            checks.refuse(expected, f"{got}. {advice}", CheckpointError)
    return sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))


def write(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    manifest: Mapping[str, Any],
    read: Callable[[str], Tensor] | None = None,
) -> None:
    """Write the file, or leave the one that was there: see :func:`sdescore.save`.

    ``read`` gets the data of a tensor by its name, where ``tensors`` has none.
    """
    first = header(tensors, manifest, there=read is None)
    start = _digest_start(first, checks.path(path))
    with replacing(path) as file:
        digest = hashlib.sha256(first)
        file.write(first)
        for name, value in _in_order(tensors, read is None):
            value = value if read is None else read(name)
            if has_nan(value):
                got = f"NaN in {name}; save the model from before it diverged"
                checks.refuse("numbers to save", got, CheckpointError)
            raw = raw_bytes(value)  # of one tensor at a time
            digest.update(raw)
            file.write(raw)
        file.seek(start)
        file.write(digest.hexdigest().encode())


def raw_bytes(value: Tensor) -> memoryview:
    """A tensor's items in order; a copy only if it lies on a device or is a view."""
    data = value.detach().cpu().resolve_neg().contiguous()
    data = data.as_strided((data.numel(),), (1,))  # one item alone may keep an odd stride
    return data.view(torch.uint8).numpy().data


def has_nan(value: Tensor) -> bool:
    """Whether a tensor has a NaN, looked for in blocks."""
    parts = torch.split(value.detach().flatten(), BLOCK) if value.is_floating_point() else ()
    return any(bool(part.isnan().any()) for part in parts)


class Container:
    """An open checkpoint file: its ``manifest``, and its tensors to be read one at a time.

    ``tensors`` has their names, shapes and dtypes without data, on the device "meta".
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self._file = path, file
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        self._data = 8 + length
        if length > LONGEST_HEADER or self._data > size:
            start = length.to_bytes(8, "little")[:2]
            expected, got = "a file of sdescore", f"{path}, {FOREIGN.get(start)}; {ELSEWHERE}"
            checks.that(start not in FOREIGN, expected, got, CheckpointError)
            raise damaged(path, "it is cut short, or was not written by sdescore")
        self._header = length.to_bytes(8, "little") + file.read(length)
        self._digest = _digest_start(self._header, path)
        try:
            entries = from_json(self._header[8:])
            metadata = entries.pop("__metadata__")
            text = metadata["manifest"]
            self.manifest = from_json(text)
            seal = metadata.get("manifest_sha256")
            self._sealed = None if seal is None else seal == _sha256(text)
            self.tensors = {name: described(entry) for name, entry in entries.items()}
            offsets = {name: _place(entry) for name, entry in entries.items()}
            self._offsets = dict(sorted(offsets.items(), key=lambda item: item[1]))
        except Exception as error:  # a forged file may cause any
            raise damaged(path, f"its contents do not parse ({error})") from error
        if not isinstance(self.manifest, dict):
            raise damaged(path, "its manifest is not an object")
        end = 0  # of the tensors so far: they neither overlap nor leave gaps
        for name, (begin, stop) in self._offsets.items():
            tensor = self.tensors[name]
            if begin != end or stop != begin + tensor.numel() * tensor.element_size():
                raise damaged(path, f"the place of {name} does not fit its shape")
            end = stop
        if self._data + end != size:
            raise damaged(path, f"it has {size} bytes, not {self._data + end}")

    def verify(self) -> None:
        """Refuse a file of which a bit differs from what was written, or a tensor that is NaN.

        The whole file is read once, in blocks.
        """
        start = self._digest
        digest = hashlib.sha256(self._header[:start] + _EMPTY + self._header[start + 64 :])
        nan = ""
        self._file.seek(self._data)
        for name, (begin, end) in self._offsets.items():
            dtype = self.tensors[name].dtype
            for at in range(begin, end, BLOCK):
                # A bytearray, for torch warns of memory that it could not write to.
                length = min(BLOCK, end - at)
                block = bytearray(self._file.read(length))
                digest.update(block)
                whole = len(block) == length
                if dtype.is_floating_point and not nan and whole:
                    nan = name if bool(torch.frombuffer(block, dtype=dtype).isnan().any()) else ""
        if digest.hexdigest().encode() != self._header[start : start + 64]:
            raise damaged(self.path, "its SHA-256 does not match")
        if nan:
            got = f"NaN in {nan}; the model had diverged before it was saved: load an earlier one"
            checks.refuse(f"numbers in {self.path}", got, CheckpointError)

    def verify_manifest(self) -> None:
        """Refuse a manifest that is not the one written; the tensors' bytes are not looked at."""
        if self._sealed is None:  # written before files had this digest
            self.verify()
        elif not self._sealed:
            raise damaged(self.path, "the SHA-256 of its manifest does not match")

    def read(self, name: str) -> Tensor:
        """One tensor, on the CPU."""
        like = self.tensors[name]
        value = torch.empty(like.shape, dtype=like.dtype, device="cpu")
        self._fill(name, value)
        return value

    @torch.no_grad()
    def read_into(self, targets: Mapping[str, Tensor]) -> None:
        """Overwrite tensors of these shapes, in their own dtypes and on their devices."""
        for name, target in targets.items():  # one at a time
            same = target.dtype == self.tensors[name].dtype and target.device.type == "cpu"
            if same and target.is_contiguous() and not is_sharded(target):
                self._fill(name, target)
            else:
                target.copy_(laid_out(self.read(name), target))

    def _fill(self, name: str, value: Tensor) -> None:
        raw = raw_bytes(value)
        self._file.seek(self._data + self._offsets[name][0])
        if self._file.readinto(raw) != len(raw):  # type: ignore[attr-defined]
            raise damaged(self.path, "it became shorter while it was read")


def described(entry: Mapping[str, Any]) -> Tensor:
    """A tensor without data, as one entry of the header describes it."""
    shape = _integers(entry["shape"])
    if math.prod(shape) > 2**62:
        raise ValueError(f"shape {shape!r:.80}")
    return torch.empty(shape, dtype=DTYPES[entry["dtype"]], device="meta")


def _place(entry: Mapping[str, Any]) -> list[int]:
    """Where the data of one entry begin and end."""
    offsets = _integers(entry["data_offsets"])
    if len(offsets) != 2:
        raise ValueError(f"data at {offsets!r:.80}")
    return offsets


def _integers(numbers: Any) -> list[int]:
    if not isinstance(numbers, list) or any(type(n) is not int or n < 0 for n in numbers):
        raise ValueError(f"{numbers!r:.80} instead of non-negative integers")
    return numbers


def _digest_start(first: bytes, path: Path) -> int:
    """Where the 64 digits of the digest stand in a header."""
    match = _DIGEST.search(first)
    if match is None:
        raise damaged(path, f"it is cut short, or another program wrote it; {ELSEWHERE}")
    return match.start(1)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def damaged(path: Path, what: str) -> CheckpointError:
    """The error for a file that must not be used; it names the previous version if there is one."""
    previous = previous_path(path)
    advice = "train or save it again"
    if previous.exists():
        advice = f"the version before it is {previous}: load that, or copy it over {path.name}"
    return CheckpointError(f"expected a whole sdescore checkpoint, got {path}: {what}; {advice}")
