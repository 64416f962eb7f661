"""Networks and EMA: shapes, conditioning, batch independence, typed errors, and a real fit."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sdescore.errors import CheckpointError, IncompatibleError, ParameterError, ShapeError
from sdescore.nets import EMA, MLP, FourierEmbedding, PositionalEmbedding, UNet

SMALL: dict[str, Any] = {"width": 8, "multipliers": (1, 2), "blocks": 1}
NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: MLP(3, hidden=16, depth=2), (3,)),
    "mlp-classes": (lambda: MLP(3, hidden=16, embedding="fourier", classes=4), (3,)),
    "unet": (lambda: UNet(1, **SMALL), (1, 8, 8)),
    "unet-full": (
        lambda: UNet(
            3,
            width=12,
            multipliers=[1, 2, 3],
            blocks=2,
            attention=(1, 2),
            embedding="fourier",
            embedding_dim=10,
            embedding_scale=0.5,
            dropout=0.2,
            classes=4,
        ),
        (3, 8, 8),
    ),
}


@pytest.fixture(params=NETS)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor, Tensor, Tensor | None]:
    """A perturbed network in evaluation mode, with a batch for it."""
    make, event = NETS[request.param]
    torch.manual_seed(0)
    net = perturbed(make()).eval()
    label = torch.arange(5) % 4 if net.config["classes"] else None
    return net, torch.randn(5, *event), torch.rand(5), label


def perturbed(net: nn.Module) -> nn.Module:
    """Move every weight off its zero initialisation, so that every branch is alive."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


def test_output_has_the_shape_of_x_and_starts_at_zero() -> None:
    for make, event in NETS.values():
        x = torch.randn(2, *event)
        assert torch.equal(make()(x, torch.rand(2)), torch.zeros_like(x))


@pytest.mark.parametrize("size", [(8, 8), (28, 28), (32, 32), (7, 7), (5, 9), (1, 1), (2, 3)])
def test_unet_takes_any_size(size: tuple[int, int]) -> None:
    x = torch.randn(2, 2, *size)
    net = perturbed(UNet(2, width=8, multipliers=(1, 2, 2), blocks=1, attention=(2,)))
    y = net(x, torch.rand(2))
    assert y.shape == x.shape and bool(y.isfinite().all())


@pytest.mark.parametrize("width", [1, 3, 7, 30, 36])
def test_unet_takes_any_width(width: int) -> None:
    x = torch.randn(2, 1, 4, 4)
    assert (
        UNet(1, width=width, multipliers=(2, 1), attention=(0,))(x, torch.rand(2)).shape == x.shape
    )


def test_empty_batch(case: Any) -> None:
    net, x, c, label = case
    assert net(x[:0], c[:0], None if label is None else label[:0]).shape == x[:0].shape


def test_rebuilds_from_json_config(case: Any) -> None:
    net, x, c, label = case
    config = json.loads(json.dumps(net.config))
    assert config == net.config
    torch.manual_seed(99)  # the embedding must not depend on the global generator
    twin = type(net)(**config).eval()
    assert twin.config == net.config
    assert torch.equal(twin.condition.time.omega, net.condition.time.omega)
    twin.load_state_dict(net.state_dict())
    assert torch.equal(twin(x, c, label), net(x, c, label))


def test_every_parameter_gets_gradient(case: Any) -> None:
    net, x, c, label = case
    if label is not None:  # a row of the label table is used by its class only
        x, c = torch.cat([x, x[:1]]), torch.cat([c, c[:1]])
        label = torch.tensor([0, 1, 2, 3, 4, 0])
    net(x, c, label).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        rows = parameter.grad.flatten(1) if parameter.ndim > 1 else parameter.grad[None]
        assert bool((rows.abs().amax(1) > 0).all()), name


def test_sample_does_not_depend_on_its_companions(case: Any) -> None:
    net, x, c, label = case
    together = net(x, c, label)
    for i in range(len(x)):
        alone = net(x[i : i + 1], c[i : i + 1], None if label is None else label[i : i + 1])
        torch.testing.assert_close(alone[0], together[i], rtol=1e-5, atol=1e-5)
    companions = torch.cat([x[:1], 1e3 * x[1:]])
    torch.testing.assert_close(net(companions, c, label)[0], together[0], rtol=1e-5, atol=1e-5)


def test_every_block_starts_as_the_identity() -> None:
    torch.manual_seed(0)
    net = UNet(1, width=8, multipliers=(1,), blocks=2, attention=(0,))
    h, vector = torch.randn(2, 8, 5, 5), torch.randn(2, 16)
    for block in (*net.encoder, net.middle):
        assert torch.equal(block(h, vector), h)
    mlp = MLP(2, hidden=16, embedding_dim=16)
    for block in mlp.blocks:
        assert torch.equal(
            block(h[:, 0, 0, :1].expand(2, 16), vector), h[:, 0, 0, :1].expand(2, 16)
        )


def test_blocks_are_the_documented_formulas() -> None:
    torch.manual_seed(0)
    f = nn.functional
    vector = torch.randn(2, 16)
    b = perturbed(UNet(1, width=8, multipliers=(1,), blocks=1)).middle
    h = torch.randn(2, 8, 5, 5)
    film = f.linear(vector, b.film[0].weight, b.film[0].bias)
    norm_1, _, conv_1, norm_2 = b.enter
    conv_2 = b.leave[-1]
    u = f.silu(f.group_norm(h, 2, norm_1.weight, norm_1.bias))
    u = f.conv2d(u, conv_1.weight, conv_1.bias, padding=1)
    u = f.group_norm(u, 2, norm_2.weight, norm_2.bias)
    u = torch.einsum("bc,bchw->bchw", 1 + film[:, :8], u) + film[:, 8:, None, None]
    expected = h + f.conv2d(f.silu(u), conv_2.weight, conv_2.bias, padding=1)
    torch.testing.assert_close(b(h, vector), expected)

    b = perturbed(MLP(2, hidden=8, embedding_dim=16)).blocks[0]
    h = torch.randn(2, 8)
    film = f.linear(vector, b.film.weight, b.film.bias)
    u = f.layer_norm(h, (8,), b.norm.weight, b.norm.bias)
    u = (1 + film[:, :8]) * (u @ b.inner.weight.T + b.inner.bias) + film[:, 8:]
    torch.testing.assert_close(b(h, vector), h + f.silu(u) @ b.outer.weight.T + b.outer.bias)


def test_attention_is_torchs() -> None:
    torch.manual_seed(0)
    layer = perturbed(
        UNet(1, width=64, multipliers=(1,), blocks=1, attention=(0,))
    ).middle.attention
    h = torch.randn(2, 64, 3, 5)
    w, pixels = layer.qkv.weight[:, :, 0, 0], layer.norm(h).flatten(2).transpose(1, 2)
    q, k, v = (pixels @ w.T + layer.qkv.bias).chunk(3, dim=-1)
    split = [y.reshape(2, 15, 2, 32).transpose(1, 2) for y in (q, k, v)]  # two heads of 32
    y = nn.functional.scaled_dot_product_attention(*split).transpose(1, 2).reshape(2, 15, 64)
    y = y @ layer.out.weight[:, :, 0, 0].T + layer.out.bias
    torch.testing.assert_close(
        layer(h), h + y.transpose(1, 2).reshape(h.shape), rtol=1e-4, atol=1e-5
    )


def test_each_level_halves_the_resolution_rounding_up() -> None:
    net = UNet(1, width=8, multipliers=(1, 2, 3), blocks=2)
    seen: list[tuple[int, ...]] = []
    for block in net.encoder:
        block.register_forward_hook(lambda _, __, y: seen.append(tuple(y.shape[1:])))
    net(torch.randn(1, 1, 7, 10), torch.rand(1))
    assert seen == [(8, 7, 10)] * 2 + [(16, 4, 5)] * 2 + [(24, 2, 3)] * 2


@pytest.mark.parametrize("attention", [(), (0,)])
def test_unet_sees_the_whole_image_only_through_its_lower_levels(
    attention: tuple[int, ...],
) -> None:
    # 25 pixels apart: out of reach for the one-level network's 3×3 convolutions, unless it attends.
    # GroupNorm does carry statistics across the image, so it is switched off for this question.
    torch.manual_seed(0)
    net = perturbed(UNet(1, width=8, multipliers=(1,), blocks=1, attention=attention))
    for module in list(net.modules()):
        for child, value in list(module.named_children()):
            if isinstance(value, nn.GroupNorm):
                setattr(module, child, nn.Identity())
    x = torch.randn(1, 1, 1, 26, requires_grad=True)
    net(x, torch.rand(1))[..., 0].sum().backward()
    assert x.grad is not None
    assert bool(x.grad[..., -1].any()) == bool(attention)


def test_time_changes_the_output(case: Any) -> None:
    net, x, c, label = case
    assert (net(x, c + 0.1, label) - net(x, c, label)).flatten(1).norm(dim=1).min() > 1e-4


def test_label_changes_the_output_and_null_is_none(case: Any) -> None:
    net, x, c, label = case
    if label is None:
        with pytest.raises(IncompatibleError, match="classes=None"):
            net(x, c, torch.zeros(5, dtype=torch.int64))
        return
    outputs = [net(x, c, torch.full((5,), k)) for k in range(5)]
    for i in range(5):
        for j in range(i):
            assert (outputs[i] - outputs[j]).flatten(1).norm(dim=1).min() > 1e-4
    assert torch.equal(net(x, c), outputs[4])  # index `classes` is the null class


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    net = perturbed(UNet(1, **SMALL, dropout=0.5))
    x, c = torch.randn(2, 1, 8, 8), torch.rand(2)
    assert not torch.equal(net(x, c), net(x, c))
    net.eval()
    assert torch.equal(net(x, c), net(x, c))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_runs_in_its_own_dtype(case: Any, dtype: torch.dtype) -> None:
    net, x, c, label = case
    net = net.to(dtype)
    assert net(x.to(dtype), c.to(dtype), label).dtype == dtype
    with pytest.raises(ShapeError, match="dtype"):
        net(x, c, label)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")  # torch's own, inside jvp
def test_is_twice_differentiable_in_both_modes() -> None:
    # Sliced score matching differentiates the score while it is trained; exact divergences use jvp.
    torch.manual_seed(0)
    net = perturbed(UNet(1, **SMALL, attention=(1,))).double()
    x, c = torch.randn(1, 1, 4, 4, dtype=torch.float64), torch.rand(1, dtype=torch.float64)
    v = torch.randn_like(x)
    _, forward = torch.func.jvp(lambda y: net(y, c), (x,), (v,))
    h = 1e-5
    torch.testing.assert_close(
        forward, (net(x + h * v, c) - net(x - h * v, c)) / (2 * h), rtol=1e-6, atol=1e-7
    )
    x.requires_grad_()
    (gradient,) = torch.autograd.grad((net(x, c) * v).sum(), x, create_graph=True)
    (gradient * v).sum().backward()
    assert all(p.grad is not None for p in net.down.parameters())


@pytest.mark.parametrize("name", NETS)
def test_wrong_inputs_are_refused(name: str) -> None:
    make, event = NETS[name]
    net, x, c = make(), torch.randn(5, *event), torch.rand(5)
    wrong_x = [x[0], x[:, :-1], torch.cat([x, x], 1), x[..., None], x.long(), x.tolist()]
    if len(event) == 3:
        wrong_x.append(x[..., :0])
    for bad in wrong_x:
        with pytest.raises(ShapeError, match="expected x"):
            net(bad, c)
    for bad in (c[:4], c[:1], c[0], c[:, None], c.long(), 0.5):
        with pytest.raises(ShapeError, match="expected c"):
            net(x, bad)


@pytest.mark.parametrize("name", ["mlp-classes", "unet-full"])
def test_wrong_labels_are_refused(name: str) -> None:
    make, event = NETS[name]
    net, x, c = make(), torch.randn(5, *event), torch.rand(5)
    label = torch.tensor([0, 1, 2, 3, 4])
    net(x, c, label)
    for bad in (label.float(), label.int(), label[:4], label[:, None], label[0], 3):
        with pytest.raises(ShapeError, match="label"):
            net(x, c, bad)
    for bad in (label + 1, label - 1):
        with pytest.raises(ShapeError, match=r"values in 0 … 4 \(4 means no label\)"):
            net(x, c, bad)


@pytest.mark.parametrize(
    "arguments",
    [
        {"channels": 0},
        {"width": 0},
        {"width": 8.0},
        {"blocks": True},
        {"multipliers": ()},
        {"multipliers": (1, 0)},
        {"attention": (2,)},
        {"attention": (-1,)},
        {"dropout": 1.0},
        {"dropout": -0.1},
        {"classes": 0},
        {"embedding_dim": 7},
        {"embedding_dim": 0},
        {"embedding_scale": 0.0},
        {"embedding_scale": math.inf},
    ],
)
def test_unet_arguments_out_of_range(arguments: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=r"expected .*; got"):
        UNet(**{"channels": 1, **SMALL, **arguments})


@pytest.mark.parametrize("name", ["dim", "hidden", "depth", "classes"])
def test_mlp_arguments_out_of_range(name: str) -> None:
    with pytest.raises(ParameterError, match=f"expected an integer {name} >= 1; got {name}=-1"):
        MLP(**{"dim": 2, name: -1})
    with pytest.raises(IncompatibleError, match="expected embedding among"):
        MLP(2, embedding="sine")


def test_sizes_may_be_numpy_s() -> None:
    """A dataset's shape or a grid of settings is of numpy's integers; a config is JSON."""
    two, scale = np.int64(2), np.float32(30.0)
    mlp = MLP(two, np.int32(8), two, embedding_dim=np.int16(4), embedding_scale=scale, classes=two)
    unet = UNet(
        np.int64(1), np.int64(8), np.array([1, 2]), np.int64(1), np.array([1]), dropout=scale / 60,
        classes=two,
    )  # fmt: skip
    for net, plain in (
        (mlp, MLP(2, 8, 2, embedding_dim=4, embedding_scale=30.0, classes=2)),
        (unet, UNet(1, 8, (1, 2), 1, (1,), dropout=0.5, classes=2)),
    ):
        assert json.loads(json.dumps(net.config)) == net.config == plain.config
        assert type(net)(**net.config).load_state_dict(net.state_dict())
    assert EMA(mlp, np.float32(0.5)).decay == 0.5


@pytest.mark.parametrize("embedding", ["positional", "fourier"])
def test_the_frequencies_are_those_of_no_default(embedding: str) -> None:
    """A network made under another default dtype or device embeds time as any other does."""
    plain = MLP(2, hidden=4, depth=1, embedding=embedding).condition.time.omega
    before = torch.get_default_dtype()
    try:
        for dtype in (torch.bfloat16, torch.float64):
            torch.set_default_dtype(dtype)
            net = MLP(2, hidden=4, depth=1, embedding=embedding)
            assert torch.equal(net.condition.time.omega, plain)
            assert net.first.weight.dtype == dtype  # the weights are as PyTorch makes them
    finally:
        torch.set_default_dtype(before)
    with torch.device("meta"):
        net = MLP(2, hidden=4, depth=1, embedding=embedding, classes=3)
    assert {tensor.device.type for tensor in net.state_dict().values()} == {"meta"}


@pytest.mark.parametrize("make", [lambda: MLP(4, classes=2), lambda: UNet(1, **SMALL)])
def test_networks_run_under_autocast(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    net = perturbed(make())
    x = torch.randn(3, 4) if isinstance(net, MLP) else torch.randn(3, 1, 8, 8)
    c = torch.rand(3)
    with torch.autocast("cpu", torch.bfloat16):
        y = net(x, c)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), net(x, c), rtol=0.1, atol=0.1)


# ---------------------------------------------------------------- embeddings


def test_positional_frequencies_are_vaswanis() -> None:
    c = torch.tensor([0.0, 1.0, 999.0], dtype=torch.float64)
    features = PositionalEmbedding(8, scale=1.0)(c)
    for b, level in enumerate(c.tolist()):
        for k in range(4):
            angle = level / 10000 ** (k / 3)
            assert features[b, k].item() == pytest.approx(math.sin(angle), abs=1e-5)
            assert features[b, 4 + k].item() == pytest.approx(math.cos(angle), abs=1e-5)


def test_fourier_kernel_is_gaussian() -> None:
    # Bochner: the mean of cos(ω δ) over ω ~ N(0, (2π s)²) is exp(-(2π s δ)²/2). 20,000
    # frequencies with a fixed seed; each mean's standard error is at most
    # 1/sqrt(40,000) = 0.005, and two-sided alpha = 1e-6 is 4.9 of them.
    scale, delta = 0.7, torch.tensor([0.0, 0.05, 0.1, 0.3, 1.0])
    embedding = FourierEmbedding(40_000, scale)
    kernel = embedding(delta) @ embedding(torch.zeros(1))[0] / 20_000
    torch.testing.assert_close(
        kernel, torch.exp(-0.5 * (2 * math.pi * scale * delta) ** 2), rtol=0, atol=0.025
    )


def test_fourier_draws_from_its_own_seed() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = FourierEmbedding(8).omega
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(FourierEmbedding(8, 2.0).omega, 2.0 * first)
    assert not torch.equal(FourierEmbedding(8, seed=1).omega, first)
    assert "condition.time.omega" in UNet(1, **SMALL, embedding="fourier").state_dict()


def test_bfloat16_angles_are_computed_in_float32() -> None:
    c = torch.tensor([0.3, 512.0], dtype=torch.bfloat16)  # as the tensor has them, exactly
    embedding = PositionalEmbedding(16)
    exact = embedding(c.double())
    assert (embedding(c).double() - exact).abs().max() < 2.0**-8  # only the output is rounded


RANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "t": lambda t: t,
    "999 t": lambda t: 999.0 * t,
    "log sigma": lambda t: 0.5 * torch.log(-torch.expm1(-(0.1 * t + 9.95 * t**2))),
}


@pytest.mark.parametrize("time_input", RANGES)
@pytest.mark.parametrize(
    ("kind", "scale"),
    [
        ("positional", {"t": None, "999 t": None, "log sigma": None}),
        ("fourier", {"t": 4.0, "999 t": 0.004, "log sigma": 0.3}),
    ],
)
def test_recommended_scales_give_good_features(
    kind: str, scale: dict[str, float | None], time_input: str
) -> None:
    """A ridge regression on 64 features, fitted on half of 2,000 times, recovers VP's log sigma(t).

    A scale that aliases leaves nearly all of the spread (error 1).
    """
    t = torch.linspace(1e-3, 1.0, 2000, dtype=torch.float64)
    target = RANGES["log sigma"](t)
    net = MLP(1, embedding=kind, embedding_dim=64, embedding_scale=scale[time_input])
    features = net.condition.time(RANGES[time_input](t))
    features = torch.cat([features, torch.ones(2000, 1, dtype=torch.float64)], dim=1)
    order = torch.randperm(2000, generator=torch.Generator().manual_seed(0))
    train, test = order[:1000], order[1000:]
    gram = features[train].T @ features[train] + 1e-2 * torch.eye(65, dtype=torch.float64)
    weights = torch.linalg.solve(gram, features[train].T @ target[train])
    error = (features[test] @ weights - target[test]).square().mean().sqrt() / target.std()
    assert error < 0.1


# ---------------------------------------------------------------- a real fit


def test_unet_learns_to_denoise_digits() -> None:
    """One noise level, sigma = 0.5, real 8×8 digits: the loss against two exact references.

    Returning 0 for the noise scores exactly E‖ε‖²/D = 1; the best affine predictor of each pixel
    from itself scores var / (var + sigma²), averaged over the pixels.
    A convolutional network must use the neighbours to beat the second by a wide margin.
    """
    from sklearn.datasets import load_digits

    torch.manual_seed(0)
    data = torch.from_numpy(load_digits().images).float()[:, None] / 8 - 1
    sigma = 0.5
    net = UNet(1, width=16, multipliers=(1, 2), blocks=1)
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(120):
        x0 = data[torch.randint(1400, (64,))]
        noise = torch.randn_like(x0)
        loss = (net(x0 + sigma * noise, torch.full((64,), sigma)) - noise).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    held_out = data[1400:]
    noise = torch.randn_like(held_out)
    with torch.no_grad():
        c = torch.full((len(held_out),), sigma)
        fitted = (net(held_out + sigma * noise, c) - noise).square().mean().item()
    variance = data.var(dim=0)
    pixelwise = (variance / (variance + sigma**2)).mean().item()
    assert pixelwise < 1.0
    assert fitted < 0.7 * pixelwise


# ---------------------------------------------------------------- EMA


def toy() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def set_all(net: nn.Module, value: float) -> None:
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(value)


def test_ema_closed_form() -> None:
    # Weights 1, 2, …, n from 0: the average is Σ_k (1-d) d^(n-k) k = n - d (1 - d^n) / (1 - d).
    net, decay, n = toy(), 0.9, 25
    set_all(net, 0.0)
    ema = EMA(net, decay=decay, warmup=False)
    for k in range(1, n + 1):
        set_all(net, float(k))
        ema.update(net)
    assert ema.num_updates == n
    expected = n - decay * (1 - decay**n) / (1 - decay)
    for name, _ in net.named_parameters():
        assert ema.shadow[name].flatten().tolist() == pytest.approx(
            [expected] * ema.shadow[name].numel(), rel=1e-6
        )


def test_ema_warmup_closed_form() -> None:
    # From 0 with weights held at 1, what is missing is the product of the decays. While the
    # warm-up binds, Π_{k≤n} (1+k)/(10+k) = (n+1)! 10! / (n+10)!; with d = 0.5 it binds up to
    # k = 8, where both are equal, and every later update halves it.
    net = toy()
    set_all(net, 0.0)
    ema = EMA(net, decay=0.5)
    set_all(net, 1.0)
    for n in range(1, 13):
        ema.update(net)
        bound = min(n, 8)
        missing = math.factorial(bound + 1) * math.factorial(10) / math.factorial(bound + 10)
        missing *= 0.5 ** (n - bound)
        assert 1.0 - ema.shadow["0.weight"][0, 0].item() == pytest.approx(
            missing, rel=1e-4, abs=2e-7
        )


def test_ema_copies_buffers_and_leaves_the_net_alone() -> None:
    torch.manual_seed(0)
    net = toy()
    ema = EMA(net)
    net(5.0 + torch.randn(16, 2))  # moves the running mean and the counter of BatchNorm
    before = {k: v.clone() for k, v in net.state_dict().items()}
    set_all(net, 3.0)
    ema.update(net)
    assert torch.equal(ema.shadow["1.running_mean"], before["1.running_mean"])
    assert ema.shadow["1.num_batches_tracked"].item() == 1
    assert bool((net[0].weight == 3.0).all())
    target = toy()
    ema.copy_to(target)
    for name, value in target.state_dict().items():
        assert torch.equal(value, ema.shadow[name])
    assert target[0].weight.requires_grad and not ema.shadow["0.weight"].requires_grad
    with torch.no_grad():
        target[0].weight.add_(1.0)
    assert not torch.equal(target[0].weight, ema.shadow["0.weight"])


def test_ema_keeps_low_precision_weights_in_float32() -> None:
    # A step of 1e-3 on a bfloat16 average of 1 rounds away; in float32 it moves by exactly 1e-3.
    net = toy().to(torch.bfloat16)
    set_all(net, 1.0)
    ema = EMA(net, decay=0.999, warmup=False)
    set_all(net, 2.0)
    ema.update(net)
    assert ema.shadow["0.weight"].dtype == torch.float32
    assert ema.shadow["0.weight"][0, 0].item() == pytest.approx(1.001, abs=1e-6)
    ema.copy_to(net)
    assert net[0].weight.dtype == torch.bfloat16


def test_ema_resumes_bit_for_bit() -> None:
    torch.manual_seed(0)
    net = toy()
    ema = EMA(net)
    weights = [{k: torch.randn_like(p) for k, p in net.named_parameters()} for _ in range(8)]
    for i, values in enumerate(weights):
        net.load_state_dict({**net.state_dict(), **values})
        ema.update(net)
        if i == 3:
            saved = ema.state_dict()
    assert all(isinstance(value, Tensor) for value in saved.values())
    resumed = EMA(toy())
    resumed.load_state_dict(saved)
    assert resumed.num_updates == 4
    for values in weights[4:]:
        net.load_state_dict({**net.state_dict(), **values})
        resumed.update(net)
    assert all(torch.equal(value, ema.shadow[name]) for name, value in resumed.shadow.items())


def test_ema_refuses_what_does_not_fit() -> None:
    ema, other = EMA(toy()), nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4))
    for method in (ema.update, ema.copy_to):
        with pytest.raises(IncompatibleError, match=r"expected \(3, 2\), got \(4, 2\)"):
            method(other)
        with pytest.raises(IncompatibleError, match="got nothing"):
            method(nn.Linear(2, 3))
    assert ema.num_updates == 0
    good = ema.state_dict()
    key = "shadow.0.weight"
    bad_states = [
        {},
        {k: v for k, v in good.items() if k != key},
        {k: v for k, v in good.items() if k != "num_updates"},
        {**good, key: torch.zeros(9)},
        {**good, "shadow.more": torch.zeros(9)},
        {**good, "num_updates": torch.tensor(-1)},
        {**good, "num_updates": torch.tensor(1.5)},
        {**good, "num_updates": torch.tensor([1, 2])},
    ]
    for bad in bad_states:
        with pytest.raises(CheckpointError, match="expected"):
            ema.load_state_dict(bad)
    for decay in (1.0, -0.1, math.nan):
        with pytest.raises(ParameterError, match="decay"):
            EMA(toy(), decay=decay)
