"""EDM's ADM, by the formula of its parts."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as f

from sdescore.nets import DhariwalUNet
from tests.helpers.edm_nets import SMALL
from tests.helpers.nets import perturbed


def test_adm_adds_the_label_after_the_second_layer() -> None:
    torch.manual_seed(0)
    net = perturbed(DhariwalUNet(**SMALL | {"model_channels": 32}, classes=3, augment_dim=2))
    seen: list[Tensor] = []
    net.dec["4x4_in0"].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    x, c, augment = torch.randn(2, 2, 8, 8), torch.tensor([0.3, -0.7]), torch.randn(2, 2)
    net(x, c, torch.tensor([2, 3]), augment)
    angle = c[:, None] * torch.tensor([10 ** (-4 * k / 16) for k in range(16)])
    vector = torch.cat([angle.cos(), angle.sin()], dim=1) + augment @ net.map_augment.weight.T
    vector = net.map_layer1(f.silu(net.map_layer0(vector)))
    vector = vector + torch.stack([net.map_label.weight[:, 2], torch.zeros(128)])
    torch.testing.assert_close(seen[0], f.silu(vector))
