r"""EDM2's magnitude-preserving U-Net.

Karras et al. 2024 (arXiv:2312.02696), configuration G. Names and shapes of the parameters are those
of EDM2's files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sdescore import checks
from sdescore.errors import IncompatibleError
from sdescore.nets import blocks_edm2 as blocks
from sdescore.nets.arguments_edm import check_image, checked_label, checked_sizes
from sdescore.nets.blocks_edm import one_hot

__all__ = ["EDM2UNet"]


class EDM2UNet(nn.Module):
    r"""The network F of EDM2 for images or latents ``(B, in_channels, H, W)``.

    It has no biases and no normalisation layers with weights. In training mode every call
    normalises the weights (:class:`sdescore.nets.blocks_edm2.MPConv`). ``c`` is EDM's
    :math:`c_{noise} = \tfrac14 \log\sigma`, so a :class:`sdescore.ScoreModel` that predicts F fits.
    Gains are scalars, which torch does not shard: ``train(shard=True)`` refuses the network.

    Parameters
    ----------
    img_resolution, in_channels, classes, num_blocks
        As in :class:`sdescore.nets.SongUNet`; the output has ``in_channels`` too.
    model_channels : int
        Channels at full resolution: 128 (the paper's XS), 192 (S), 256 (M), 320 (L), 384 (XL) or
        448 (XXL).
    channel_mult : sequence of int
        Channels of each level over ``model_channels``; each level after the first halves the
        resolution.
    channel_mult_noise, channel_mult_emb : int or None
        Features of ``c``, and size of the embedding, over ``model_channels``; None is the first,
        and the largest, of ``channel_mult``.
    attn_resolutions : sequence of int
        Heights of the levels with self-attention, one head for 64 channels.
    dropout : float
        Probability in ``[0, 1)``, in every residual block, in training mode only.
    logvar_channels : int or None
        Features of the head for the loss's uncertainty, :meth:`log_variance`; the paper's 128. None
        builds no such head.

    Attributes
    ----------
    config : dict[str, Any]
        JSON-able arguments; ``EDM2UNet(**net.config)`` builds the same architecture.

    Raises
    ------
    ParameterError
        An argument lies outside its range.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> net = ss.nets.EDM2UNet(8, 4, model_channels=16, channel_mult=(1, 2), num_blocks=1)
    >>> net(torch.randn(2, 4, 8, 8), torch.rand(2)).shape
    torch.Size([2, 4, 8, 8])
    >>> model = ss.ScoreModel(net, ss.EDMSDE(), sigma_data=0.5)
    """

    config: dict[str, Any]

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        classes: int | None = None,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_noise: int | None = None,
        channel_mult_emb: int | None = None,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (16, 8),
        dropout: float = 0.0,
        logvar_channels: int | None = None,
    ) -> None:
        super().__init__()
        self.config = checked_sizes(
            img_resolution, in_channels, classes, model_channels, channel_mult, num_blocks,
            attn_resolutions, dropout,
        )  # fmt: skip
        optional = {
            "channel_mult_noise": channel_mult_noise,
            "channel_mult_emb": channel_mult_emb,
            "logvar_channels": logvar_channels,
        }
        for name, value in optional.items():
            self.config[name] = None if value is None else checks.count(name, value)
        widths = [model_channels * m for m in channel_mult]
        features = model_channels * (channel_mult_noise or channel_mult[0])
        embedding = model_channels * (channel_mult_emb or max(channel_mult))
        block = partial(blocks.MPBlock, embedding=embedding, dropout=dropout)

        self.out_gain = blocks.zero()
        self.emb_fourier = blocks.MPFourier(features)
        self.emb_noise = blocks.MPConv(features, embedding)
        if classes is not None:
            self.emb_label = blocks.MPConv(classes, embedding)

        sizes = [img_resolution >> level for level in range(len(widths))]
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        here = widths[0]
        self.enc[f"{sizes[0]}x{sizes[0]}_conv"] = blocks.MPConv(in_channels + 1, here, 3)
        skips = [here]
        for level, (size, width) in enumerate(zip(sizes, widths, strict=True)):
            at, attend = f"{size}x{size}_", size in attn_resolutions
            if level > 0:
                self.enc[at + "down"] = block(here, here, decoder=False, resample=0.5)
                skips.append(here)
            for i in range(num_blocks):
                self.enc[f"{at}block{i}"] = block(here, width, decoder=False, attend=attend)
                skips.append(width)
                here = width
        for level, (size, width) in reversed([*enumerate(zip(sizes, widths, strict=True))]):
            at, attend = f"{size}x{size}_", size in attn_resolutions
            if level == len(sizes) - 1:
                self.dec[at + "in0"] = block(here, here, decoder=True, attend=True)
                self.dec[at + "in1"] = block(here, here, decoder=True)
            else:
                self.dec[at + "up"] = block(here, here, decoder=True, resample=2)
            for i in range(num_blocks + 1):
                inputs = here + skips.pop()
                self.dec[f"{at}block{i}"] = block(inputs, width, decoder=True, attend=attend)
                here = width
        self.out_conv = blocks.MPConv(here, in_channels, 3)
        if logvar_channels is not None:
            self.logvar_fourier = blocks.MPFourier(logvar_channels)
            self.logvar_linear = blocks.MPConv(logvar_channels, 1)

    def forward(self, x: Tensor, c: Tensor, label: Tensor | None = None) -> Tensor:
        """F, like ``x``.

        Parameters
        ----------
        x : Tensor
            ``(B, in_channels, H, W)``, in the network's dtype.
        c : Tensor
            ``(B,)`` time input, floating point; EDM's ``c_noise``.
        label : Tensor or None
            ``(B,)`` int64 in ``0 … classes``; None, or the value ``classes``, is "no label".

        Raises
        ------
        ShapeError
            A wrong shape, dtype, device or label value.
        IncompatibleError
            A label was given to a network built without ``classes``.
        """
        classes, dtype = self.config["classes"], self.out_conv.weight.dtype
        check_image(x, self.config["in_channels"], len(self.config["channel_mult"]))
        label = checked_label(x, c, label, dtype, classes)
        vector = self.emb_noise(self.emb_fourier(c).to(dtype))
        if label is not None:
            hot = math.sqrt(classes) * one_hot(label, classes, dtype)
            vector = blocks.mp_sum(vector, self.emb_label(hot), blocks.HALF)
        vector = blocks.mp_silu(vector)

        skips: list[Tensor] = []
        h = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        for part in self.enc.values():
            h = part(h, vector) if isinstance(part, blocks.MPBlock) else part(h)
            skips.append(h)
        for name, part in self.dec.items():
            if "block" in name:
                h = blocks.mp_cat(h, skips.pop(), blocks.HALF)
            h = part(h, vector)
        y: Tensor = self.out_conv(h, self.out_gain)
        return y

    def log_variance(self, c: Tensor) -> Tensor:
        r"""The uncertainty :math:`u(\sigma)` at ``c`` ``(B,)``: log of the loss expected, ``(B,)``.

        :func:`sdescore.losses.uncertainty_loss` trains it. Sampling does not need it.

        Raises
        ------
        IncompatibleError
            The network was built without ``logvar_channels``.
        """
        has = self.config["logvar_channels"] is not None
        checks.that(
            has, "a network with logvar_channels", "None; build it with 128", IncompatibleError
        )
        features = self.logvar_fourier(c).to(self.out_conv.weight.dtype)
        found: Tensor = self.logvar_linear(features)[:, 0]
        return found
