"""Networks of this library as diffusers' own: the same function of random weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sdescore as ss
from sdescore.errors import IncompatibleError
from sdescore.interop.guided_diffusion import CONFIGURATIONS, flags_of, network_of
from sdescore.nets import ADM, NCSNpp, score_sde_network
from sdescore.nets.table_ncsnpp import OFFICIAL
from tests.helpers.diffusers import SHAPE, noise

diffusers = pytest.importorskip("diffusers")

LEVELS, SIGMAS = (0.0, 3.7, 500.0, 999.0), (0.01, 0.3, 5.0, 50.0)
HO: dict[str, Any] = {
    "image_size": 8, "nf": 8, "ch_mult": (1, 2), "num_res_blocks": 1, "attn_resolutions": (4,),
    "resblock_type": "ddpm", "fir": False, "skip_rescale": False, "progressive_input": "none",
    "embedding_type": "positional", "scale_by_sigma": False, "centered": True, "groups": 4,
}  # fmt: skip
SKIPS: dict[str, Any] = {
    "image_size": 8, "nf": 32, "ch_mult": (1, 4), "num_res_blocks": 1, "attn_resolutions": (4,),
    "progressive": "output_skip", "progressive_input": "input_skip",
}  # fmt: skip
SMALL: dict[str, Any] = {
    "size": 8, "width": 32, "multipliers": (1, 2), "blocks": 1, "attention": (4,), "heads": 1,
}  # fmt: skip
THREE = {"image_size": 16, "ch_mult": (1, 3, 2), "num_res_blocks": 2}
CASES: dict[str, Any] = {
    "Ho": lambda: NCSNpp(**HO),
    "Ho, one colour": lambda: NCSNpp(**HO | {"num_channels": 1, "groups": 2, "centered": False}),
    "Ho, three levels": lambda: NCSNpp(**HO | THREE | {"attn_resolutions": (16, 4)}),
    "Ho, one level": lambda: NCSNpp(**HO | {"ch_mult": (1,), "num_res_blocks": 3}),
    "skips": lambda: NCSNpp(**SKIPS),
    "skips, centered": lambda: NCSNpp(**SKIPS | {"centered": True, "num_res_blocks": 2}),
    "skips, narrow": lambda: NCSNpp(**SKIPS | THREE | {"nf": 8, "attn_resolutions": ()}),
    "skips, one level": lambda: NCSNpp(**SKIPS | {"ch_mult": (1,), "attn_resolutions": ()}),
    "skips, wide": lambda: NCSNpp(**SKIPS | {"nf": 128, "ch_mult": (1, 2)}),
    "ADM": lambda: ADM(**SMALL),
    "ADM, heads": lambda: ADM(**SMALL | {"head_channels": 16, "attention": (8, 4)}),
    "ADM, new": lambda: ADM(**SMALL, head_channels=16, new_attention=True),
    "ADM, convolutions": lambda: ADM(**SMALL, resample_blocks=False, scale_shift=False),
    "ADM, three levels": lambda: ADM(
        **SMALL | {"multipliers": (1, 1, 2), "blocks": 2, "attention": (2, 4), "channels": 1},
        learned_variance=True,
        resample_blocks=False,
    ),
    "ADM, no attention": lambda: ADM(**SMALL | {"attention": (), "multipliers": (1,)}),
}


def random(net: nn.Module) -> Any:
    """Every weight that is trained drawn anew, those that start at 0 or 1 too."""
    torch.manual_seed(0)
    for p in net.parameters():
        if p.requires_grad:
            nn.init.normal_(p, std=0.2)
    return net.eval()


def with_exact_times(unet: Any) -> Any:
    """Their sines and cosines of the time in float64, where diffusers rounds to float32."""

    def exact(part: Any, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        half = part.num_channels // 2
        rates = [10_000 ** (-i / (half - part.downscale_freq_shift)) for i in range(half)]
        angles = inputs[0].double()[:, None] * torch.tensor(rates, dtype=torch.float64)
        parts = [angles.sin(), angles.cos()]
        return torch.cat(parts[::-1] if part.flip_sin_to_cos else parts, 1)

    unet.time_proj.register_forward_hook(exact)
    return unet


def both(net: Any, unet: Any, *label: Tensor) -> tuple[Tensor, Tensor]:
    """All channels of both networks, at four times."""
    o, dtype = unet.config, next(net.parameters()).dtype
    c = torch.tensor(SIGMAS if o.time_embedding_type == "fourier" else LEVELS, dtype=dtype)
    x = torch.randn(4, o.in_channels, o.sample_size, o.sample_size, dtype=dtype)
    with torch.no_grad():
        ours = net.full(x, c, *label) if isinstance(net, ADM) else net(x, c)
        return ours, unet(x, c, *label).sample


@pytest.mark.parametrize("name", CASES)
def test_it_is_the_same_function(name: str) -> None:
    """To 1e-12 of the largest value, at every pixel, in float64."""
    net = random(CASES[name]()).double()
    unet = ss.interop.to_unet2d(net)
    exact = isinstance(net, ADM) or unet.config.time_embedding_type == "fourier"
    ours, theirs = both(net, unet if exact else with_exact_times(unet))
    assert ours.std() > 1e-2 and unet.dtype == torch.float64
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).abs().max() < 1e-12 * a.abs().max()


@pytest.mark.parametrize("name", ["Ho", "skips", "ADM"])
def test_float32_differs_by_rounding(name: str) -> None:
    """Ho's time is embedded by another formula, and 999 radians are exact to 6e-5."""
    net = random(CASES[name]())
    ours, theirs = both(net, ss.interop.to_unet2d(net))
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-4 * float(ours.abs().max()))


def test_labels_and_their_absence() -> None:
    net = random(ADM(**SMALL, classes=5)).double()
    unet, label = ss.interop.to_unet2d(net), torch.tensor([0, 4, 2, 5])
    ours, theirs = both(net, unet, label)
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-12)
    x, c = torch.randn(1, 3, 8, 8).double(), torch.zeros(1).double()
    none = unet(x, c, torch.tensor([5])).sample
    torch.testing.assert_close(none, net(x, c), rtol=0, atol=1e-12)


def test_which_published_networks_are_the_same_function() -> None:
    found = set()
    for name in (*OFFICIAL, *CONFIGURATIONS):
        with torch.device("meta"):
            released = name in CONFIGURATIONS
            net = network_of(flags_of(name)) if released else score_sde_network(name)
            try:
                unet = ss.interop.to_unet2d(net)
            except IncompatibleError:
                continue
        found.add(name)
        weights = {id(p) for p in net.parameters()} & {id(p) for p in unet.parameters()}
        assert not weights and all(p.is_meta for p in unet.parameters())
    assert found == {
        *(f"vp/ddpm/{data}" for data in ("cifar10", "bedroom", "church", "celebahq")),
        "vp/ddpm/cifar10_continuous",
        "subvp/cifar10_ddpm_continuous",
        *(f"ve/{data}_ncsnpp_continuous" for data in ("bedroom", "church", "celebahq", "ffhq")),
        *(f"ve/{data}_256_ncsnpp_continuous" for data in ("celebahq", "ffhq")),
        *("imagenet-64-cond", "imagenet-256-cond", "imagenet-256-uncond", "lsun-256"),
    }


def test_a_copy_in_the_networks_mode_and_no_draw() -> None:
    net = random(NCSNpp(**SKIPS, dropout=0.3)).train()
    state = torch.get_rng_state()
    unet = ss.interop.to_unet2d(net)
    assert torch.equal(state, torch.get_rng_state())
    assert unet.training and unet.config.dropout == 0.3
    assert [name for name, p in unet.named_parameters() if not p.requires_grad] == [
        "time_proj.weight"
    ]
    before = net.all_modules[3].weight.detach().clone()
    nn.init.zeros_(unet.conv_in.weight)
    assert torch.equal(net.all_modules[3].weight, before) and before.any()
    x, c = torch.rand(2, 3, 8, 8), torch.tensor([0.3, 5.0])
    unet(x, c).sample.square().sum().backward()
    assert all(p.grad is not None for p in unet.parameters() if p.requires_grad)


# ---------------------------------------------------------------- folders of diffusers


def levels(net: nn.Module, **options: Any) -> ss.ScoreModel:
    sde = ss.DiscreteVPSDE.linear()
    return ss.ScoreModel(net, sde, "epsilon", "continuous_level", **options)


def test_the_pipelines_of_diffusers_make_the_images_of_hos_network(tmp_path: Path) -> None:
    model = levels(random(NCSNpp(**HO)), data_range=(-1.0, 1.0))
    ss.interop.save_diffusers(tmp_path, model)
    draws = torch.Generator().manual_seed(3)
    z = torch.stack([torch.randn(SHAPE, generator=draws) for _ in range(10)])
    for name, predictor in {"DDIMPipeline": ss.DDIM(), "DDPMPipeline": ss.Ancestral()}.items():
        pipeline = getattr(diffusers, name).from_pretrained(tmp_path)
        pipeline.set_progress_bar_config(disable=True)
        options: dict[str, Any] = {"output_type": "np", "num_inference_steps": 10}
        generator = torch.Generator().manual_seed(3)
        images = pipeline(batch_size=SHAPE[0], generator=generator, **options).images
        expected = torch.from_numpy(images).permute(0, 3, 1, 2)
        times = model.sde.level_times()[pipeline.scheduler.timesteps]
        sampler = ss.PredictorCorrector(model.sde, predictor, grid=times)
        found = sampler.sample(model, SHAPE, init=z[0], noise=ss.noise.ReplayNoise(z)) / 2 + 0.5
        assert (found.clamp(0, 1) - expected).abs().max() < 1e-4
        assert expected.std() > 0.1
    again, t = ss.load_diffusers(tmp_path), torch.tensor([0.001, 0.7])
    assert again.sde.levels == 1000 and again.data_range == model.data_range
    torch.testing.assert_close(again(noise(), t), model(noise(), t), rtol=1e-4, atol=1e-4)


def test_the_pipeline_of_a_variance_exploding_network(tmp_path: Path) -> None:
    net, sde = random(NCSNpp(**SKIPS)), ss.VESDE(sigma_min=0.02, sigma_max=40.0)
    model = ss.ScoreModel(net, sde, "score", "sigma", data_range=(0.0, 1.0))
    ss.interop.save_diffusers(tmp_path, model)
    pipeline = diffusers.ScoreSdeVePipeline.from_pretrained(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(num_inference_steps=3, output_type="np").images
    assert images.shape == (1, 8, 8, 3)
    again, t = ss.load_diffusers(tmp_path), torch.tensor([0.1, 0.9])
    assert again.sde == sde and again.data_range == (0.0, 1.0)
    x = sde.perturb(noise(), t, noise(2))
    largest = float(model(x, t).detach().abs().max())
    torch.testing.assert_close(again(x, t), model(x, t), rtol=0, atol=1e-5 * largest)


def test_a_network_of_guided_diffusion_keeps_its_variance(tmp_path: Path) -> None:
    net = random(ADM(**SMALL, classes=3, learned_variance=True))
    model, label = levels(net, label_required=True), torch.tensor([2, 0])
    ss.interop.save_diffusers(tmp_path, model)
    pipeline = diffusers.DDPMPipeline.from_pretrained(tmp_path)
    assert pipeline.scheduler.config.variance_type == "learned_range"
    again, t = ss.load_diffusers(tmp_path), torch.tensor([0.001, 0.7])
    x = noise()
    torch.testing.assert_close(again(x, t, label), model(x, t, label), rtol=1e-4, atol=1e-4)
    c, found = torch.tensor([3.0, 700.0]), again.net
    with torch.no_grad():
        pairs = zip(found.with_variance(x, c, label), net.with_variance(x, c, label), strict=True)
        for theirs, ours in pairs:
            torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------- what has no such function


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ss.MLP(2), "one of NCSNpp, DDPMpp, ADM; got MLP"),
        (lambda: type("Own", (ADM,), {})(**SMALL), "got Own"),
        (lambda: ss.nets.DDPMpp(**{k: SKIPS[k] for k in ("image_size", "nf")}), "fir=False"),
        (lambda: NCSNpp(**HO | {"skip_rescale": True}), r"skip_rescale=True \(in diffusers False"),
        (lambda: NCSNpp(**HO | {"scale_by_sigma": True}), "scale_by_sigma=True"),
        (lambda: NCSNpp(**HO | {"round_levels": True}), "round_levels=True"),
        (lambda: NCSNpp(**HO | {"resamp_with_conv": False}), "resamp_with_conv=False"),
        (lambda: NCSNpp(**HO | {"fir": True}), "fir=True"),
        (lambda: NCSNpp(**HO | {"conditional": False}), "conditional=False"),
        (lambda: NCSNpp(**HO | {"nonlinearity": "elu"}), "nonlinearity='elu'"),
        (lambda: NCSNpp(**HO | {"embedding_type": "fourier"}), "embedding_type='fourier'"),
        (lambda: NCSNpp(**HO | {"ch_mult": (2, 2)}), "ch_mult that begins with 1"),
        (lambda: NCSNpp(**HO | {"groups": None}), "as many groups as diffusers has; got"),
        (lambda: NCSNpp(**SKIPS | {"num_channels": 1}), "num_channels=1"),
        (lambda: NCSNpp(**SKIPS | {"fir_kernel": (1, 2, 1)}), r"fir_kernel=\[1"),
        (lambda: NCSNpp(**SKIPS | {"scale_by_sigma": False}), "scale_by_sigma=False"),
        (lambda: NCSNpp(**SKIPS | {"progressive": "residual"}), "progressive='residual'"),
        (lambda: NCSNpp(**SKIPS | {"progressive_combine": "cat"}), "progressive_combine='cat'"),
        (lambda: NCSNpp(**SKIPS | {"nf": 8, "ch_mult": (1, 2)}), "widths that diffusers builds"),
        (lambda: NCSNpp(**SKIPS | {"nf": 32, "ch_mult": (1, 2)}), "as many groups"),
        (lambda: ADM(**SMALL | {"multipliers": (2, 2)}), "first features have its width, 32"),
        (lambda: ADM(**SMALL | {"heads": 2, "attention": (8, 4)}), r"heads of \[16, 32\] channels"),
    ],
)
def test_what_diffusers_does_not_have_is_refused(make: Any, message: str) -> None:
    with pytest.raises(IncompatibleError, match=message) as caught:
        ss.interop.to_unet2d(make())
    assert "\n" not in str(caught.value)


def test_the_features_of_time_are_in_hos_order() -> None:
    """Sines, then cosines, the last rate 1/10000."""
    part = ss.interop.to_unet2d(NCSNpp(**HO)).time_proj
    rates = [10_000 ** (-i / 3) for i in range(4)]
    expected = [math.sin(7 * r) for r in rates] + [math.cos(7 * r) for r in rates]
    assert part(torch.tensor([7.0]))[0].tolist() == pytest.approx(expected, abs=1e-5)
