"""Series and volumes: the U-Net of one and three dimensions against that of two."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sdescore as ss
from tests.helpers.nets import perturbed

SIZES: dict[int, list[tuple[int, ...]]] = {
    1: [(1,), (2,), (7,), (32,), (101,)],
    3: [(1, 1, 1), (2, 3, 5), (4, 4, 4), (7, 1, 6)],
}


def unet(dimensions: int, **options: Any) -> ss.UNet:
    options = {"width": 8, "multipliers": (1, 2, 2), "blocks": 1, "attention": (2,)} | options
    return perturbed(ss.UNet(2, **options, dimensions=dimensions)).eval()


def convolutions(net: nn.Module) -> list[Any]:
    return [m for m in net.modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d)]


@pytest.mark.parametrize(("dimensions", "size"), [(d, s) for d in SIZES for s in SIZES[d]])
def test_any_size(dimensions: int, size: tuple[int, ...]) -> None:
    x = torch.randn(2, 2, *size)
    y = unet(dimensions)(x, torch.rand(2))
    assert y.shape == x.shape and bool(y.isfinite().all())


@pytest.mark.parametrize("dimensions", [1, 2])
def test_an_axis_of_length_one_is_no_axis(dimensions: int) -> None:
    """There only the middle of a kernel meets the data, so one dimension less does the same."""
    torch.manual_seed(0)
    more, net = unet(dimensions + 1), unet(dimensions)
    wide, thin = more.state_dict(), net.state_dict()
    assert list(wide) == list(thin)
    for name, value in wide.items():
        if value.ndim == thin[name].ndim + 1:
            wide[name] = value[:, :, value.shape[2] // 2]
    net.load_state_dict(wide)
    x, c = torch.randn(3, 2, *(9, 6)[:dimensions]), torch.rand(3)
    torch.testing.assert_close(more(x[:, :, None], c)[:, :, 0], net(x, c))


@pytest.mark.parametrize("order", list(permutations(range(3)))[1:])
def test_no_axis_is_special(order: tuple[int, ...]) -> None:
    """The axes of data and kernels permuted are those of the output."""
    torch.manual_seed(0)
    net, x, c = unet(3), torch.randn(2, 2, 3, 5, 6), torch.rand(2)
    axes = (0, 1, *(2 + axis for axis in order))
    expected = net(x, c).permute(axes)
    for layer in convolutions(net):
        layer.weight.data = layer.weight.data.permute(axes).contiguous()
    torch.testing.assert_close(net(x.permute(axes), c), expected)


def count(d: int, channels: int, width: int, blocks: int, multipliers: tuple[int, ...]) -> int:
    """The parameters of a U-Net that attends at its last level, by the sizes of its layers."""
    dim, widths, top = 2 * width, [width * m for m in multipliers], len(multipliers) - 1

    def conv(i: int, o: int, k: int = 3) -> int:
        return i * o * k**d + o

    def block(i: int, o: int, level: int) -> int:
        inner = 2 * i + conv(i, o) + 2 * o + (dim + 1) * 2 * o + conv(o, o)
        attention = (2 * o + conv(o, 3 * o, 1) + conv(o, o, 1)) * (level == top)
        return inner + conv(i, o, 1) * (i != o) + attention

    total = 2 * (dim + 1) * dim + conv(channels, width) + conv(widths[0], channels) + 2 * widths[0]
    above = width
    for level, here in enumerate(widths):
        total += (conv(above, above) + conv(here, above)) * (level > 0)
        total += block(above, here, level) + (blocks - 1) * block(here, here, level)
        total += blocks * block(2 * here, here, level)
        above = here
    return total + block(above, above, top)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("multipliers", [(1,), (1, 2, 3)])
def test_the_number_of_parameters(dimensions: int, multipliers: tuple[int, ...]) -> None:
    net = ss.UNet(
        3, width=8, multipliers=multipliers, blocks=2, attention=(len(multipliers) - 1,),
        dimensions=dimensions,
    )  # fmt: skip
    expected = count(dimensions, 3, 8, 2, multipliers)
    assert sum(p.numel() for p in net.parameters()) == expected


@pytest.mark.parametrize("dimensions", [1, 3])
def test_one_of_all_positions_reaches_all_others(dimensions: int) -> None:
    """By attention, along each axis; kernels of 3 on one level reach 8 positions."""
    torch.manual_seed(0)
    for attention in ((), (0,)):
        net = unet(dimensions, multipliers=(1,), attention=attention)
        for module in list(net.modules()):
            for child, value in list(module.named_children()):
                if isinstance(value, nn.GroupNorm):  # it carries statistics across the data
                    setattr(module, child, nn.Identity())
        for axis in range(dimensions):
            size = [1] * dimensions
            size[axis] = 20
            x = torch.randn(1, 2, *size, requires_grad=True)
            net(x, torch.rand(1)).flatten(2)[..., 0].sum().backward()
            assert isinstance(x.grad, Tensor)
            reached = x.grad.flatten(2)[0, 0] != 0
            assert reached.tolist() == [bool(attention) or i <= 8 for i in range(20)]


@pytest.mark.parametrize("dimensions", [1, 3])
def test_a_checkpoint_brings_it_back(dimensions: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ss.ScoreModel(unet(dimensions), ss.VPSDE())
    ss.save(tmp_path / "net.safetensors", model)
    back = ss.load(tmp_path / "net.safetensors")
    x = torch.randn(2, 2, *(5, 4, 3)[:dimensions])
    assert torch.equal(back(x, 0.5), model(x, 0.5))


@pytest.mark.parametrize("dimensions", [0, 4, 1.0, True])
def test_other_dimensions_are_refused(dimensions: Any) -> None:
    with pytest.raises(ss.errors.ParameterError, match="dimensions >= 1 and at most 3; got"):
        ss.UNet(1, dimensions=dimensions)


@pytest.mark.parametrize(("dimensions", "sizes"), [(1, "L"), (2, "H, W"), (3, "D, H, W")])
def test_data_of_other_dimensions_are_refused(dimensions: int, sizes: str) -> None:
    net = unet(dimensions)
    for other in {1, 2, 3} - {dimensions}:
        with pytest.raises(ss.errors.ShapeError, match=rf"x of shape \(B, 2, {sizes}\); got"):
            net(torch.randn(2, 2, *(4, 4, 4)[:other]), torch.rand(2))
