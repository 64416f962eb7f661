"""Files that want more than to be read: none may run anything, and each gets a typed error.

Every file is opened by every function that reads one of its kind. A pickle's payload makes a file,
whose absence is the proof that nothing ran.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import resource
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import torch
from safetensors.torch import save as to_bytes

import sdescore as ss
from sdescore.interop.weights import read_weights


class Payload:
    """What a pickle runs when it is opened: it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.marker}'",)


def sealed(manifest: Any, tensors: dict[str, torch.Tensor]) -> bytes:
    """A file by an attacker who knows the format: its digest is right."""
    data = to_bytes(tensors, {"manifest": json.dumps(manifest), "sha256": "0" * 64})
    digest = hashlib.sha256(data).hexdigest().encode()
    return data.replace(b'"sha256":"' + b"0" * 64, b'"sha256":"' + digest)


def model() -> ss.ScoreModel:
    torch.manual_seed(0)
    return ss.ScoreModel(ss.MLP(2, hidden=8, depth=1), ss.VPSDE())


def openers(path: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Every function of the library that opens a file of weights or samples."""
    yield "load", lambda: ss.load(path)
    yield "load with a network", lambda: ss.load(path, net=model().net, sde=ss.VPSDE())
    yield "read_manifest", lambda: ss.checkpoint.read_manifest(path)
    data = torch.zeros(8, 2)
    yield (
        "train",
        lambda: ss.train(
            model(), data, steps=1, batch_size=4, progress=False, path=path, resume=True
        ),
    )
    yield "export", lambda: ss.checkpoint.export(path, path.with_name("exported.safetensors"))
    # Those of other codes read their files by this, after they have made the network.
    yield "interop", lambda: read_weights(path)
    yield "diffusers", lambda: ss.load_diffusers(path)


def pickles(folder: Path, marker: Path) -> Iterator[Path]:
    """Payloads in every container and under every ending."""
    evil = Payload(marker)
    for ending in ("pt", "pth", "ckpt", "bin", "pkl", "safetensors"):
        for kind in ("zip", "legacy", "bare", "npy", "npz"):
            path = folder / f"{kind}.{ending}"
            if kind in ("zip", "legacy"):
                state = {"model": evil, "ema": evil, "weight": torch.ones(2)}
                torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
            elif kind == "bare":
                path.write_bytes(pickle.dumps(evil))
            else:
                with open(path, "wb") as file:
                    array = numpy.array([evil], dtype=object)
                    numpy.save(file, array) if kind == "npy" else numpy.savez(file, a=array)
            yield path


def headers(folder: Path) -> Iterator[Path]:
    """Sizes that no file has, and classes and names that no checkpoint may have."""
    ss.save(folder / "good.safetensors", model())
    manifest = ss.checkpoint.read_manifest(folder / "good.safetensors")
    tensors = {f"net/{name}": value for name, value in model().net.state_dict().items()}
    files: dict[str, bytes] = {
        f"length {n}": n.to_bytes(8, "little") + b"{" * 64
        for n in (0, 1, 56, 57, 10**8, 10**8 + 1, 2**31, 2**62, 2**63, 2**64 - 1)
    }
    for shape in ([2**62], [2**40, 2**40], [-1], [10**18, 0], [2**31] * 8):
        text = json.dumps(
            {
                "__metadata__": {"manifest": json.dumps(manifest), "sha256": "0" * 64},
                "net/a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]},
            },
            separators=(",", ":"),
        ).encode()
        data = len(text).to_bytes(8, "little") + text + bytes(4)
        digest = hashlib.sha256(data).hexdigest().encode()
        files[f"shape {len(files)}"] = data.replace(b"0" * 64, digest)
    for name in ("../../../etc/passwd", "/etc/passwd", "net/../../x", "os/system", "net/\0"):
        files[f"name {len(files)}"] = sealed(manifest, tensors | {name: torch.ones(1)})
    for part, entry in (
        ("sde", {"class": "os.system", "fields": {"command": "true"}}),
        ("sde", {"class": "builtins.eval", "fields": {}}),
        ("net", {"class": "subprocess.Popen", "config": {"args": ["true"]}, "dtype": "float32"}),
        ("net", {"class": "MLP", "config": {"dim": 2, "hidden": 2**40}, "dtype": "float32"}),
        ("net", {"class": "MLP", "config": {"dim": 2, "depth": 10**9}, "dtype": "float32"}),
        ("net", {"class": "__import__", "config": {}, "dtype": "float32"}),
    ):
        files[f"class {len(files)}"] = sealed({**manifest, part: entry}, tensors)
    for name, data in files.items():
        path = folder / f"{name}.safetensors"
        path.write_bytes(data)
        yield path


def folders(folder: Path, secret: Path) -> Iterator[Path]:
    """Folders of parts whose manifest or links lead out of them, and bombs."""
    ss.save(folder / "good.safetensors", model())
    manifest = ss.checkpoint.read_manifest(folder / "good.safetensors")
    digest = hashlib.sha256(secret.read_bytes()).hexdigest()
    entries = {"net/a": {"dtype": "F32", "shape": [1]}}
    for n, file in enumerate((str(secret), f"../../{secret.name}", "../..", "", ".", "a\0b")):
        path = folder / f"out {n}.dcp"
        (path / "step-1").mkdir(parents=True)
        record = {"manifest": manifest, "tensors": entries, "files": {file: digest}}
        (path / "step-1" / "manifest.json").write_text(json.dumps(record))
        yield path
    for n, record in enumerate(("[]", "{" * 10**5, "null", '{"manifest": {}}')):
        path = folder / f"record {n}.dcp"
        (path / "step-1").mkdir(parents=True)
        (path / "step-1" / "manifest.json").write_text(record)
        yield path
    link = folder / "secret.safetensors"
    link.symlink_to(secret)
    yield link
    loop = folder / "loop.safetensors"
    loop.symlink_to(loop)
    yield loop
    parts = folder / "links.dcp"
    (parts / "step-1").mkdir(parents=True)
    record = {"manifest": manifest, "tensors": entries, "files": {"a.safetensors": digest}}
    (parts / "step-1" / "manifest.json").write_text(json.dumps(record))
    (parts / "step-1" / "a.safetensors").symlink_to(secret)
    yield parts
    bomb = folder / "bomb.pt"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**8))
    yield bomb


def malice() -> dict[str, Any]:
    """How many openings were refused or harmless, and whether anything ran.

    A refusal is an ``SDEScoreError``, or a ``FileNotFoundError`` where the reader says so.
    """
    found: Counter[str] = Counter()
    examples: dict[str, str] = {}
    files = 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as name:
        marker, secret = Path(name) / "ran", Path(name) / "secret"
        secret.write_bytes(b"secret")
        kinds = {
            "pickles": lambda folder: pickles(folder, marker),
            "headers": headers,
            "folders": lambda folder: folders(folder, secret),
        }
        for kind, make in kinds.items():
            folder = Path(name) / kind
            folder.mkdir()
            for path in make(folder):
                files += 1
                for opener, call in openers(path):
                    try:
                        call()
                    except (ss.SDEScoreError, FileNotFoundError):
                        found["refused"] += 1
                    except BaseException as error:  # CheckpointException of torch is no Exception
                        what = f"{opener}: {type(error).__name__}: {error!s:.80}"
                        found["fault"] += 1
                        examples.setdefault(what, f"{kind}/{path.name}")
                    else:  # tensors of odd names, or a network that the caller brings
                        found["opened as data"] += 1
        executions = int(marker.exists())
        touched = secret.read_bytes() != b"secret"
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    faults = found.pop("fault", 0) + executions + touched
    return {
        "files": files, **found, "executions": executions, "memory_grown_mib": grown,
        "faults": faults, "examples": examples,
    }  # fmt: skip
