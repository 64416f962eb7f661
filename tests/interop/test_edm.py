"""EDM's checkpoints: the denoiser by the paper's formulas, its sampler, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sdescore as ss
from sdescore.errors import CheckpointError, IncompatibleError
from sdescore.interop.edm import _convention
from sdescore.interop.edm_configurations import CONFIGS
from tests.helpers import official
from tests.helpers.nets import perturbed

SMALL: dict[str, Any] = {
    "img_resolution": 8,
    "img_channels": 3,
    "model_channels": 16,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "augment_dim": 9,
    "label_dim": 4,
}
SIGMAS = torch.tensor([0.03, 0.5, 2.0, 70.0])


def network(kind: type[nn.Module], **options: Any) -> nn.Module:
    arguments = SMALL | options
    arguments["in_channels"] = arguments.pop("img_channels")
    torch.manual_seed(0)
    return perturbed(kind(classes=arguments.pop("label_dim") or None, **arguments)).eval()


def written(net: nn.Module, path: Path) -> Path:
    """The file of an ``EDMPrecond``, whose network is its part ``model``."""
    torch.save({f"model.{name}": value for name, value in net.state_dict().items()}, path)
    return path


def column(sigma: Tensor) -> Tensor:
    return sigma.reshape(-1, 1, 1, 1)


# ---------------------------------------------------------------- the denoiser


@pytest.mark.parametrize("kind", [ss.nets.SongUNet, ss.nets.DhariwalUNet])
def test_edms_denoiser_is_its_formula(kind: type[nn.Module], tmp_path: Path) -> None:
    """D(x; σ) = c_skip x + c_out F(c_in x; c_noise), table 1's last column."""
    net = network(kind)
    model = ss.load_edm(
        written(net, tmp_path / "edm.pt"), SMALL | {"model_type": kind.__name__, "use_fp16": True}
    )
    label, data = torch.tensor([0, 1, 2, 3]), 0.5
    x = column(SIGMAS) * torch.randn(4, 3, 8, 8)
    sigma = column(SIGMAS)
    total = (sigma**2 + data**2).sqrt()
    output = net(x / total, SIGMAS.log() / 4, label)
    expected = data**2 / total**2 * x + sigma * data / total * output
    torch.testing.assert_close(model.denoise(x, SIGMAS, label), expected, rtol=1e-5, atol=1e-5)
    score = (expected - x) / sigma**2
    torch.testing.assert_close(model(x, SIGMAS, label), score, rtol=1e-4, atol=1e-4)
    assert model.sde == ss.EDMSDE() and model.prediction == "F" and model.sigma_data == 0.5
    assert model.label_required and not model.net.training


@pytest.mark.parametrize(
    ("precond", "c_in", "c_noise", "sign"),
    [
        (
            "vp",
            lambda s: (1 + s**2).rsqrt(),
            lambda s: 999 * ((0.1**2 + 2 * 19.9 * (1 + s**2).log()).sqrt() - 0.1) / 19.9,
            -1,
        ),
        ("ve", torch.ones_like, lambda s: (s / 2).log(), 1),
    ],
)
def test_vp_and_ve_denoisers_are_their_formulas(
    precond: str, c_in: Callable[..., Tensor], c_noise: Callable[..., Tensor], sign: int,
    tmp_path: Path,
) -> None:  # fmt: skip
    """D(x; σ) = x ± σ F(c_in x; c_noise), table 1's first two columns, under EDM's SDE."""
    net = network(ss.nets.SongUNet)
    path = written(net, tmp_path / "edm.pt")
    model = ss.load_edm(path, SMALL | {"model_type": "SongUNet", "precond": precond})
    label, sigmas = torch.tensor([0, 1, 2, 3]), SIGMAS.double()
    x = column(SIGMAS) * torch.randn(4, 3, 8, 8)
    inside = (column(c_in(sigmas)) * x).float()
    expected = x + sign * column(SIGMAS) * net(inside, c_noise(sigmas).float(), label)
    edm = model.under(ss.EDMSDE(sigma_min=0.02, sigma_max=100.0))
    torch.testing.assert_close(edm.denoise(x, SIGMAS, label), expected, rtol=1e-4, atol=1e-4)


def iddpm_table(M: int, C_1: float, C_2: float) -> Tensor:
    """u_0 … u_M by the recursion of the paper's table 1."""
    u, bar = [0.0], [math.sin(math.pi / 2 * j / M / (C_2 + 1)) ** 2 for j in range(M + 1)]
    for j in range(M, 0, -1):
        u.insert(0, math.sqrt((u[0] ** 2 + 1) / max(bar[j - 1] / bar[j], C_1) - 1))
    return torch.tensor(u, dtype=torch.float64)


@pytest.mark.parametrize("numbers", [{}, {"M": 40, "C_1": 0.02, "C_2": 0.05}])
def test_iddpms_denoiser_is_its_formula(numbers: dict[str, Any], tmp_path: Path) -> None:
    """D(x; σ) = x − σ F(x/√(σ² + 1); M − 1 − argmin_j |u_j − σ|), between the levels too."""
    inner = network(ss.nets.DhariwalUNet, out_channels=6)
    u = iddpm_table(**{"M": 1000, "C_1": 0.001, "C_2": 0.008} | numbers)
    state = {f"model.{name}": value for name, value in inner.state_dict().items()}
    torch.save({"u": u.float(), **state}, tmp_path / "a.pt")
    torch.save(inner.state_dict(), tmp_path / "b.pt")
    named = {"class_name": "training.networks.iDDPMPrecond", "use_fp16": False}
    label = torch.tensor([0, 1, 2, 3])
    for file in ("a.pt", "b.pt"):
        model = ss.load_edm(tmp_path / file, SMALL | named | numbers)
        assert model.prediction == "epsilon" and model.label_required
        torch.testing.assert_close(model.net.u.double(), u, rtol=1e-6, atol=0)
        edm = model.under(ss.EDMSDE(sigma_min=1e-3, sigma_max=80.0))
        for sigmas in (u[[2, 9, 20, len(u) - 2]].clamp(max=80), SIGMAS.double()):
            x = column(sigmas.float()) * torch.randn(4, 3, 8, 8)
            level = len(u) - 2 - (u - sigmas[:, None]).abs().argmin(1)
            inside = (x / (column(sigmas) ** 2 + 1).sqrt()).float()
            output = inner(inside, level.float(), label)[:, :3]
            expected = x - column(sigmas) * output
            found = edm.denoise(x, sigmas, label)
            torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-4)
    y, v = model.net.with_variance(inside, sigmas.log().float() / 4, label)
    torch.testing.assert_close(torch.cat([y, v], 1), inner(inside, level.float(), label))
    ancestral = ss.PredictorCorrector(model.sde, ss.Ancestral("learned_range"))
    if model.sde.levels < 100:
        assert bool(ancestral.sample(model, (4, 3, 8, 8), label=label).isfinite().all())
    with pytest.raises(CheckpointError, match="noise levels of the configuration"):
        ss.load_edm(tmp_path / "a.pt", SMALL | named | numbers | {"C_2": 0.06})
    # Level i of a DDPM has σ/α = u_{M−1−i}.
    alpha, sigma = model.sde.marginal(model.sde.level_times())
    torch.testing.assert_close(sigma / alpha, u[:-1].flip(0), rtol=1e-9, atol=0)


def test_the_named_sdes() -> None:
    sdes = {
        "edm": ss.EDMSDE(),
        "vp": ss.VPSDE(beta_min=0.1, beta_max=20.0),
        "ve": ss.VESDE(sigma_min=0.02, sigma_max=100.0),
    }
    for precond, sde in sdes.items():
        assert _convention(precond, {})[0] == sde
    options = {"sigma_min": 0.01, "sigma_max": 40.0}
    assert _convention("edm", options)[0] == ss.EDMSDE(sigma_min=0.01, sigma_max=40.0)


def test_edms_sampler_by_hand(tmp_path: Path) -> None:
    """Algorithm 1 of the paper on its grid, ρ = 7, 10 steps, from the same noise."""
    net = network(ss.nets.SongUNet, label_dim=0)
    path = written(net, tmp_path / "edm.pt")
    model = ss.load_edm(path, SMALL | {"model_type": "SongUNet", "label_dim": 0})
    assert not model.label_required
    n, low, high, rho = 10, 0.002, 80.0, 7
    ends = high ** (1 / rho), low ** (1 / rho)
    times = [(ends[0] + i / (n - 1) * (ends[1] - ends[0])) ** rho for i in range(n)] + [0.0]

    def denoised(x: Tensor, sigma: float) -> Tensor:
        total = math.hypot(sigma, 0.5)
        output = net((x / total).float(), torch.full((2,), math.log(sigma) / 4)).double()
        return (0.5 / total) ** 2 * x + sigma * 0.5 / total * output

    noise = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        x = high * noise.double()
        for t, after in pairwise(times):
            d = (x - denoised(x, t)) / t
            y = x + (after - t) * d
            if after:
                y = x + (after - t) * (d + (y - denoised(y, after)) / after) / 2
            x = y
    sampler = ss.PredictorCorrector(model.sde, predictor=ss.Heun(), grid=ss.KarrasGrid(), steps=n)
    got = sampler.sample(model, init=high * noise)
    assert (got - x).abs().max() < 1e-5 * x.abs().max()


# ---------------------------------------------------------------- files and configurations


def test_named_configurations_are_the_published_ones() -> None:
    table = official.facts("edm")
    released = {name for name in CONFIGS if not name.startswith("edm2-")}
    assert released == {name for name in table if not name.startswith("small")}
    preconds = {"vp": "vp", "ve": "ve", "adm": "iddpm"}
    for name in released:
        config, published = dict(CONFIGS[name]), dict(table[name]["network"])
        baseline = name.startswith("baseline")
        assert config.pop("precond", "edm") == (
            preconds[name.rpartition("-")[2]] if baseline else "edm"
        )
        del config["dropout"]
        assert published.pop("out_channels") == (6 if baseline and "imagenet" in name else 3)
        assert published == {"in_channels": 3, "label_dim": 0, "augment_dim": 0, **config}


@pytest.mark.parametrize(("channels", "ends"), [(3, (-1.0, 1.0)), (4, None)])
def test_pixels_have_a_range_and_codes_of_an_autoencoder_none(
    tmp_path: Path, channels: int, ends: tuple[float, float] | None
) -> None:
    own = {"img_channels": channels}
    path = written(network(ss.nets.SongUNet, **own), tmp_path / "edm.pt")
    assert ss.load_edm(path, SMALL | own | {"model_type": "SongUNet"}).data_range == ends


def test_a_released_name_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONFIGS, "tiny-cond-vp", SMALL | {"model_type": "SongUNet"})
    net = network(ss.nets.SongUNet)
    path = written(net, tmp_path / "edm-tiny-cond-vp.pt")
    for name in ("tiny-cond-vp", "edm-tiny-cond-vp", "edm-tiny-cond-vp.pkl"):
        found = ss.load_edm(path, name).net.state_dict()
        assert all(torch.equal(found[key], value) for key, value in net.state_dict().items())
    with pytest.raises(IncompatibleError, match=r"expected config .*cifar10-32x32-cond-vp"):
        ss.load_edm(path, "cifar10")


@pytest.mark.parametrize("form", ["bare", "module", "ema", "safetensors", "half"])
def test_files_of_every_form(form: str, tmp_path: Path) -> None:
    net = network(ss.nets.SongUNet)
    state: Any = {f"model.{name}": value for name, value in net.state_dict().items()}
    path = tmp_path / "edm.pt"
    if form == "safetensors":
        from safetensors.torch import save_file

        path = tmp_path / "edm.safetensors"
        save_file(state, path)
    else:
        state = {
            "bare": net.state_dict(),
            "module": {f"module.{name}": value for name, value in state.items()},
            "ema": {"ema": state, "net": {name: 0 * value for name, value in state.items()}},
            "half": {name: value.half() for name, value in state.items()},
        }[form]
        torch.save(state, path)
    found = ss.load_edm(path, SMALL | {"model_type": "SongUNet"}).net.state_dict()
    for name, value in net.state_dict().items():
        assert found[name].dtype == value.dtype
        torch.testing.assert_close(
            found[name], value.half().float() if form == "half" else value, rtol=0, atol=0
        )


def test_training_options_of_edm(tmp_path: Path) -> None:
    """``class_name`` names the preconditioning; numbers of each are taken."""
    net = network(ss.nets.SongUNet)
    path = written(net, tmp_path / "edm.pt")
    options = SMALL | {"model_type": "SongUNet", "dropout": 0.1, "label_dropout": 0.1}
    model = ss.load_edm(path, options | {"class_name": "training.networks.EDMPrecond"})
    assert model.prediction == "F" and not model.label_required
    vp = {"class_name": "training.networks.VPPrecond", "beta_d": 9.0, "beta_min": 1.0}
    vp |= {"M": 1000, "epsilon_t": 1e-5}
    assert ss.load_edm(path, options | vp).sde == ss.VPSDE(beta_min=1.0, beta_max=10.0)
    ve = {"class_name": "training.networks.VEPrecond", "sigma_min": 0.1, "sigma_max": 9.0}
    assert ss.load_edm(path, options | ve).sde == ss.VESDE(sigma_min=0.1, sigma_max=9.0)


@pytest.mark.parametrize("precond", ["edm", "vp", "ve"])
def test_a_loaded_model_is_saved_and_loaded(precond: str, tmp_path: Path) -> None:
    path = written(network(ss.nets.SongUNet), tmp_path / "edm.pt")
    model = ss.load_edm(path, SMALL | {"model_type": "SongUNet", "precond": precond})
    ss.save(tmp_path / "ours.safetensors", model)
    again = ss.load(tmp_path / "ours.safetensors")
    x, t, label = torch.randn(2, 3, 8, 8), torch.tensor([0.3, 0.9]), torch.tensor([0, 3])
    assert again.sde == model.sde and again.label_required
    assert torch.equal(again(x, t, label), model(x, t, label))


def test_pickles_are_refused_with_the_way_to_convert(tmp_path: Path) -> None:
    path = tmp_path / "edm-cifar10-32x32-cond-vp.pkl"
    path.write_bytes(b"\x80\x04N.")
    with pytest.raises(CheckpointError, match=r"\[\"ema\"\]; torch.save\(net.state_dict\(\)"):
        ss.load_edm(path, "cifar10-32x32-cond-vp")
    renamed = tmp_path / "edm.pt"
    torch.save(network(ss.nets.SongUNet), renamed)
    with pytest.raises(CheckpointError, match=r"torch.save\(net.state_dict\(\)"):
        ss.load_edm(renamed, SMALL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"precond": "cosine"}, "precond"),
        ({"class_name": "training.networks.CosinePrecond"}, "class_name"),
        ({"precond": "vp", "M": 500}, "M = 1000"),
        ({"precond": "ve", "model_type": "DhariwalUNet"}, "SongUNet"),
        ({"precond": "iddpm"}, "DhariwalUNet"),
        ({"model_type": "UNet"}, "model_type"),
        ({"num_heads": 4}, "num_heads"),
        ({"img_resolution": None}, "img_resolution"),
    ],
)
def test_what_has_no_convention_is_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = written(network(ss.nets.SongUNet), tmp_path / "edm.pt")
    config = {k: v for k, v in (SMALL | {"model_type": "SongUNet"} | change).items() if v}
    with pytest.raises(IncompatibleError, match=message):
        ss.load_edm(path, config)


def test_tensors_of_another_network_are_refused(tmp_path: Path) -> None:
    path = written(network(ss.nets.SongUNet), tmp_path / "edm.pt")
    with pytest.raises(CheckpointError, match=r"map_label.*check the configuration"):
        ss.load_edm(path, SMALL | {"model_type": "SongUNet", "label_dim": 0})
    with pytest.raises(FileNotFoundError):
        ss.load_edm(tmp_path / "none.pt", SMALL)
