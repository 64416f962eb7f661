"""Every network: shapes, configuration, gradients, labels, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sdescore.errors import IncompatibleError, ShapeError
from sdescore.nets import EMA, MLP, UNet
from tests.helpers.nets import SMALL, perturbed

NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: MLP(3, hidden=16, depth=2), (3,)),
    "mlp-classes": (lambda: MLP(3, hidden=16, embedding="fourier", classes=4), (3,)),
    "unet": (lambda: UNet(1, **SMALL), (1, 8, 8)),
    "unet-1d": (lambda: UNet(2, **SMALL, attention=(1,), classes=4, dimensions=1), (2, 9)),
    "unet-3d": (lambda: UNet(1, **SMALL, attention=(1,), dimensions=3), (1, 5, 4, 3)),
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


def test_output_has_the_shape_of_x_and_starts_at_zero() -> None:
    for make, event in NETS.values():
        x = torch.randn(2, *event)
        assert torch.equal(make()(x, torch.rand(2)), torch.zeros_like(x))


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
    if len(event) > 1:
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
