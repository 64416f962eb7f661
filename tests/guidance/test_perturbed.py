"""A network with parts of it taken out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import sdescore as ss

VP = ss.VPSDE()


def test_perturbed_shares_the_weights_and_leaves_the_model_alone() -> None:
    torch.manual_seed(0)
    net = ss.UNet(1, width=8, multipliers=(1, 2), blocks=1, attention=(1,), classes=3)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    model = ss.ScoreModel(net, VP)
    names = [name for name, _ in model.named_modules() if name.endswith("attention")]
    x, t, label = torch.randn(2, 1, 4, 4), torch.tensor(0.5), torch.tensor([0, 2])
    before = model(x, t, label)
    weaker = ss.guidance.perturbed(model, names)
    assert torch.equal(model(x, t, label), before)
    found = weaker(x, t, label)
    assert (found - before).abs().max() > 1e-3
    with torch.no_grad():  # an attention of weight 0 adds nothing to its input
        outs = [m.out for name, m in model.named_modules() if name in names and hasattr(m, "out")]
        assert outs
        for out in outs:
            out.weight.zero_()
            out.bias.zero_()
    torch.testing.assert_close(model(x, t, label), found)
    guided = ss.guidance.autoguidance(model, weaker, 3.0)
    assert len(list(guided.parameters())) == len(list(model.parameters()))
    torch.testing.assert_close(guided(x, t, label), model(x, t, label))


def test_a_module_of_two_inputs_is_taken_out_for_its_first() -> None:
    class Block(nn.Module):
        def forward(self, x: Tensor, c: Tensor) -> Tensor:
            return 3 * x + c

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Block()

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return 2 * self.block(x, x.sin())

    x = torch.randn(5, 2)
    weaker = ss.guidance.perturbed(Net(), ["block"])
    assert torch.equal(weaker(x, torch.ones(5)), 2 * x)
