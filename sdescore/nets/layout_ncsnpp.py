"""Which parts an NCSN++ has, in the order in which the official code numbers them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

from torch import nn

from sdescore import checks
from sdescore.nets.blocks_ncsnpp import Attention, Combine, Resample, ResidualBlock
from sdescore.nets.layers_ncsnpp import FourierFeatures, convolution, linear, norm

__all__: list[str] = []


class Level(NamedTuple):
    """The parts of one resolution on one side of the U-Net, as indices into ``all_modules``."""

    blocks: list[list[int]]  # each with the attention after it, where there is one
    side: list[int]  # of the image's or the output's own path
    resample: int | None


class Layout(NamedTuple):
    """The parts of the network, as indices into ``all_modules``."""

    features: int | None
    time: list[int]
    first: int
    encoder: list[Level]
    middle: tuple[int, int, int]
    decoder: list[Level]
    last: list[int]


def assemble(o: Mapping[str, Any], modules: nn.ModuleList, act: nn.Module) -> Layout:
    """Append the parts that the options of :class:`sdescore.nets.NCSNpp` ask for, in order."""
    nf, channels, groups = o["nf"], o["num_channels"], o["groups"]
    scale, rescale = o["init_scale"], o["skip_rescale"]
    taps = o["fir_kernel"] if o["fir"] else None
    last = len(o["ch_mult"]) - 1
    checks.that(last >= 0, "at least one ch_mult", "none; use (1,) for one level")
    expected = f"an image_size divisible by {2**last}, for {last + 1} levels"
    checks.that(o["image_size"] % 2**last == 0, expected, o["image_size"])
    levels = [(nf * m, o["image_size"] >> i) for i, m in enumerate(o["ch_mult"])]
    block = partial(
        ResidualBlock,
        o["resblock_type"],
        embedding=4 * nf,
        act=act,
        dropout=o["dropout"],
        scale=scale,
        groups=groups,
        skip_rescale=rescale,
    )

    def put(part: nn.Module) -> int:
        modules.append(part)
        return len(modules) - 1

    def attention(width: int, size: int) -> list[int]:
        attends = size in o["attn_resolutions"]
        return [put(Attention(width, scale, groups, rescale))] if attends else []

    def resampled(direction: str, width: int) -> int:
        if o["resblock_type"] == "biggan":
            return put(block(width, width, resample=Resample(direction, taps)))
        return put(Resample(direction, taps, width if o["resamp_with_conv"] else None))

    fourier = o["embedding_type"] == "fourier"
    features = put(FourierFeatures(nf, o["fourier_scale"])) if fourier else None
    time: list[int] = []
    if o["conditional"]:
        time = [put(linear(2 * nf if fourier else nf, 4 * nf)), put(linear(4 * nf, 4 * nf))]
    first = put(convolution(channels, nf))

    encoder: list[Level] = []
    skips, h, path = [nf], nf, channels
    for i, (width, size) in enumerate(levels):
        blocks: list[list[int]] = []
        side: list[int] = []
        for _ in range(o["num_res_blocks"]):
            blocks.append([put(block(h, width)), *attention(width, size)])
            h = width
            skips.append(h)
        down = resampled("down", h) if i < last else None
        if i < last:
            if o["progressive_input"] == "input_skip":
                side = [put(Combine(channels, h, o["progressive_combine"]))]
                h *= 2 if o["progressive_combine"] == "cat" else 1
            elif o["progressive_input"] == "residual":
                side = [put(Resample("down", taps, path, h))]
                path = h
            skips.append(h)
        encoder.append(Level(blocks, side, down))

    attends = Attention(h, scale, groups, rescale)
    middle = put(block(h, h)), put(attends), put(block(h, h))

    decoder: list[Level] = []
    for i, (width, size) in reversed(list(enumerate(levels))):
        blocks, side = [], []
        for _ in range(o["num_res_blocks"] + 1):
            blocks.append([put(block(h + skips.pop(), width))])
            h = width
        blocks[-1] += attention(width, size)
        if o["progressive"] == "output_skip":
            side = [put(norm(h, groups)), put(convolution(h, channels, scale=scale))]
        elif o["progressive"] == "residual" and i == last:
            side = [put(norm(h, groups)), put(convolution(h, h))]
        elif o["progressive"] == "residual":
            side = [put(Resample("up", taps, path, h))]
        path = h
        decoder.append(Level(blocks, side, resampled("up", h) if i > 0 else None))
    end: list[int] = []
    if o["progressive"] != "output_skip":
        end = [put(norm(h, groups)), put(convolution(h, channels, scale=scale))]
    return Layout(features, time, first, encoder, middle, decoder, end)
