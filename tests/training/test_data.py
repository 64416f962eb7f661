"""Data of every kind: the same samples give the same run, and a batch is what its source says."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import sdescore as ss
from sdescore.checkpoint.store import read_manifest
from tests.helpers import ROOT
from tests.helpers.samples import LABELS, Found, Pairs, fit
from tests.helpers.training import Dropping, assert_same_file, cloud, make


class Seen(Dropping):
    """It notes the states that it is given; at σ = 0.01 and less these are the data."""

    def __init__(self) -> None:
        super().__init__()
        self.states: list[Tensor] = []

    def forward(self, x: Tensor, c: Tensor, label: Tensor | None = None) -> Tensor:
        self.states.append(x.detach())
        return super().forward(x, c, label)


def watched() -> ss.ScoreModel:
    torch.manual_seed(0)
    return ss.ScoreModel(Seen(), ss.VESDE(sigma_min=1e-4, sigma_max=1e-3), prediction="epsilon")


class Streaming(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Tensor]:
        return iter(cloud())


# The same samples, the same run.


@pytest.mark.parametrize(
    "data",
    [
        cloud().numpy(),
        cloud().numpy().copy(order="F"),
        np.asarray(cloud().flip(1).numpy())[:, ::-1],
        TensorDataset(cloud()),
        Pairs("x"),
        Found("x"),
    ],
)
def test_every_kind_of_samples_gives_the_run_of_the_tensor(data: Any) -> None:
    assert fit(data, batch_size=8).losses == fit(cloud(), batch_size=8).losses


@pytest.mark.parametrize(
    "data", [Pairs("pair"), Pairs("dict"), Found("dict"), TensorDataset(cloud(), LABELS)]
)
def test_labels_of_a_dataset(data: Any) -> None:
    model, tensor = make(), make()
    options = {"batch_size": 8, "label_dropout": 0.3}
    first = fit(data, model, **options)
    assert first.losses == fit(cloud(), tensor, labels=LABELS, **options).losses
    assert torch.equal(torch.cat(model.net.labels), torch.cat(tensor.net.labels))
    assert not model.label_required


def test_labels_as_an_array() -> None:
    one = fit(cloud(), labels=LABELS.numpy(), batch_size=8)
    assert one.losses == fit(cloud(), labels=LABELS, batch_size=8).losses
    assert one.model.label_required


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
def test_a_read_only_memmap(tmp_path: Path, dtype: type) -> None:
    values = (50 * cloud().abs()).numpy().astype(dtype)
    np.save(tmp_path / "data.npy", values)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        memmap = np.load(tmp_path / "data.npy", mmap_mode="r")
        result = fit(memmap, batch_size=8, standardize=True)
    assert result.losses == fit(torch.from_numpy(values), batch_size=8, standardize=True).losses


def test_bytes_become_numbers_from_minus_one_to_one() -> None:
    model = watched()
    data = torch.tensor([[0, 255], [51, 102]], dtype=torch.uint8)
    fit(data, model, batch_size=100)
    values = torch.cat(model.net.states).flatten()
    for level, share in ((-1.0, 0.25), (1.0, 0.25), (-0.6, 0.25), (-0.2, 0.25)):
        near = ((values - level).abs() < 0.02).double().mean().item()
        assert abs(near - share) < 0.1, level  # 600 draws: 5 standard errors are 0.09


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss in kilobytes")
def test_bytes_stay_bytes_in_memory(tmp_path: Path) -> None:
    """64 MB of bytes would be 256 MB in floating point; a run takes 40 MB more than none."""
    np.save(tmp_path / "data.npy", np.zeros((8000, 8000), dtype=np.uint8))
    code = f"""
import resource, numpy as np, torch
import sdescore as ss
class Net(torch.nn.Linear):
    def forward(self, x, c):
        return super().forward(x[:, :1]) + x
model = ss.ScoreModel(Net(1, 1), ss.VPSDE())
data = np.load({str(tmp_path / "data.npy")!r})
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
ss.train(model, data[:100], steps=2, batch_size=2, progress=False); before = peak()
ss.train(model, data, steps=2, batch_size=2, progress=False, path={str(tmp_path / "m")!r})
print(peak() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert int(done.stdout) < 40_000


# Streams.


def orders(data: Any, model: ss.ScoreModel, steps: int) -> list[list[float]]:
    """The batches that the network saw, by their first numbers rounded."""
    fit(data, model, steps=steps)
    return [[round(v, 1) for v in x[:, 0].tolist()] for x in model.net.states]


COUNT = torch.arange(7.0)[:, None].expand(7, 2).clone()


@pytest.mark.parametrize(
    "data",
    [
        DataLoader(TensorDataset(COUNT), batch_size=3),
        DataLoader(COUNT, batch_size=3),  # type: ignore[arg-type]
        [COUNT[:3], COUNT[3:6].numpy(), (COUNT[6:],)],
        [{"x": COUNT[:3]}, {"x": COUNT[3:6]}, {"x": COUNT[6:]}],
    ],
)
def test_a_stream_keeps_its_order_and_begins_again(data: Any) -> None:
    """With the short last batch as it is."""
    epoch = [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0], [6.0]]
    assert orders(data, watched(), 7) == [*epoch, *epoch, epoch[0]]


def test_worker_processes() -> None:
    alone = DataLoader(Pairs(), batch_size=24)
    helped = DataLoader(Pairs(), batch_size=24, num_workers=1)
    a, b = watched(), watched()
    assert orders(helped, a, 4) == orders(alone, b, 4)
    assert torch.equal(torch.cat(a.net.labels), torch.cat(b.net.labels))


def test_a_shuffled_loader_follows_the_seed() -> None:
    """Nothing but the seed, and the caller's generator is as it was."""

    def run(seed: int, state: int) -> list[list[float]]:
        model = watched()
        torch.manual_seed(state)
        loader = DataLoader(TensorDataset(COUNT), batch_size=3, shuffle=True)
        fit(loader, model, steps=7, seed=seed)
        untouched = torch.rand(3, generator=torch.Generator().manual_seed(state))
        assert torch.equal(torch.rand(3), untouched)
        return [[round(v, 1) for v in x[:, 0].tolist()] for x in model.net.states]

    first = run(0, 1)
    assert first == run(0, 2) and first != run(1, 1)
    for epoch in (first[:3], first[3:6]):
        assert sorted(v for batch in epoch for v in batch) == [0, 1, 2, 3, 4, 5, 6]
    assert first[:3] != first[3:6]


def test_an_iterable_dataset_is_batched() -> None:
    model = watched()
    fit(Streaming(), model, steps=3, batch_size=40)
    assert [len(x) for x in model.net.states] == [40, 24, 40]


def test_an_iterator_that_ends_ends_the_run(tmp_path: Path) -> None:
    model, path = watched(), tmp_path / "m.safetensors"
    with pytest.warns(RuntimeWarning, match="begin again"):
        result = fit(iter([COUNT, COUNT]), model, path=path, schedule="constant")
    assert result.step == 2 and not result.finished
    assert [len(x) for x in model.net.states] == [7, 7]
    manifest = read_manifest(path)
    assert manifest["training"]["step"] == 2
    assert manifest["training"]["options"]["data"]["resumes_exactly"] is False
    again = fit([COUNT], watched(), path=path, schedule="constant", steps=3)
    assert again.finished
    with pytest.warns(RuntimeWarning, match="starts from its beginning"):
        fit([COUNT], watched(), path=path, schedule="constant", steps=4, resume=True)


def test_read_only_arrays_give_no_warning() -> None:
    array = cloud().numpy().copy()
    array.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit([array])


class Made(Pairs):
    """Its samples are made on torch's default device."""

    def __getitem__(self, i: int) -> Any:
        return torch.tensor([i, 1.0])


class Makes(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Tensor]:
        return (torch.tensor([i, 1.0]) for i in range(64))


@pytest.mark.parametrize("data", [Made(), Makes(), DataLoader(Made(), batch_size=9)])
def test_the_default_device_is_not_the_datas(data: Any) -> None:
    plain, model = fit(data).losses, make()
    with torch.device("meta"):
        assert fit(data, model).losses == plain


# Augmentation.


def test_a_transform_sees_the_batch_and_follows_seed_and_step() -> None:
    seen: list[Tensor] = []

    def transform(x: Tensor) -> Tensor:
        seen.append(x)
        return x + torch.rand(len(x), 1)

    data = torch.full((9, 2), 255, dtype=torch.uint8)
    losses = []
    for state in (1, 2):
        model = watched()
        torch.manual_seed(state)
        losses.append(fit(data, model, transform=transform).losses)
        states = torch.cat(model.net.states)
        assert states.min() > 0.99 and states.max() > 1.9 and states.std() > 0.2
    assert losses[0] == losses[1]
    assert {len(x) for x in seen} == {9, 128}  # the first is measured
    assert all(torch.equal(x, torch.ones_like(x)) for x in seen)


@pytest.mark.parametrize(
    ("transform", "match"),
    [
        (lambda x: x[:3], "keep all samples"),
        (lambda x: x.numpy(), "torch.Tensor"),
        (lambda x: x.long(), "floating point"),
    ],
)
def test_a_transform_that_is_wrong(transform: Callable[[Tensor], Any], match: str) -> None:
    model = make()
    with pytest.raises(ss.errors.ShapeError, match=match):
        fit(cloud(), model, transform=transform)
    assert model.net.calls == 0


# Resume.


@pytest.mark.parametrize("data", [Pairs("pair", noise=0.1), cloud().numpy()])
def test_resume_is_exact(tmp_path: Path, data: Any) -> None:
    """A Dataset and a transform that both draw included."""
    options = {
        "steps": 9, "batch_size": 8, "transform": lambda x: x + torch.rand_like(x),
    }  # fmt: skip
    fit(data, path=tmp_path / "whole.safetensors", **options)

    def stop(*seen: Any) -> None:
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            fit(data, path=tmp_path / "parts.safetensors", resume=True, callback=stop, **options)
    torch.manual_seed(77)
    result = fit(data, path=tmp_path / "parts.safetensors", resume=True, **options)
    assert len(result.losses) == 7
    assert_same_file(tmp_path / "whole.safetensors", tmp_path / "parts.safetensors")


@pytest.mark.parametrize("other", [Pairs(n=63), Pairs("x"), cloud(), [(cloud(), LABELS)]])
def test_resume_refuses_other_data(tmp_path: Path, other: Any) -> None:
    path = tmp_path / "m.safetensors"
    fit(Pairs(), path=path)
    with pytest.raises(ss.errors.CheckpointError, match=r"Pass the (data|labels)"):
        fit(other, path=path, resume=True)
