r"""EDM's ADM.

Karras et al. 2022 (arXiv:2206.00364, appendix F) took the architecture of Dhariwal & Nichol 2021
(arXiv:2105.05233). Names and shapes of the parameters are those of EDM's files.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from sdescore.nets import blocks_edm as blocks
from sdescore.nets.arguments_edm import checked_config, checked_features
from sdescore.nets.blocks_edm import ADM, Block

__all__ = ["DhariwalUNet"]


class DhariwalUNet(nn.Module):
    """ADM as EDM has it, for images ``(B, in_channels, H, W)``.

    Parameters
    ----------
    img_resolution, in_channels, out_channels, classes, augment_dim, model_channels
        As in :class:`sdescore.nets.SongUNet`.
    channel_mult, channel_mult_emb, num_blocks, dropout
        As in :class:`sdescore.nets.SongUNet`.
    attn_resolutions : sequence of int
        Heights of the levels with self-attention in every block, one head for 64 channels.

    Attributes
    ----------
    config : dict[str, Any]
        JSON-able arguments; ``DhariwalUNet(**net.config)`` builds the same architecture.

    Raises
    ------
    ParameterError
        An argument lies outside its range.

    Examples
    --------
    >>> import torch
    >>> net = DhariwalUNet(8, 3, model_channels=16, channel_mult=(1, 2), num_blocks=1, classes=10)
    >>> net(torch.randn(2, 3, 8, 8), torch.rand(2), torch.tensor([3, 10])).shape
    torch.Size([2, 3, 8, 8])
    """

    config: dict[str, Any]

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int | None = None,
        classes: int | None = None,
        augment_dim: int = 0,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_emb: int = 4,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (32, 16, 8),
        dropout: float = 0.10,
    ) -> None:
        super().__init__()
        self.config = checked_config(
            img_resolution, in_channels, out_channels, classes, augment_dim, model_channels,
            channel_mult, channel_mult_emb, num_blocks, attn_resolutions, dropout,
        )  # fmt: skip
        embedding = channel_mult_emb * model_channels
        block = partial(Block, ADM, embedding=embedding, dropout=dropout, taps=(1, 1))

        self.map_noise = blocks.PositionalEmbedding(model_channels, endpoint=False)
        if augment_dim:
            augment = nn.Linear(augment_dim, model_channels, bias=False)
            self.map_augment = ADM.initial(augment, "last")
        self.map_layer0 = nn.Linear(model_channels, embedding)
        self.map_layer1 = nn.Linear(embedding, embedding)
        if classes is not None:
            self.map_label = nn.Linear(classes, embedding, bias=False)
            nn.init.normal_(self.map_label.weight)

        sizes = [img_resolution >> level for level in range(len(channel_mult))]
        widths = [model_channels * m for m in channel_mult]
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        here = widths[0]
        first = nn.Conv2d(self.config["in_channels"], here, 3, padding=1)
        self.enc[f"{sizes[0]}x{sizes[0]}_conv"] = first
        skips = [here]
        for level, (size, width) in enumerate(zip(sizes, widths, strict=True)):
            at, attend = f"{size}x{size}_", size in attn_resolutions
            if level > 0:
                self.enc[at + "down"] = block(here, here, down=True)
                skips.append(here)
            for i in range(num_blocks):
                self.enc[f"{at}block{i}"] = block(here, width, attend=attend)
                skips.append(width)
                here = width
        for level, (size, width) in reversed([*enumerate(zip(sizes, widths, strict=True))]):
            at, attend = f"{size}x{size}_", size in attn_resolutions
            if level == len(sizes) - 1:
                self.dec[at + "in0"] = block(here, here, attend=True)
                self.dec[at + "in1"] = block(here, here)
            else:
                self.dec[at + "up"] = block(here, here, up=True)
            for i in range(num_blocks + 1):
                self.dec[f"{at}block{i}"] = block(here + skips.pop(), width, attend=attend)
                here = width
        self.out_norm = blocks.group_norm(here, ADM.epsilon)
        last = nn.Conv2d(here, self.config["out_channels"], 3, padding=1)
        self.out_conv = ADM.initial(last, "last")

    def forward(
        self, x: Tensor, c: Tensor, label: Tensor | None = None, augment: Tensor | None = None
    ) -> Tensor:
        """The output ``(B, out_channels, H, W)``; see :meth:`sdescore.nets.SongUNet.forward`."""
        silu = nn.functional.silu
        vector, label = checked_features(self, x, c, label, augment)
        if augment is not None:
            vector = vector + self.map_augment(augment.to(vector.dtype))
        vector = self.map_layer1(silu(self.map_layer0(vector)))
        if label is not None:
            hot = blocks.one_hot(label, self.config["classes"], x.dtype)
            vector = vector + self.map_label(hot)
        vector = silu(vector)

        skips: list[Tensor] = []
        h = x
        for part in self.enc.values():
            h = part(h, vector) if isinstance(part, Block) else part(h)
            skips.append(h)
        for part in self.dec.values():
            h = blocks.decode(part, h, vector, skips)
        y: Tensor = self.out_conv(silu(self.out_norm(h)))
        return y
