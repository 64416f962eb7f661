r"""NCSN++ and DDPM++, the U-Nets of Song et al. 2021, arXiv:2011.13456, appendix H.

A U-Net whose encoder can take in the image again at every resolution (``progressive_input``), and
whose decoder can sum its output up from every resolution (``progressive``), as in StyleGAN2 (Karras
et al. 2020, arXiv:1912.04958, section 4.1). DDPM++ has neither and no FIR filter. The U-Net of
Ho et al. 2020, as score_sde has it, is ``resblock_type="ddpm"`` without ``fir``.

Where ``scale_by_sigma`` is set the output is that of the convolutions over σ, and a score:

.. math:: \mathrm{net}(x, \sigma) = h(x, \log \sigma) / \sigma .

The parts are in ``all_modules`` in the order of the official code, so that an official checkpoint
loads with ``strict=True``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sdescore import checks
from sdescore.errors import IncompatibleError, ShapeError
from sdescore.nets.blocks_ncsnpp import Resample
from sdescore.nets.layers_ncsnpp import activation, joined, positional_features
from sdescore.nets.layout_ncsnpp import assemble
from sdescore.shapes import align

if TYPE_CHECKING:
    from typing_extensions import Self  # of typing from Python 3.11 on

__all__ = ["DDPMpp", "NCSNpp"]


class NCSNpp(nn.Module):
    """The network of score_sde's configurations, with their options' own names.

    Called as ``net(x, c)`` with ``x`` ``(B, num_channels, image_size, image_size)``. The time ``c``
    is σ for ``embedding_type="fourier"``, and a level or ``999 t`` for ``"positional"``. The
    defaults are those of ``ve/cifar10_ncsnpp_continuous``;
    :func:`sdescore.nets.score_sde_configuration` has all the official ones.

    Parameters
    ----------
    image_size, num_channels : int
        Of the images; ``image_size`` is divisible by 2 for every level but the last.
    centered : bool
        Whether states are images in [−1, 1]. Where not, the network takes ``2 x − 1``.
    nf : int
        Channels at full resolution, a multiple of 4.
    ch_mult : sequence of int
        Channels of each level over ``nf``; each level after the first halves the resolution.
    num_res_blocks : int
        Residual blocks per level in the encoder; the decoder has one more.
    attn_resolutions : sequence of int
        Resolutions with self-attention; the lowest has one more, between encoder and decoder.
    dropout : float
        In ``[0, 1)``, in every residual block, in training mode only.
    resamp_with_conv : bool
        Whether ``resblock_type="ddpm"`` resamples with a convolution.
    conditional : bool
        Whether the blocks are told the time.
    fir : bool
        Whether images and features are resampled through the filter ``fir_kernel``.
    fir_kernel : sequence of float
        Its taps along an axis, at least 2.
    skip_rescale : bool
        Whether sums of two paths are divided by √2.
    resblock_type : {"biggan", "ddpm"}
        The residual block, see :mod:`sdescore.nets.blocks_ncsnpp`.
    progressive : {"none", "output_skip", "residual"}
        How the decoder's resolutions make the output.
    progressive_input : {"none", "input_skip", "residual"}
        How the encoder's resolutions take in the image.
    progressive_combine : {"sum", "cat"}
        How "input_skip" joins image and features.
    embedding_type : {"fourier", "positional"}
        Features of log c at Gaussian frequencies, or of c at geometric ones.
    fourier_scale : float
        Standard deviation of the Gaussian frequencies.
    init_scale : float
        Scale of a branch's last convolution at the start; 0 starts blocks as the identity.
    scale_by_sigma : bool
        Whether the output is divided by σ; for "positional", by the level's σ in ``sigmas``.
    sigma_min, sigma_max, num_scales : float, float, int
        The ladder in the buffer ``sigmas``, float64, largest σ first.
    nonlinearity : {"swish", "relu", "elu", "lrelu"}
        After every norm.
    groups : int, optional
        Groups of every group norm; by default a quarter of its channels, at most 32.
    round_levels : bool
        Whether c is first rounded to the nearest integer, which is what score_sde does to the
        levels of a discrete VE SDE.

    Attributes
    ----------
    config : dict[str, Any]
        JSON-able arguments; ``NCSNpp(**net.config)`` builds the same architecture.

    Raises
    ------
    ParameterError, IncompatibleError
        An option is out of its range or unknown.

    Examples
    --------
    >>> import torch
    >>> net = NCSNpp(8, nf=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(4,))
    >>> net(torch.rand(2, 3, 8, 8), torch.tensor([0.01, 50.0])).shape
    torch.Size([2, 3, 8, 8])
    """

    config: dict[str, Any]
    sigmas: Tensor

    def __init__(
        self,
        image_size: int = 32,
        num_channels: int = 3,
        *,
        centered: bool = False,
        nf: int = 128,
        ch_mult: Sequence[int] = (1, 2, 2, 2),
        num_res_blocks: int = 4,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.1,
        resamp_with_conv: bool = True,
        conditional: bool = True,
        fir: bool = True,
        fir_kernel: Sequence[float] = (1, 3, 3, 1),
        skip_rescale: bool = True,
        resblock_type: str = "biggan",
        progressive: str = "none",
        progressive_input: str = "residual",
        progressive_combine: str = "sum",
        embedding_type: str = "fourier",
        fourier_scale: float = 16.0,
        init_scale: float = 0.0,
        scale_by_sigma: bool = True,
        sigma_min: float = 0.01,
        sigma_max: float = 50.0,
        num_scales: int = 1000,
        nonlinearity: str = "swish",
        groups: int | None = None,
        round_levels: bool = False,
    ) -> None:
        super().__init__()
        sigma_max = checks.number("sigma_max", sigma_max, above=0)
        self.config = {
            "image_size": checks.count("image_size", image_size),
            "num_channels": checks.count("num_channels", num_channels),
            "centered": checks.flag("centered", centered),
            "nf": checks.count("nf", nf, at_least=4),
            "ch_mult": [checks.count("every ch_mult", m) for m in ch_mult],
            "num_res_blocks": checks.count("num_res_blocks", num_res_blocks),
            "attn_resolutions": [checks.count("every resolution", r) for r in attn_resolutions],
            "dropout": checks.number("dropout", dropout, at_least=0, below=1),
            "resamp_with_conv": checks.flag("resamp_with_conv", resamp_with_conv),
            "conditional": checks.flag("conditional", conditional),
            "fir": checks.flag("fir", fir),
            "fir_kernel": list(checks.numbers("fir_kernel", fir_kernel, at_least=2)),
            "skip_rescale": checks.flag("skip_rescale", skip_rescale),
            "resblock_type": checks.choice("resblock_type", resblock_type, ("biggan", "ddpm")),
            "progressive": checks.choice(
                "progressive", progressive, ("none", "output_skip", "residual")
            ),
            "progressive_input": checks.choice(
                "progressive_input", progressive_input, ("none", "input_skip", "residual")
            ),
            "progressive_combine": checks.choice(
                "progressive_combine", progressive_combine, ("sum", "cat")
            ),
            "embedding_type": checks.choice(
                "embedding_type", embedding_type, ("fourier", "positional")
            ),
            "fourier_scale": checks.number("fourier_scale", fourier_scale, above=0),
            "init_scale": checks.number("init_scale", init_scale, at_least=0),
            "scale_by_sigma": checks.flag("scale_by_sigma", scale_by_sigma),
            "sigma_min": checks.number("sigma_min", sigma_min, above=0, below=sigma_max),
            "sigma_max": sigma_max,
            "num_scales": checks.count("num_scales", num_scales, at_least=2),
            "nonlinearity": nonlinearity,
            "groups": None if groups is None else checks.count("groups", groups),
            "round_levels": checks.flag("round_levels", round_levels),
        }
        logs = math.log(sigma_max), math.log(self.config["sigma_min"])
        table = torch.linspace(*logs, num_scales, dtype=torch.float64, device="cpu").exp()
        self.register_buffer("sigmas", table.to(torch.get_default_device()))
        self.act = activation(nonlinearity)
        self.options = self.config
        self.all_modules = nn.ModuleList()
        taps = self.config["fir_kernel"] if fir else None
        self.image_down, self.image_up = Resample("down", taps), Resample("up", taps)
        self.layout = assemble(self.config, self.all_modules, self.act)

    def forward(self, x: Tensor, c: Tensor, label: Tensor | None = None) -> Tensor:
        """The network's output, like ``x``.

        Parameters
        ----------
        x : Tensor
            ``(B, num_channels, image_size, image_size)``, in the network's dtype.
        c : Tensor
            ``(B,)``: σ, a level, or what else the network was trained on.
        label : None
            The network takes no label.

        Raises
        ------
        ShapeError, IncompatibleError
            A wrong shape or dtype; a label.
        """
        self._check(x, c, label)
        parts, vector = self.all_modules, None
        c = c.to(torch.promote_types(x.dtype, torch.float32))
        c = c.round() if self.options["round_levels"] else c
        if self.layout.time:
            if self.layout.features is None:
                vector = positional_features(c, self.options["nf"])
            else:
                vector = parts[self.layout.features](c.log())
            first, second = self.layout.time
            vector = parts[second](self.act(parts[first](vector.to(x.dtype))))
        y = self._decoded(
            self._encoded(x if self.options["centered"] else 2 * x - 1, vector), vector
        )
        if self.options["scale_by_sigma"]:
            sigma = c if self.layout.features is not None else self.sigmas[c.long()].to(c.dtype)
            y = y / align(sigma, y)
        return y

    def _encoded(self, image: Tensor, vector: Tensor | None) -> list[Tensor]:
        """The features of every block of the encoder, and at the end those of the middle."""
        parts, kind = self.all_modules, self.options["progressive_input"]
        h = parts[self.layout.first](image)
        skips = [h]
        for level in self.layout.encoder:
            for block, *attention in level.blocks:
                h = parts[block](h, vector)
                for index in attention:
                    h = parts[index](h)
                skips.append(h)
            if level.resample is not None:
                h = parts[level.resample](h, vector)
                if kind == "input_skip":
                    image = self.image_down(image)
                    h = parts[level.side[0]](image, h)
                elif kind == "residual":
                    h = image = self._joined(parts[level.side[0]](image), h)
                skips.append(h)
        before, attends, after = self.layout.middle
        return [*skips, parts[after](parts[attends](parts[before](h, vector)), vector)]

    def _decoded(self, skips: list[Tensor], vector: Tensor | None) -> Tensor:
        parts, kind = self.all_modules, self.options["progressive"]
        h, side = skips.pop(), None
        for level in self.layout.decoder:
            for block, *attention in level.blocks:
                h = parts[block](torch.cat([h, skips.pop()], dim=1), vector)
                for index in attention:
                    h = parts[index](h)
            if kind == "residual" and side is not None:
                h = side = self._joined(parts[level.side[0]](side), h)
            elif kind != "none":
                here = self._output(h, level.side)
                side = here if side is None else self.image_up(side) + here
            if level.resample is not None:
                h = parts[level.resample](h, vector)
        return self._output(h, self.layout.last) if side is None or kind == "residual" else side

    def _output(self, h: Tensor, indices: list[int]) -> Tensor:
        normed, convolved = (self.all_modules[index] for index in indices)
        y: Tensor = convolved(self.act(normed(h)))
        return y

    def _joined(self, x: Tensor, h: Tensor) -> Tensor:
        return joined(x, h, self.options["skip_rescale"])

    def _check(self, x: Tensor, c: Tensor, label: Tensor | None) -> None:
        o, dtype = self.options, self.all_modules[-1].weight.dtype
        event = (o["num_channels"], o["image_size"], o["image_size"])
        checks.state(x)
        if tuple(x.shape[1:]) != event or x.dtype != dtype:
            got = f"{x.dtype} of shape {tuple(x.shape)}; build the network for the images, or cast"
            checks.refuse(f"{dtype} images of shape (B, {event})", got, ShapeError)
        if not isinstance(c, Tensor) or c.is_complex() or c.shape != x.shape[:1]:
            got = f"{tuple(c.shape)}" if isinstance(c, Tensor) else type(c).__name__
            checks.refuse(
                f"c, the time input, as a real tensor of shape ({len(x)},)", got, ShapeError
            )
        got = "one; leave label= out"
        checks.that(label is None, "no label for this network", got, IncompatibleError)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        # The table of levels stays in float64, whatever dtype the weights are cast to.
        table = self.sigmas
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.sigmas.dtype != torch.float64:
            self.sigmas = table.to(self.sigmas.device)
        return self


class DDPMpp(NCSNpp):
    """DDPM++: :class:`NCSNpp` without FIR filter and without the paths of images and outputs.

    Its time is a level or ``999 t``, its output usually ε, and its states are images in [−1, 1].
    The defaults are those of ``vp/cifar10_ddpmpp_continuous``; parameters, errors and names of
    tensors are those of :class:`NCSNpp`.

    Examples
    --------
    >>> import torch
    >>> net = DDPMpp(8, nf=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(4,))
    >>> net(torch.rand(2, 3, 8, 8), torch.tensor([0.0, 999.0])).shape
    torch.Size([2, 3, 8, 8])
    """

    config: dict[str, Any]

    def __init__(
        self,
        image_size: int = 32,
        num_channels: int = 3,
        *,
        centered: bool = True,
        nf: int = 128,
        ch_mult: Sequence[int] = (1, 2, 2, 2),
        num_res_blocks: int = 4,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.1,
    ) -> None:
        super().__init__(
            image_size,
            num_channels,
            centered=centered,
            nf=nf,
            ch_mult=ch_mult,
            num_res_blocks=num_res_blocks,
            attn_resolutions=attn_resolutions,
            dropout=dropout,
            fir=False,
            progressive_input="none",
            embedding_type="positional",
            scale_by_sigma=False,
        )
        own = ("image_size", "num_channels", "centered", "nf", "ch_mult", "num_res_blocks")
        self.config = {key: self.options[key] for key in (*own, "attn_resolutions", "dropout")}
