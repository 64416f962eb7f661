"""Data of any scale: what training measures, sets in the model, and warns about."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

import sdescore as ss
from sdescore.__main__ import main
from sdescore.errors import CheckpointError, ParameterError, ShapeError
from sdescore.score.convention import DataScale
from sdescore.training.data import Moments
from tests.helpers.training import assert_same_file

MEAN, STD = (5e-3, -3.0, 2e4), (1e-3, 1.0, 1e3)


def table(n: int = 2000, seed: int = 0) -> Tensor:
    """Correlated features of three scales, two modes in the second."""
    z = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))
    z[:, 1] = 0.3 * z[:, 1] + z[:, 0].sign()
    z[:, 2] = 0.6 * z[:, 0] + 0.8 * z[:, 2]
    return torch.tensor(MEAN) + torch.tensor(STD) * z


def mlp(dim: int = 3, **options: Any) -> ss.ScoreModel:
    torch.manual_seed(0)
    net = ss.MLP(dim, hidden=32)
    options = {"prediction": "F", "time_input": "log_snr", "sigma_data": 1.0} | options
    return ss.ScoreModel(net, ss.VPSDE(), **options)


def scale_after(data: Any, dim: int = 3, **options: Any) -> DataScale:
    model = mlp(dim)
    trained = ss.train(model, data, steps=1, progress=False, **options).model
    assert trained.data_scale == model.data_scale
    return model.data_scale


def require_measured(scale: DataScale, x: Any, rel: float = 2e-5) -> None:
    """The means and standard deviations that numpy finds in float64, by feature."""
    x = np.asarray(x, dtype=np.float64)
    assert scale.std == pytest.approx(x.std(0), rel=rel)
    assert np.abs(np.subtract(scale.mean, x.mean(0))).max() <= (rel * x.std(0)).max()


class Rows(Dataset[Tensor]):
    def __init__(self, x: Tensor) -> None:
        self.x, self.calls = x, 0

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> Tensor:
        self.calls += 1
        return self.x[i]


def stream(x: Tensor) -> Iterator[Tensor]:
    yield from x.split(50)


@pytest.mark.parametrize(
    "kind",
    [
        lambda x: x,
        lambda x: x.double(),
        lambda x: x.numpy(),
        lambda x: Rows(x),
        lambda x: TensorDataset(x, torch.zeros(len(x), dtype=torch.int64)),
        lambda x: DataLoader(Rows(x), batch_size=60),
        lambda x: list(x.split(7)),
        stream,
    ],
)
def test_each_feature_is_measured(kind: Any) -> None:
    x = table(900)
    model = mlp()
    if isinstance(data := kind(x), TensorDataset):
        data = Rows(x)
    ss.train(model, data, steps=1, progress=False)
    require_measured(model.data_scale, x)


def test_channels_are_measured_over_all_pixels() -> None:
    x = torch.randn(40, 2, 4, 4) * torch.tensor([3.0, 0.2]).reshape(2, 1, 1) + 7
    model = ss.ScoreModel(ss.UNet(2, width=8, multipliers=(1,), blocks=1), ss.VPSDE())
    ss.train(model, x, steps=1, progress=False)
    require_measured(model.data_scale, x.permute(0, 2, 3, 1).reshape(-1, 2))


def test_one_channel_of_bytes_gives_one_number() -> None:
    x = torch.randint(0, 256, (50, 1, 4, 4), dtype=torch.uint8)
    model = ss.ScoreModel(ss.UNet(1, width=8, multipliers=(1,), blocks=1), ss.VPSDE())
    ss.train(model, x, steps=1, progress=False)
    assert isinstance(model.data_scale.mean, float)
    scaled = x.double() / 127.5 - 1
    assert model.data_scale.std == pytest.approx(scaled.std(correction=0).item(), rel=1e-5)


def test_large_data_are_measured_on_ten_thousand_samples() -> None:
    """Five standard errors of a mean and a std, 6 numbers: a false alarm in 3e-6 of the seeds."""
    x = table(30_000)
    one, two = scale_after(x), scale_after(x, seed=1)
    assert one != two and one == scale_after(x)
    require_measured(one, x, rel=5 / 10_000**0.5)


def test_a_dataset_is_read_a_thousand_times() -> None:
    data = Rows(table(5000))
    ss.train(mlp(), data, steps=1, progress=False)
    assert data.calls <= 1000 + 1 + 128


def test_samples_that_are_numbers_are_one_feature() -> None:
    """``(n,)``, an empty event: numpy's mean and standard deviation of all of them."""
    x, moments = table(50)[:, 1], Moments()
    moments.add(x[:20])
    moments.add(x[20:])
    require_measured(moments.scale(1.0), x)


def test_a_feature_without_spread_is_only_moved() -> None:
    x = torch.full((100, 3), 0.1)
    x[:, 0] = torch.arange(100.0)
    scale = scale_after(x)
    assert scale.std == pytest.approx((np.arange(100).std(), 1.0, 1.0), rel=1e-5)
    assert scale.mean == pytest.approx((49.5, 0.1, 0.1))


def test_far_from_zero_a_small_spread_is_found() -> None:
    """A mean of a billion standard deviations, in float64."""
    x = 1e9 + torch.randn(500, 3, dtype=torch.float64)
    require_measured(scale_after(x), x)


def test_a_spread_counts_by_the_size_of_the_mean() -> None:
    """What float64 rounds at ±10⁹ is none; 10⁻¹⁴ beside 10⁻⁹ is one."""
    x = torch.full((100, 3), 1e9, dtype=torch.float64)
    x[::2, 0] = np.nextafter(1e9, 2e9)
    x[:, 1] = -x[:, 0]
    x[:, 2] = 1e-9 + 1e-14 * torch.arange(100.0, dtype=torch.float64)
    assert x[:, 0].std() > 0
    scale = scale_after(x)
    assert scale.std == (1.0, 1.0, pytest.approx(1e-14 * np.arange(100).std(), rel=1e-4))
    assert scale.mean == pytest.approx((1e9, -1e9, 1e-9 + 49.5e-14), rel=1e-9)


def test_what_is_measured_is_transformed() -> None:
    x = table(500)
    require_measured(scale_after(x, transform=lambda x: 100 - 3 * x), 100 - 3 * x)


def test_a_model_of_its_own_scale_keeps_it() -> None:
    model = mlp(data_mean=MEAN, data_std=STD)
    ss.train(model, table(), steps=1, progress=False)
    assert model.data_scale == DataScale(MEAN, STD)


@pytest.mark.parametrize(("sigma_data", "scaling"), [(0.5, "unit"), (0.5, "none")])
def test_states_have_the_sigma_data_that_the_network_expects(
    sigma_data: float, scaling: str
) -> None:
    own = {"input_scaling": scaling, "sigma_data": sigma_data}
    model, x = mlp(prediction="epsilon", **own), table()
    ss.train(model, x, steps=1, progress=False)
    std = sigma_data if scaling == "unit" else 1.0
    assert torch.allclose(model.from_data(x).std(0), torch.full((3,), std), rtol=1e-3)
    assert torch.allclose(model.from_data(x).mean(0), torch.zeros(3), atol=1e-3)


def test_off_it_leaves_the_model_alone_and_says_once_what_to_do() -> None:
    model = mlp()
    with pytest.warns(RuntimeWarning, match="standardize=True") as found:
        ss.train(model, table(), steps=3, standardize=False, progress=False)
    assert len(found) == 1 and model.data_scale.plain


@pytest.mark.parametrize(
    ("unit", "mean", "std", "far"),
    [(0.5, 0, 0.12, 0), (0.5, 0, 3, 1), (1, 1, 0.3, 1), (1, 0.5, 0.3, 0), (1, 4, 3, 0)],
)
def test_scales_are_counted_in_their_own_units(
    unit: float, mean: float, std: float, far: bool
) -> None:
    """Usual are a fifth to five times the standard deviation that the network expects, and a mean
    of at most two of the data's own."""
    x = mean + std * torch.tensor([-1.0, 1.0]).repeat_interleave(50).expand(3, -1).mT
    model = mlp(prediction="epsilon", input_scaling="unit", sigma_data=unit)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        ss.train(model, x, steps=1, standardize=False, progress=False)
    assert len(found) == far


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.1), (0.0, 6.0), (3.0, 1.0), (-3.0, 1.0)])
def test_far_scales_are_warned_about(mean: float, std: float) -> None:
    x = mean + std * torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    with pytest.warns(RuntimeWarning, match="standard deviation"):
        ss.train(mlp(), x, steps=1, standardize=False, progress=False)
    with pytest.warns(RuntimeWarning):  # its own numbers are others than the data's
        ss.train(mlp(data_std=1e3), x, steps=1, progress=False)


def test_features_far_apart_are_warned_about() -> None:
    """Around −10, 0 and 10, each of unit spread: the mean is 0, and the whole is 8.2 wide."""
    x = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    with pytest.warns(RuntimeWarning, match=r"got mean -?0\.0\d* and standard deviation 8\.2"):
        shifted = x + torch.tensor([-10.0, 0.0, 10.0])
        ss.train(mlp(), shifted, steps=1, standardize=False, progress=False)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.3), (0.0, 4.0), (1.5, 1.0)])
def test_usual_ones_are_not(mean: float, std: float) -> None:
    x = mean + std * torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ss.train(mlp(), x, steps=1, standardize=False, progress=False)
        ss.train(mlp(data_mean=MEAN, data_std=STD), table(), steps=1, progress=False)
        ss.train(mlp(), table(), steps=1, progress=False)


@pytest.mark.slow
def test_a_table_of_mixed_scales_is_learned() -> None:
    """Every feature's mean and spread, the correlation and the two modes; and not without."""

    def errors(standardize: bool) -> tuple[float, Tensor]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trained = ss.train(
                mlp(), table(), steps=500, lr=5e-3, standardize=standardize, progress=False
            ).model
        flow = ss.ProbabilityFlow(trained.sde, rtol=1e-3, atol=1e-3)
        x = (flow.sample(trained, (2000, 3)) - torch.tensor(MEAN)) / torch.tensor(STD)
        held_out = (table(2000, seed=1) - torch.tensor(MEAN)) / torch.tensor(STD)
        return ss.metrics.sliced_wasserstein(x, held_out, seed=0), x

    (with_it, x), (without, _) = errors(True), errors(False)
    assert with_it < 0.15 and without > 5 * with_it
    assert ((x[:, 1].abs() - 1).abs() < 0.9).float().mean() > 0.95
    assert torch.corrcoef(x.T)[0, 2] == pytest.approx(0.6, abs=0.1)


def test_a_stream_loses_no_batch_and_keeps_its_order() -> None:
    batches = [torch.full((64, 3), float(i)) + torch.randn(64, 3) / 100 for i in range(30)]
    seen: list[float] = []

    def watched(model: Any, x0: Tensor, **options: Any) -> ss.losses.Loss:
        seen.append(round(x0.mean().item()))
        return ss.denoising_loss(model, x0, **options)

    ss.train(mlp(), iter(batches), steps=30, objective=watched, progress=False)
    assert seen == list(range(30))


def run(path: Path, steps: int, model: ss.ScoreModel | None = None, **options: Any) -> None:
    settings = {"schedule": "constant", "batch_size": 16, "progress": False, **options}
    ss.train(model or mlp(), table(300), steps=steps, path=path, **settings)


def test_a_resumed_run_has_the_files_numbers_bit_for_bit(tmp_path: Path) -> None:
    run(tmp_path / "a.safetensors", 8)
    run(tmp_path / "b.safetensors", 5)
    model = mlp()
    run(tmp_path / "b.safetensors", 8, model, resume=True)
    assert_same_file(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert not model.data_scale.plain
    assert ss.load(tmp_path / "b.safetensors").data_scale == model.data_scale
    manifest = ss.checkpoint.read_manifest(tmp_path / "b.safetensors")
    assert manifest["convention"]["data_std"] == list(model.data_scale.std)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "changes"), [({}, {"standardize": False}), ({"data_std": 3.0}, {})]
)
def test_a_run_of_another_scale_is_not_resumed(
    tmp_path: Path, options: dict[str, Any], changes: dict[str, Any]
) -> None:
    run(tmp_path / "a.safetensors", 3)
    with pytest.raises(CheckpointError, match=r"standardize|data_std"):
        run(tmp_path / "a.safetensors", 5, mlp(**options), resume=True, **changes)


def test_the_command_line_gives_data(tmp_path: Path) -> None:
    """The samples of a checkpoint with and without the numbers, of one network."""
    for name, options in (("scaled", {"data_mean": MEAN, "data_std": STD}), ("plain", {})):
        model = mlp(**options)
        ss.save(tmp_path / f"{name}.safetensors", model, info={"event_shape": [3]})
        out = str(tmp_path / f"{name}.npy")
        file = str(tmp_path / f"{name}.safetensors")
        assert main(["sample", file, "-n", "4", "--steps", "30", "--out", out]) == 0
    x, z = (np.load(tmp_path / f"{name}.npy") for name in ("scaled", "plain"))
    assert x == pytest.approx(np.array(MEAN) + np.array(STD) * z, rel=1e-4)


def test_what_does_not_fit_is_refused_before_the_network_is_called() -> None:
    with pytest.raises(ParameterError, match="standardize as True or False"):
        ss.train(mlp(), table(), steps=1, standardize=1, progress=False)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="the 2 features"):
        ss.train(mlp(data_std=[1.0, 2.0]), table(), steps=1, progress=False)
    bad = table(50)
    bad[3, 1] = torch.nan
    model = mlp()
    with pytest.raises(ParameterError, match="finite x0"):
        ss.train(model, [bad], steps=1, progress=False)
    assert model.data_scale.plain


@pytest.mark.parametrize("kind", ["tensor", "loader"])
def test_bytes_say_their_range(tmp_path: Path, kind: str) -> None:
    """A checkpoint keeps it, a run resumes with it, and the caller's own is left alone."""
    bytes_ = torch.tensor([[0, 255], [255, 100]], dtype=torch.uint8).repeat(25, 1)  # both ends
    data: Any = bytes_ if kind == "tensor" else DataLoader(TensorDataset(bytes_), batch_size=25)
    path = tmp_path / "m.safetensors"
    model, own = mlp(2), ss.ScoreModel(ss.MLP(2), ss.VPSDE(), data_range=(0.0, 2.0))
    ss.train(model, data, steps=1, path=path, schedule="constant", progress=False)
    assert model.data_range == ss.load(path).data_range == (-1.0, 1.0)
    resumed = mlp(2)
    options = {"schedule": "constant", "progress": False}
    ss.train(resumed, data, steps=2, path=path, resume=True, **options)
    assert resumed.data_range == (-1.0, 1.0)
    ss.train(own, data, steps=1, progress=False)
    assert own.data_range == (0.0, 2.0)


def test_other_data_and_moved_bytes_say_no_range() -> None:
    bytes_, model = torch.randint(0, 256, (50, 2), dtype=torch.uint8), mlp(2)
    ss.train(model, torch.rand(50, 2), steps=1, progress=False)
    assert model.data_range is None
    ss.train(model, bytes_, steps=1, transform=lambda x: 5 * x, progress=False)
    assert model.data_range is None
