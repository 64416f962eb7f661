"""The RefineNet with dilated convolutions that NCSN and NCSNv2 share.

Names and order of the parameters are those of the official code.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sdescore import checks
from sdescore.errors import IncompatibleError, ShapeError
from sdescore.nets.blocks_ncsn import ACTIVATIONS, Normalization, Residual, conv
from sdescore.nets.blocks_refinenet import Refine

# By depth: the names of a stage in the encoder and in the decoder, its channels over the width,
# its dilation. A stage after the first halves the size if it is not dilated.
STAGES: dict[int, tuple[tuple[str, str, int, int], ...]] = {
    4: (
        ("res1", "refine4", 1, 1), ("res2", "refine3", 2, 1), ("res3", "refine2", 2, 2),
        ("res4", "refine1", 2, 4),
    ),
    5: (
        ("res1", "refine5", 1, 1), ("res2", "refine4", 2, 1), ("res3", "refine3", 2, 1),
        ("res4", "refine2", 4, 2), ("res5", "refine1", 4, 4),
    ),
    6: (
        ("res1", "refine5", 1, 1), ("res2", "refine4", 2, 1), ("res3", "refine3", 2, 1),
        ("res31", "refine31", 2, 1), ("res4", "refine2", 4, 2), ("res5", "refine1", 4, 4),
    ),
}  # fmt: skip


class RefineNet(nn.Module):
    """Encoder and decoder of both networks; a subclass says what the level does."""

    def __init__(self, config: dict[str, Any], norm: Normalization, depth: int) -> None:
        super().__init__()
        self.config = config
        channels, width = config["channels"], config["width"]
        self.act = ACTIVATIONS[config["nonlinearity"]]
        self.stages = STAGES[depth]
        self.begin_conv = conv(channels, width)
        self.normalizer = norm(width)
        self.end_conv = conv(width, channels)
        widths = [width * times for _, _, times, _ in self.stages]
        above = width
        for i, (name, _, _, dilation) in enumerate(self.stages):
            here = widths[i]
            enter = Residual(above, here, self.act, norm, enters=i > 0, dilation=dilation)
            stay = Residual(here, here, self.act, norm, enters=False, dilation=dilation)
            self.add_module(name, nn.ModuleList([enter, stay]))
            above = here
        decoder = {}
        for i, (_, name, _, _) in enumerate(self.stages):
            inputs = 1 if i == len(widths) - 1 else 2
            outputs = widths[max(i - 1, 0)]
            decoder[name] = Refine(widths[i], outputs, self.act, norm, inputs=inputs, end=i == 0)
        for name in sorted(decoder):  # the official order
            self.add_module(name, decoder[name])

    def features(self, x: Tensor, c: Tensor) -> Tensor:
        """The network's output at checked inputs, before any division by σ."""
        h = self.begin_conv(x if self.config["rescaled"] else 2 * x - 1)
        skips: list[Tensor] = []
        for name, _, _, _ in self.stages:
            for block in getattr(self, name):
                h = block(h, c)
            skips.append(h)
        inputs = [skips.pop()]
        for _, name, _, _ in reversed(self.stages):
            h = getattr(self, name)(inputs, c)
            inputs = [skips.pop(), h] if skips else []
        y: Tensor = self.end_conv(self.act(self.normalizer(h, c)))
        return y

    def check(self, x: Tensor, c: Tensor, label: Tensor | None, levels: int) -> None:
        """Refuse a batch, levels or labels that the network does not take."""
        checks.state(x)
        channels, dtype = self.config["channels"], self.begin_conv.weight.dtype
        halved = 2 ** sum(dilation == 1 for _, _, _, dilation in self.stages[1:])
        sized = x.ndim == 4 and all(n > halved and n % halved == 0 for n in x.shape[2:])
        if not sized or x.shape[1] != channels:
            expected = f"x of shape (B, {channels}, H, W) with H and W multiples of {halved}"
            got = f"{tuple(x.shape)}; pad x, or build the network for its channels"
            checks.refuse(f"{expected} above {halved}", got, ShapeError)
        if x.dtype != dtype:
            got = f"{x.dtype}; cast one of them"
            checks.refuse(f"x in the network's dtype {dtype}", got, ShapeError)
        if not isinstance(c, Tensor) or c.shape != x.shape[:1] or c.dtype == torch.bool:
            got = f"{c.dtype} of shape {tuple(c.shape)}" if isinstance(c, Tensor) else f"{c!r:.50}"
            advice = f"expand one level with c.expand({len(x)})"
            checks.refuse(
                f"c, levels, as a tensor of shape ({len(x)},)", f"{got}; {advice}", ShapeError
            )
        if label is not None:
            got = "one; UNet and MLP take labels"
            checks.refuse(f"no label for {type(self).__name__}", got, IncompatibleError)
        # Reading values would break a traced graph, and wait for a GPU.
        if c.device.type == "cpu" and c.numel() and not torch.compiler.is_compiling():
            low, high = c.min().item(), c.max().item()
            inside = 0 <= low <= high <= levels - 1
            got = f"{low:g} … {high:g}; the level counts from the largest sigma"
            checks.that(inside, f"levels in 0 … {levels - 1}", got, ShapeError)


def architecture(channels: int, width: int, rescaled: bool, nonlinearity: str) -> dict[str, Any]:
    """The checked arguments that both networks share."""
    return {
        "channels": checks.count("channels", channels),
        "width": checks.count("width", width, at_least=2),
        "rescaled": checks.flag("rescaled", rescaled),
        "nonlinearity": checks.choice("nonlinearity", nonlinearity, list(ACTIVATIONS)),
    }
