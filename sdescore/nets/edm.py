r"""EDM's DDPM++ and NCSN++.

Karras et al. 2022 (arXiv:2206.00364, appendix F) took the architectures of Song et al. 2021
(arXiv:2011.13456). Names and shapes of the parameters are those of EDM's files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from sdescore import checks
from sdescore.nets import blocks_edm as blocks
from sdescore.nets.arguments_edm import checked_config, checked_features
from sdescore.nets.blocks_edm import SONG, Block

__all__ = ["SongUNet"]


class SongUNet(nn.Module):
    """DDPM++ and NCSN++ as EDM has them, for images ``(B, in_channels, H, W)``.

    The defaults are DDPM++. NCSN++ is ``embedding_type="fourier"``, ``encoder_type="residual"``,
    ``channel_mult_noise=2`` and ``resample_filter=(1, 3, 3, 1)``.

    Parameters
    ----------
    img_resolution : int
        Height and width of the images, divisible by 2 for each level after the first. Names of
        parameters and levels of attention follow from it. The network takes other multiples too.
    in_channels : int
        Channels of the data.
    out_channels : int or None
        Channels of the output; None is ``in_channels``.
    classes : int or None
        Number of classes, EDM's ``label_dim``; None builds a network without labels.
    augment_dim : int
        Numbers that describe how an image was augmented; 0 is none.
    model_channels : int
        Channels at full resolution; a multiple of 4, or of 32 for more than 128.
    channel_mult : sequence of int
        Channels of each level over ``model_channels``; each level after the first halves the
        resolution.
    channel_mult_emb, channel_mult_noise : int
        Size of the embedding and of the features of ``c``, over ``model_channels``.
    num_blocks : int
        Residual blocks per level in the encoder; the decoder has one more.
    attn_resolutions : sequence of int
        Heights of the levels with self-attention, for images of ``img_resolution``.
    dropout : float
        Probability in ``[0, 1)``, in every residual block, in training mode only.
    embedding_type : {"positional", "fourier"}
        Sines and cosines of ``c`` at geometric or at Gaussian frequencies.
    encoder_type : {"standard", "skip", "residual"}
        Whether, and how, the image itself enters the lower levels of the encoder.
    decoder_type : {"standard", "skip"}
        "skip" adds up an output of every level.
    resample_filter : (1, 1) or (1, 3, 3, 1)
        The taps for up- and down-sampling.

    Attributes
    ----------
    config : dict[str, Any]
        JSON-able arguments; ``SongUNet(**net.config)`` builds the same architecture.

    Raises
    ------
    ParameterError, IncompatibleError
        An argument lies outside its range; an unknown type.

    Examples
    --------
    >>> import torch
    >>> net = SongUNet(8, 3, model_channels=16, channel_mult=(1, 2), num_blocks=1)
    >>> net(torch.randn(2, 3, 8, 8), torch.rand(2)).shape
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
        model_channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        channel_mult_emb: int = 4,
        num_blocks: int = 4,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.10,
        embedding_type: str = "positional",
        channel_mult_noise: int = 1,
        encoder_type: str = "standard",
        decoder_type: str = "standard",
        resample_filter: Sequence[int] = (1, 1),
    ) -> None:
        super().__init__()
        taps = checks.choice("resample_filter", tuple(resample_filter), blocks.FILTERS)
        self.config = checked_config(
            img_resolution, in_channels, out_channels, classes, augment_dim, model_channels,
            channel_mult, channel_mult_emb, num_blocks, attn_resolutions, dropout,
        )  # fmt: skip
        self.config |= {
            "embedding_type": checks.choice(
                "embedding_type", embedding_type, ("positional", "fourier")
            ),
            "channel_mult_noise": checks.count("channel_mult_noise", channel_mult_noise),
            "encoder_type": checks.choice(
                "encoder_type", encoder_type, ("standard", "skip", "residual")
            ),
            "decoder_type": checks.choice("decoder_type", decoder_type, ("standard", "skip")),
            "resample_filter": list(taps),
        }
        inputs, outputs = self.config["in_channels"], self.config["out_channels"]
        features, embedding = channel_mult_noise * model_channels, channel_mult_emb * model_channels
        block = partial(Block, SONG, embedding=embedding, dropout=dropout, taps=taps)

        def conv(inputs: int, outputs: int, kernel: int, role: str = "inner") -> nn.Conv2d:
            return SONG.initial(nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2), role)

        self.map_noise: nn.Module = blocks.FourierEmbedding(features)
        if embedding_type == "positional":
            self.map_noise = blocks.PositionalEmbedding(features, endpoint=True)
        if classes is not None:
            self.map_label = SONG.initial(nn.Linear(classes, features))
        if augment_dim:
            self.map_augment = SONG.initial(nn.Linear(augment_dim, features, bias=False))
        self.map_layer0 = SONG.initial(nn.Linear(features, embedding))
        self.map_layer1 = SONG.initial(nn.Linear(embedding, embedding))

        sizes = [img_resolution >> level for level in range(len(channel_mult))]
        widths = [model_channels * m for m in channel_mult]
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        self.enc[f"{sizes[0]}x{sizes[0]}_conv"] = conv(inputs, model_channels, 3)
        here, image, skips = model_channels, inputs, [model_channels]
        for level, (size, width) in enumerate(zip(sizes, widths, strict=True)):
            at, attend = f"{size}x{size}_", size in attn_resolutions
            if level > 0:
                self.enc[at + "down"] = block(here, here, down=True)
                skips.append(here)
                if encoder_type == "skip":
                    self.enc[at + "aux_down"] = blocks.Resample(False, taps)
                    self.enc[at + "aux_skip"] = conv(image, here, 1)
                if encoder_type == "residual":
                    fused = blocks.ResampledConv(image, here, 3, up=False, taps=taps, fused=True)
                    self.enc[at + "aux_residual"] = SONG.initial(fused)
                    image = here
            for i in range(num_blocks):
                self.enc[f"{at}block{i}"] = block(here, width, attend=attend)
                skips.append(width)
                here = width
        for level, (size, width) in reversed([*enumerate(zip(sizes, widths, strict=True))]):
            at, lowest = f"{size}x{size}_", level == len(sizes) - 1
            if lowest:
                self.dec[at + "in0"] = block(here, here, attend=True)
                self.dec[at + "in1"] = block(here, here)
            else:
                self.dec[at + "up"] = block(here, here, up=True)
            for i in range(num_blocks + 1):
                attend = i == num_blocks and size in attn_resolutions
                self.dec[f"{at}block{i}"] = block(here + skips.pop(), width, attend=attend)
                here = width
            if decoder_type == "skip" and not lowest:
                self.dec[at + "aux_up"] = blocks.Resample(True, taps)
            if decoder_type == "skip" or level == 0:
                self.dec[at + "aux_norm"] = blocks.group_norm(here, SONG.epsilon)
                self.dec[at + "aux_conv"] = conv(here, outputs, 3, "last")

    def forward(
        self, x: Tensor, c: Tensor, label: Tensor | None = None, augment: Tensor | None = None
    ) -> Tensor:
        """The output ``(B, out_channels, H, W)``.

        Parameters
        ----------
        x : Tensor
            ``(B, in_channels, H, W)``, in the network's dtype.
        c : Tensor
            ``(B,)`` time input, floating point; EDM's ``c_noise``.
        label : Tensor or None
            ``(B,)`` int64 in ``0 … classes``; None, or the value ``classes``, is "no label".
        augment : Tensor or None
            ``(B, augment_dim)``; None, or zeros, is an image as it is.

        Raises
        ------
        ShapeError
            A wrong shape, dtype, device or label value.
        IncompatibleError
            A label was given to a network built without ``classes``.
        """
        config, silu = self.config, nn.functional.silu
        vector, label = checked_features(self, x, c, label, augment)
        cosines, sines = vector.chunk(2, dim=1)
        vector = torch.cat([sines, cosines], dim=1)
        if label is not None:
            classes = config["classes"]
            hot = blocks.one_hot(label, classes, vector.dtype)
            vector = vector + self.map_label(math.sqrt(classes) * hot)
        if augment is not None:
            vector = vector + self.map_augment(augment.to(vector.dtype))
        vector = silu(self.map_layer1(silu(self.map_layer0(vector))))

        skips: list[Tensor] = []
        h = image = x
        for name, part in self.enc.items():
            match name.partition("_")[2]:
                case "conv":
                    h = part(x)
                    skips.append(h)
                case "aux_down":
                    image = part(image)
                case "aux_skip":
                    h = skips[-1] = h + part(image)
                case "aux_residual":
                    h = skips[-1] = image = SONG.scale * (h + part(image))
                case _:
                    h = part(h, vector)
                    skips.append(h)
        y: Tensor | None = None
        normed = h
        for name, part in self.dec.items():
            match name.partition("_")[2]:
                case "aux_up":
                    y = part(y)
                case "aux_norm":
                    normed = silu(part(h))
                case "aux_conv":
                    y = part(normed) if y is None else part(normed) + y
                case _:
                    h = blocks.decode(part, h, vector, skips)
        return cast(Tensor, y)
