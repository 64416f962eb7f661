"""NCSN's networks: the official tensors, and the function against one written out here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.signal import correlate2d
from torch import Tensor, nn
from torch.nn import functional as F

import sdescore as ss
from sdescore.nets import NCSN, NCSNv2
from sdescore.nets.blocks_ncsn import ConvMeanPool, InstanceNormPlus, Normalization
from sdescore.nets.blocks_refinenet import Fusion
from tests.helpers import official
from tests.helpers.ncsn import NETS, SIGMAS
from tests.helpers.nets import perturbed

# Tower's and CelebA's NCSN repeat two of these.
OFFICIAL = official.facts("ncsnv2")
PUBLISHED: dict[str, Callable[[], nn.Module]] = {
    "cifar10": lambda: NCSNv2(3, ladder(50, 232)),
    "celeba": lambda: NCSNv2(3, ladder(90, 500)),
    "church": lambda: NCSNv2(3, ladder(140, 788), depth=5),
    "bedroom": lambda: NCSNv2(3, ladder(190, 1086), depth=5),
    "ffhq": lambda: NCSNv2(3, ladder(348, 2311), depth=6),
    "ncsn-cifar10": lambda: NCSN(3),
    "ncsn-mnist": lambda: NCSN(1, width=64),
    "NCSNdeeper": lambda: NCSN(3, depth=5),
    "CondRefineNetDeeperDilated": lambda: NCSN(3, depth=5, normalization="InstanceNorm"),
}


def ladder(sigma_max: float, levels: int) -> tuple[float, ...]:
    sde = ss.DiscreteVESDE.geometric(sigma_max=sigma_max, sigma_min=0.01, levels=levels)
    return sde.sigmas


@pytest.fixture(params=NETS)
def case(request: pytest.FixtureRequest) -> tuple[Any, Tensor, Tensor]:
    """A perturbed network in float64, with a batch for it."""
    make, size = NETS[request.param]
    torch.manual_seed(0)
    x = torch.rand(4, 2, size, size + 8, dtype=torch.float64)
    return perturbed(make()).double(), x, torch.tensor([0, 3, 1, 2])


@pytest.mark.parametrize("name", OFFICIAL)
def test_tensors_are_the_official_ones(name: str) -> None:
    with torch.device("meta"):
        official.check(official.rows(PUBLISHED[name]()), OFFICIAL[name]["table"])


class Written:
    """The function of a network's tensors, written from the papers."""

    def __init__(self, net: NCSNv2 | NCSN, c: Tensor) -> None:
        self.state, self.c = dict(net.state_dict()), c
        self.conditional = "normalizer.embed.weight" in self.state
        self.plain = net.config.get("normalization") == "InstanceNorm"
        self.act = F.silu if net.config["nonlinearity"] == "swish" else F.elu

    def conv(self, name: str, x: Tensor, dilation: int = 1) -> Tensor:
        weight = self.state[name + ".weight"]
        pad = dilation * (weight.shape[-1] // 2)
        bias = self.state.get(name + ".bias")
        return F.conv2d(x, weight, bias, padding=pad, dilation=dilation)

    def norm(self, name: str, x: Tensor) -> Tensor:
        if self.plain:
            gamma, beta = self.state[name + ".embed.weight"][self.c].chunk(2, 1)
            alpha = torch.zeros_like(beta)
        elif self.conditional:
            gamma, alpha, beta = self.state[name + ".embed.weight"][self.c].chunk(3, 1)
        else:
            alpha, gamma, beta = (
                self.state[f"{name}.{n}"][None] for n in ("alpha", "gamma", "beta")
            )
        out = []
        for k in range(x.shape[1]):
            flat, means = x[:, k].flatten(1), x.flatten(2).mean(2)
            mean, variance = flat.mean(1, keepdim=True), flat.var(1, unbiased=False, keepdim=True)
            m, v = means.mean(1), means.var(1, unbiased=True)
            h = (flat - mean) / (variance + 1e-5).sqrt()
            h = h + (alpha[:, k] * (means[:, k] - m) / (v + 1e-5).sqrt())[:, None]
            out.append((gamma[:, k, None] * h + beta[:, k, None]).view_as(x[:, k]))
        return torch.stack(out, 1)

    def residual(self, name: str, x: Tensor, dilation: int, pools: bool) -> Tensor:
        h = self.conv(name + ".conv1", self.act(self.norm(name + ".normalize1", x)), dilation)
        h = self.act(self.norm(name + ".normalize2", h))
        if pools:
            short = F.avg_pool2d(self.conv(name + ".shortcut.conv", x), 2)
            return short + F.avg_pool2d(self.conv(name + ".conv2.conv", h), 2)
        if name + ".shortcut.weight" in self.state:
            x = self.conv(name + ".shortcut", x, dilation)
        return x + self.conv(name + ".conv2", h, dilation)

    def units(self, name: str, x: Tensor, count: int) -> Tensor:
        for i in range(1, count + 1):
            h = x
            for j in (1, 2):
                h = self.norm(f"{name}.{i}_{j}_norm", h) if self.conditional else h
                h = self.conv(f"{name}.{i}_{j}_conv", self.act(h))
            x = x + h
        return x

    def refine(self, name: str, xs: list[Tensor], count: int = 1) -> Tensor:
        hs = [self.units(f"{name}.adapt_convs.{i}", x, 2) for i, x in enumerate(xs)]
        if len(hs) > 1:
            if self.conditional:
                hs = [self.norm(f"{name}.msf.norms.{i}", h) for i, h in enumerate(hs)]
            size = hs[0].shape[2:]
            hs = [self.conv(f"{name}.msf.convs.{i}", h) for i, h in enumerate(hs)]
            hs = [F.interpolate(h, size, mode="bilinear", align_corners=True) for h in hs]
        x = path = self.act(torch.stack(hs).sum(0) if len(hs) > 1 else hs[0])
        for i in (0, 1):
            if self.conditional:
                path = F.avg_pool2d(self.norm(f"{name}.crp.norms.{i}", path), 5, 1, 2)
            else:
                path = F.max_pool2d(path, 5, 1, 2)
            path = self.conv(f"{name}.crp.convs.{i}", path)
            x = x + path
        return self.units(name + ".output_convs", x, count)

    def __call__(self, x: Tensor, stages: str, decoder: str) -> Tensor:
        """``stages`` such as "1 2p 3:2" (p pools, :2 is the dilation), from fine to coarse."""
        h, skips = self.conv("begin_conv", x), []
        for stage in stages.split():
            name, _, dilation = stage.partition(":")
            pools, name = "p" in name, "res" + name.rstrip("p")
            for block in ("0", "1"):
                pool = pools and block == "0"
                h = self.residual(f"{name}.{block}", h, int(dilation or 1), pool)
            skips.append(h)
        first, *others = (f"refine{i}" for i in decoder.split())
        h = self.refine(first, [skips.pop()])
        for name in others:
            h = self.refine(name, [skips.pop(), h], 3 if name == others[-1] else 1)
        return self.conv("end_conv", self.act(self.norm("normalizer", h)))


PARTS = {
    4: ("1 2p 3:2 4:4", "1 2 3 4"),
    5: ("1 2p 3p 4:2 5:4", "1 2 3 4 5"),
    6: ("1 2p 3p 31p 4:2 5:4", "1 2 31 3 4 5"),
}


@torch.no_grad()
def test_the_function_is_the_papers(case: Any) -> None:
    net, x, c = case
    inputs = x if net.config["rescaled"] else 2 * x - 1
    expected = Written(net, c)(inputs, *PARTS[net.config.get("depth", 4)])
    if isinstance(net, NCSNv2):
        expected = expected / torch.tensor(SIGMAS)[c].double()[:, None, None, None]
    torch.testing.assert_close(net(x, c), expected, rtol=1e-10, atol=1e-10)


def test_the_blocks_against_scipy_and_numpy() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 3, 6, 8, dtype=torch.float64)
    pool = ConvMeanPool(3, 2, 3).double()
    weight, bias = pool.conv.weight.detach().numpy(), pool.conv.bias.detach().numpy()
    full = [
        sum(correlate2d(x[0, i], weight[o, i], mode="same") for i in range(3)) + bias[o]
        for o in range(2)
    ]
    expected = np.stack(full).reshape(2, 3, 2, 4, 2).mean((2, 4))
    np.testing.assert_allclose(pool(x)[0].detach().numpy(), expected, rtol=1e-12)

    fuse = Fusion(3, 2, Normalization()).double()
    coarse = torch.randn(1, 3, 3, 4, dtype=torch.float64)
    fine = fuse.convs[0](x)[0].detach().numpy()
    small = fuse.convs[1](coarse)[0].detach().numpy()
    for k in range(2):  # corners on corners: pixel i of 6 is at 2 i / 5 of 0 … 2
        rows = [np.interp(np.arange(8) * 3 / 7, np.arange(4), row) for row in small[k]]
        columns = np.array(rows).T
        up = [np.interp(np.arange(6) * 2 / 5, np.arange(3), column) for column in columns]
        got = fuse([x, coarse], torch.zeros(1))[0, k].detach().numpy()
        np.testing.assert_allclose(got, fine[k] + np.array(up).T, rtol=1e-10, atol=1e-12)


def test_instance_norm_plus_of_constant_channels() -> None:
    """Instance normalisation forgets a channel's mean; the added term is all that is left."""
    norm = InstanceNormPlus(2)
    with torch.no_grad():
        norm.alpha[:], norm.gamma[:], norm.beta[:] = 1.0, 2.0, 0.5
    x = torch.tensor([3.0, 5.0])[None, :, None, None].expand(1, 2, 4, 4)
    # m = 4 and v = 2 with one degree of freedom: (3 − 4)/√2, twice, plus ½.
    y = norm(x, torch.zeros(1))[0, :, 0, 0]
    torch.testing.assert_close(y, torch.tensor([0.5 - 2**0.5, 0.5 + 2**0.5]), atol=1e-4, rtol=0)


def test_sigma_at_levels_and_between() -> None:
    torch.manual_seed(0)
    net = NCSNv2(1, SIGMAS, 4)
    x = torch.rand(4, 1, 8, 8)
    at = net(x, torch.tensor([0, 1, 2, 3]))
    assert torch.equal(net(x, torch.tensor([0.0, 1.0, 2.0, 3.0])), at)
    torch.testing.assert_close(
        at, at[:1] * 0 + net(x, torch.zeros(4)) * 2.0 / net.sigmas[:, None, None, None]
    )
    # ½ log 1 + ½ log ¼ = log ½
    torch.testing.assert_close(net(x, torch.full((4,), 1.5)), net(x, torch.ones(4)) * 2)


def test_rescaled_takes_the_rescaled_data() -> None:
    torch.manual_seed(0)
    net, twin = NCSNv2(1, SIGMAS, 4), NCSNv2(1, SIGMAS, 4, rescaled=True)
    twin.load_state_dict(net.state_dict())
    x, c = torch.rand(2, 1, 8, 8), torch.tensor([0, 3])
    assert torch.equal(net(x, c), twin(2 * x - 1, c))


@pytest.mark.filterwarnings("ignore:.*degrees of freedom")  # torch's own, of an empty batch
def test_a_network_is_rebuilt_from_its_config(case: Any) -> None:
    net, x, c = case
    config = json.loads(json.dumps(net.config))
    assert config == net.config
    twin = type(net)(**config).double()
    twin.load_state_dict(net.state_dict())
    assert torch.equal(twin(x, c), net(x, c))
    assert net(x[:0], c[:0]).shape == x[:0].shape


def test_a_sample_does_not_depend_on_its_companions(case: Any) -> None:
    net, x, c = case
    together = net(x, c)
    for i in range(len(x)):
        torch.testing.assert_close(net(x[i : i + 1], c[i : i + 1])[0], together[i])


def test_every_parameter_gets_gradient(case: Any) -> None:
    net, x, c = case
    net(x, c).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert bool((parameter.grad.flatten(1 if "embed" in name else 0).abs() > 0).any()), name


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")  # torch's own, inside jvp
def test_is_twice_differentiable_in_both_modes(case: Any) -> None:
    net, x, c = case
    x = x[:1]
    v, c, h = torch.randn_like(x), c[:1], 1e-6
    _, forward = torch.func.jvp(lambda y: net(y, c), (x,), (v,))
    numeric = (net(x + h * v, c) - net(x - h * v, c)) / (2 * h)
    torch.testing.assert_close(forward, numeric, rtol=1e-4, atol=1e-4)
    x = x.requires_grad_()
    (gradient,) = torch.autograd.grad((net(x, c) * v).sum(), x, create_graph=True)
    (gradient * v).sum().backward()
    assert net.begin_conv.weight.grad is not None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["NCSNv2", "NCSN"])
@pytest.mark.parametrize("options", [{}, {"precision": "bf16"}], ids=["float32", "bf16"])
def test_trains_and_is_saved(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = NCSNv2(1, SIGMAS, 8, rescaled=True) if name == "NCSNv2" else NCSN(1, 4, 8, True)
    sde = ss.DiscreteVESDE(sigmas=SIGMAS)
    model = ss.ScoreModel(net, sde, prediction="score", time_input="level")
    data = torch.rand(64, 1, 1, 1).expand(64, 1, 8, 8)
    path = tmp_path / "net.safetensors"
    result = ss.train(model, data, steps=40, batch_size=8, path=path, progress=False, **options)
    losses = result.losses
    assert sum(losses[-10:]) < sum(losses[:10])
    loaded = ss.load(path, weights="raw")
    x = torch.rand(2, 1, 8, 8)
    assert loaded.net.config == net.config
    torch.testing.assert_close(loaded(x, 1.0), model(x, 1.0))
