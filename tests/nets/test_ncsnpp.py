"""NCSN++ and DDPM++: names and shapes of the official networks, and diffusers' own function."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sdescore as ss
from sdescore.errors import IncompatibleError, ParameterError, ShapeError
from sdescore.nets import DDPMpp, NCSNpp, score_sde_network
from tests.helpers import official
from tests.helpers.nets import perturbed

TABLE = official.facts("score_sde")
TINY: dict[str, Any] = {
    "image_size": 8,
    "nf": 8,
    "ch_mult": (1, 2),
    "num_res_blocks": 1,
    "attn_resolutions": (4,),
}


@pytest.mark.parametrize("name", TABLE)
def test_names_shapes_and_order_are_the_official_ones(name: str) -> None:
    with torch.device("meta"):
        official.check(official.rows(score_sde_network(name)), TABLE[name]["table"])


@pytest.mark.parametrize(
    ("kind", "name"),
    [(NCSNpp, "ve/cifar10_ncsnpp_continuous"), (DDPMpp, "vp/cifar10_ddpmpp_continuous")],
)
def test_the_defaults_are_an_official_configuration(kind: type[NCSNpp], name: str) -> None:
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in kind().state_dict().items()}
        assert shapes == {k: v.shape for k, v in score_sde_network(name).state_dict().items()}


def test_sizes_are_the_published_ones() -> None:
    # google/ncsnpp-church-256 has 65.6 M; the CIFAR-10 networks 62 M, and 107 M where deep.
    assert TABLE["ve/church_ncsnpp_continuous"]["parameters"] == 65_574_549
    assert TABLE["vp/cifar10_ddpmpp_continuous"]["parameters"] == 61_804_419
    assert round(TABLE["ve/cifar10_ncsnpp_deep_continuous"]["parameters"], -5) == 107_600_000


def test_the_frozen_frequencies_are_the_only_parameter_without_gradient() -> None:
    frozen = [name for name, p in NCSNpp(**TINY).named_parameters() if not p.requires_grad]
    assert frozen == ["all_modules.0.W"]


def test_the_table_of_levels_is_geometric_and_stays_in_float64() -> None:
    net = NCSNpp(**TINY, sigma_min=0.01, sigma_max=50, num_scales=5)
    expected = torch.tensor([50 * (0.01 / 50) ** (i / 4) for i in range(5)], dtype=torch.float64)
    for cast in (net, net.double(), net.float(), copy.deepcopy(net).to(torch.bfloat16)):
        torch.testing.assert_close(cast.sigmas, expected, rtol=1e-14, atol=0)


def mapped(net: NCSNpp, other: Any) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Parts of an NCSN++ with output_skip and input_skip, and diffusers' part for each."""
    parts = iter(net.all_modules)
    next(parts)
    theirs = [other.time_embedding.linear_1, other.time_embedding.linear_2, other.conv_in]
    for block in other.down_blocks:
        attentions = getattr(block, "attentions", [None] * len(block.resnets))
        for resnet, attention in zip(block.resnets, attentions, strict=True):
            theirs += [resnet, attention]
        theirs += [block.resnet_down, block.skip_conv]
    middle = other.mid_block
    theirs += [middle.resnets[0], middle.attentions[0], middle.resnets[1]]
    for block in other.up_blocks:
        theirs += [*block.resnets, *getattr(block, "attentions", [])]
        theirs += [block.skip_norm, block.skip_conv, block.resnet_up]
    theirs += [other.conv_norm_out, other.conv_out]
    return zip(parts, [part for part in theirs if part is not None], strict=True)


def copy_into(ours: nn.Module, theirs: Any) -> None:
    names = {
        "GroupNorm_0": "norm1",
        "Conv_0": "conv1",
        "Dense_0": "time_emb_proj",
        "GroupNorm_1": "norm2",
        "Conv_1": "conv2",
        "Conv_2": "conv_shortcut",
    }
    if hasattr(ours, "NIN_3"):
        theirs.group_norm.load_state_dict(ours.GroupNorm_0.state_dict())
        linear = (theirs.to_q, theirs.to_k, theirs.to_v, theirs.to_out[0])
        for i, layer in enumerate(linear):
            nin = getattr(ours, f"NIN_{i}")
            layer.load_state_dict({"weight": nin.W.T, "bias": nin.b})
    elif hasattr(ours, "Conv_1"):
        for name, other in names.items():
            if hasattr(ours, name):
                getattr(theirs, other).load_state_dict(getattr(ours, name).state_dict())
    else:
        theirs.load_state_dict((ours.Conv_0 if hasattr(ours, "Conv_0") else ours).state_dict())


@torch.no_grad()
def test_forward_is_the_network_of_diffusers() -> None:
    """diffusers' UNet2DModel with the blocks of google/ncsnpp-*, of the same weights."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    net = NCSNpp(
        16,
        nf=128,
        ch_mult=(1, 1, 2),
        num_res_blocks=1,
        attn_resolutions=(8,),
        progressive="output_skip",
        progressive_input="input_skip",
        dropout=0.0,
    )
    other = diffusers.UNet2DModel(
        sample_size=16,
        center_input_sample=True,
        time_embedding_type="fourier",
        down_block_types=("SkipDownBlock2D", "AttnSkipDownBlock2D", "SkipDownBlock2D"),
        up_block_types=("SkipUpBlock2D", "AttnSkipUpBlock2D", "SkipUpBlock2D"),
        block_out_channels=(128, 128, 256),
        layers_per_block=1,
        mid_block_scale_factor=math.sqrt(2),
        attention_head_dim=None,
        norm_num_groups=None,
        norm_eps=1e-6,
    )
    perturbed(net)
    other.time_proj.weight.copy_(net.all_modules[0].W)
    for ours, theirs in mapped(net, other):
        copy_into(ours, theirs)
    x, sigma = torch.rand(2, 3, 16, 16), torch.tensor([0.3, 20.0])
    torch.testing.assert_close(
        sigma[:, None, None, None] * net.eval()(x, sigma),
        sigma[:, None, None, None] * other.eval()(x, sigma).sample,
        rtol=1e-4,
        atol=1e-4,
    )


@torch.no_grad()
def test_data_that_are_not_centered_become_so() -> None:
    torch.manual_seed(0)
    net = perturbed(NCSNpp(**TINY)).eval()
    centered = NCSNpp(**TINY, centered=True).eval()
    centered.load_state_dict(net.state_dict())
    x, c = torch.rand(2, 3, 8, 8), torch.tensor([0.1, 3.0])
    torch.testing.assert_close(net(x, c), centered(2 * x - 1, c))


@torch.no_grad()
@pytest.mark.parametrize("embedding", ["fourier", "positional"])
def test_the_output_is_divided_by_sigma(embedding: str) -> None:
    torch.manual_seed(0)
    net = perturbed(NCSNpp(**TINY, embedding_type=embedding)).eval()
    plain = NCSNpp(**TINY, embedding_type=embedding, scale_by_sigma=False).eval()
    plain.load_state_dict(net.state_dict())
    c = torch.tensor([0.1, 3.0]) if embedding == "fourier" else torch.tensor([0, 998])
    sigma = c if embedding == "fourier" else net.sigmas[c].float()
    x = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(net(x, c), plain(x, c) / sigma[:, None, None, None])


@torch.no_grad()
def test_levels_are_rounded_where_asked_for() -> None:
    torch.manual_seed(0)
    net = perturbed(NCSNpp(**TINY, embedding_type="positional", round_levels=True)).eval()
    x = torch.rand(2, 3, 8, 8)
    near = net(x, torch.tensor([3.4, 996.6]))
    assert torch.equal(near, net(x, torch.tensor([3, 997])))


@torch.no_grad()
def test_a_sample_does_not_depend_on_its_batch() -> None:
    torch.manual_seed(0)
    net = perturbed(DDPMpp(**TINY)).eval()
    x, c = torch.randn(3, 3, 8, 8), torch.tensor([1.0, 500.0, 999.0])
    torch.testing.assert_close(net(x, c)[1:2], net(x[1:2], c[1:2]))


def paths() -> Iterator[dict[str, Any]]:
    for progressive in ("none", "output_skip", "residual"):
        for into in ("none", "input_skip", "residual"):
            for fir in (False, True):
                options = {"progressive": progressive, "progressive_input": into, "fir": fir}
                yield {**options, "resblock_type": "ddpm" if fir else "biggan"}
    yield {"progressive_input": "input_skip", "progressive_combine": "cat"}
    yield {"conditional": False, "skip_rescale": False, "nonlinearity": "elu"}
    yield {"resblock_type": "ddpm", "fir": False, "resamp_with_conv": False, "groups": 4}


@pytest.mark.parametrize("options", list(paths()), ids=lambda o: "-".join(map(str, o.values())))
def test_every_weight_matters(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    net = perturbed(NCSNpp(**TINY, **options))
    y = net(torch.rand(2, 3, 8, 8), torch.tensor([0.3, 20.0]))
    assert y.shape == (2, 3, 8, 8)
    y.square().mean().backward()
    idle = {name for name, p in net.named_parameters() if p.requires_grad and p.grad is None}
    unused = "Dense_0" if not options.get("conditional", True) else "nothing"
    assert all(unused in name for name in idle)


def test_it_trains_at_integer_levels() -> None:
    torch.manual_seed(0)
    sde, net = ss.DiscreteVPSDE.linear(), DDPMpp(**TINY)
    model = ss.ScoreModel(net, sde, prediction="epsilon", time_input="level")
    before = net.all_modules[-1].weight.detach().clone()
    ss.train(model, torch.rand(64, 3, 8, 8), steps=2, batch_size=16, progress=False)
    assert not torch.equal(before, net.all_modules[-1].weight)


@pytest.mark.parametrize(
    "net", [NCSNpp(**TINY), DDPMpp(**TINY)], ids=lambda net: type(net).__name__
)
def test_a_checkpoint_builds_it_again(net: NCSNpp, tmp_path: Path) -> None:
    perturbed(net)
    model = ss.ScoreModel(net, ss.VESDE(), prediction="score", time_input="sigma")
    ss.save(tmp_path / "net.safetensors", model)
    again: Any = ss.load(tmp_path / "net.safetensors").net
    assert type(again) is type(net) and again.config == net.config
    assert again.sigmas.dtype == torch.float64
    for name, value in net.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 9}, "image_size divisible by 2"),
        ({"nf": 6}, "a multiple of 4"),
        ({"ch_mult": ()}, "at least one ch_mult"),
        ({"progressive": "skip"}, "progressive among none, output_skip, residual"),
        ({"nonlinearity": "gelu"}, "nonlinearity among"),
        ({"sigma_min": 60.0}, "sigma_min < 50"),
        ({"fir_kernel": (1,)}, "fir_kernel"),
        ({"centered": 1}, "centered as True or False"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ParameterError, IncompatibleError), match=message):
        NCSNpp(**{**TINY, **options})


def test_bad_inputs_are_refused() -> None:
    net, x, c = NCSNpp(**TINY), torch.rand(2, 3, 8, 8), torch.ones(2)
    for bad in (x[:, :1], x[..., :4], x.double()):
        with pytest.raises(ShapeError, match="images of shape"):
            net(bad, c)
    with pytest.raises(ShapeError, match="time input"):
        net(x, c[:1])
    with pytest.raises(IncompatibleError, match="no label"):
        net(x, c, torch.zeros(2, dtype=torch.int64))


def test_second_derivatives_exist() -> None:
    torch.manual_seed(0)
    net = perturbed(NCSNpp(**TINY)).double().eval()
    c = torch.tensor([0.5], dtype=torch.float64)

    def total(x: Tensor) -> Tensor:
        return net(x, c).square().sum()

    x = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    v = torch.randn_like(x)
    _, product = torch.autograd.functional.hvp(total, x, v)
    step = 1e-5
    gradient = torch.autograd.functional.vjp
    plus, minus = (gradient(total, x + s * step * v)[1] for s in (1, -1))
    torch.testing.assert_close(product, (plus - minus) / (2 * step), rtol=1e-5, atol=1e-4)
