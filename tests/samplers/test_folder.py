"""A folder of samples: what it is of, what is missing, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

import sdescore as ss
from sdescore.samplers import sample_to_folder

VP = ss.VPSDE()
B = 11
SAMPLER = ss.PredictorCorrector(VP, steps=4)


class Shift(nn.Module):
    """An elementwise score with one weight."""

    def __init__(self, shift: float = 0.5) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(shift))

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        return -torch.tanh(x - self.shift) / (0.1 + t)


def write(out: Path, **options: Any) -> list[Path]:
    arguments = {"sampler": SAMPLER, "model": Shift(), "shape": (B, 2), "shard_size": 4} | options
    return sample_to_folder(out=out, **arguments)


def joined(paths: list[Path]) -> Tensor:
    return torch.from_numpy(numpy.concatenate([numpy.load(path) for path in paths]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_files_are_the_samples(tmp_path: Path, dtype: torch.dtype) -> None:
    paths = write(tmp_path / "a" / "b", seed=3, dtype=dtype, max_batch=3)
    assert [len(numpy.load(path)) for path in paths] == [4, 4, 3]
    assert paths == sorted((tmp_path / "a" / "b").glob("*.npy"))
    x = joined(paths)
    assert x.dtype == dtype
    assert torch.equal(x, SAMPLER.sample(Shift(), (B, 2), seed=3, dtype=dtype))


def test_a_whole_folder_is_left_as_it_is(tmp_path: Path) -> None:
    class Untouched(Shift):
        def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
            raise AssertionError("the model was called")

    paths = write(tmp_path)
    Untouched.__name__ = "Shift"  # its repr and its weights are those of the model
    assert write(tmp_path, model=Untouched()) == paths


@pytest.mark.parametrize("lost", [[0], [1], [2], [0, 2], [0, 1, 2]])
def test_missing_shards_are_drawn_again(tmp_path: Path, lost: list[int]) -> None:
    paths = write(tmp_path)
    whole = joined(paths)
    for k in lost:
        paths[k].unlink()
        left = paths[k].with_name(f".{paths[k].name}.0123456789abcdef.new")
        left.write_bytes(b"half a shard, of a run that was killed")
    assert torch.equal(joined(write(tmp_path)), whole)
    assert {path.name for path in tmp_path.iterdir()} == {"samples.json", *(p.name for p in paths)}


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("sampler", {"sampler": ss.PredictorCorrector(VP, steps=5)}),
        ("model", {"model": Shift(0.25)}),
        ("model", {"model": lambda x, t: -x}),
        ("shape", {"shape": (B + 1, 2)}),
        ("shape", {"shape": (B, 3)}),
        ("seed", {"seed": 1}),
        ("init", {"init": torch.zeros(B, 2)}),
        ("label", {"label": torch.zeros(B, dtype=torch.int64)}),
        ("dtype", {"dtype": torch.float64}),
        ("shard_size", {"shard_size": 3}),
    ],
)
def test_a_folder_of_other_samples_is_refused(
    tmp_path: Path, key: str, options: dict[str, Any]
) -> None:
    before = {path: path.read_bytes() for path in [*write(tmp_path), tmp_path / "samples.json"]}
    next(iter(before)).unlink()
    with pytest.raises(ss.errors.CheckpointError, match=f"of others, by {key}"):
        write(tmp_path, **options)
    assert len(list(tmp_path.iterdir())) == 3  # nothing was drawn, nothing removed


def test_rows_of_another_start_or_label_are_other_samples(tmp_path: Path) -> None:
    write(tmp_path, init=torch.zeros(B, 2))
    with pytest.raises(ss.errors.CheckpointError, match="by init"):
        write(tmp_path, init=torch.full((B, 2), 0.5))


def test_a_function_in_the_sampler_is_the_same_in_every_process(tmp_path: Path) -> None:
    """Its repr has an address, which differs from run to run."""

    def sampler() -> ss.PredictorCorrector:
        sde = ss.LinearSDE.from_marginal(lambda t: 1 - t, lambda t: 1 * t, T=0.9)
        return ss.PredictorCorrector(sde, predictor=ss.DDIM(), steps=3)

    assert write(tmp_path, sampler=sampler()) == write(tmp_path, sampler=sampler())


def test_damage_is_refused(tmp_path: Path) -> None:
    paths = write(tmp_path)
    for spoilt in (paths[1].read_bytes()[:-1], b"", paths[2].read_bytes()):
        whole = paths[1].read_bytes()
        paths[1].write_bytes(spoilt)
        with pytest.raises(ss.errors.CheckpointError, match=r"samples-0+4\.npy.*damaged file"):
            write(tmp_path)
        paths[1].write_bytes(whole)
    for spoilt in (b"{", b"[1]"):
        (tmp_path / "samples.json").write_bytes(spoilt)
        with pytest.raises(ss.errors.CheckpointError, match=r"a damaged samples\.json"):
            write(tmp_path)
    (tmp_path / "samples.json").unlink()
    with pytest.raises(ss.errors.CheckpointError, match=r"shards without samples\.json"):
        write(tmp_path)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ss.errors.CheckpointError, match="expected to write"):
        write(tmp_path / "file" / "below")


def test_a_refused_request_leaves_room_for_its_correction(tmp_path: Path) -> None:
    with pytest.raises(ss.errors.ShapeError):
        write(tmp_path, label=torch.zeros(B - 1, dtype=torch.int64))
    assert not list(tmp_path.iterdir())
    write(tmp_path, label=torch.zeros(B, dtype=torch.int64))


def test_an_error_keeps_the_shards_before_it(tmp_path: Path) -> None:
    init = torch.zeros(B, 2)
    init[6] = torch.inf
    with pytest.raises(ss.errors.ParameterError, match="finite init"):
        write(tmp_path, init=init)
    assert [path.name for path in sorted(tmp_path.glob("*.npy"))] == ["samples-000000000000.npy"]


@pytest.mark.parametrize(
    ("shape", "size"),
    [((10, 2), 256), ((20_000, 2), 313), ((10**6, 2), 15_625), ((2 * 10**5, 3, 512, 512), 21)],
)
def test_the_usual_size_of_a_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], size: int
) -> None:
    """B/64, at least 256 samples, at most 64 MiB in float32."""

    class Drawn(Exception):
        pass

    def sample(*args: object, samples: range, **options: object) -> None:
        assert samples == range(min(size, shape[0]))
        assert json.loads((tmp_path / "samples.json").read_text())["shard_size"] == size
        raise Drawn

    monkeypatch.setattr(ss.PredictorCorrector, "sample", sample)
    with pytest.raises(Drawn):
        write(tmp_path, shape=shape, shard_size=None)


def test_the_manifest_says_what_the_samples_are_of(tmp_path: Path) -> None:
    write(tmp_path, seed=7)
    manifest = json.loads((tmp_path / "samples.json").read_text())
    model = manifest.pop("model")
    assert len(model) == 64 and manifest == {
        "sampler": repr(SAMPLER),
        "shape": [B, 2],
        "seed": 7,
        "init": None,
        "label": None,
        "dtype": "float32",
        "shard_size": 4,
    }
