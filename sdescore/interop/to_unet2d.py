r"""Networks of this library as the ``UNet2DModel`` of ``diffusers`` that is the same function.

The same function are

- the U-Net of Ho et al. 2020 (arXiv:2006.11239) as score_sde has it: the configurations
  ``vp/ddpm/…`` and ``subvp/cifar10_ddpm_continuous``. ``diffusers`` has an attention after every
  block of the decoder, score_sde one after the last block of a resolution. Those that are too many
  have weights of 0, so they add 0;
- the NCSN++ of Song et al. 2021 (arXiv:2011.13456) that takes in the image and gives out the score
  at every resolution: the configurations ``ve/…_ncsnpp_continuous`` of 256 and 1024 pixels;
- ADM (Dhariwal & Nichol 2021, arXiv:2105.05233), if all its attentions have heads of as many
  channels, or all have one head: the released networks for 64 and 256 pixels.

The others are not:

- DDPM++ and NCSN++ on CIFAR-10 and CelebA divide sums by √2, or have paths of images, in a
  combination that no block of ``diffusers`` has;
- ``ve/cifar10_ddpm`` divides its output by the σ of its level, rounded to an integer;
- ADM for 128 pixels has 4 heads at every width, where ``diffusers`` fixes the channels of a head.
  That for 512 pixels has another number of channels in its first features than in those of time;
- :class:`sdescore.UNet` and EDM's, EDM2's and NCSN's networks have blocks of their own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sdescore import checks
from sdescore.errors import IncompatibleError
from sdescore.interop.diffusers import require_diffusers
from sdescore.interop.unet2d_adm import plan_of_adm
from sdescore.interop.unet2d_ncsnpp import plan_of_ncsnpp
from sdescore.nets.adm import ADM
from sdescore.nets.ncsnpp import DDPMpp, NCSNpp

__all__ = ["to_unet2d"]

PLANS: dict[type, Any] = {NCSNpp: plan_of_ncsnpp, DDPMpp: plan_of_ncsnpp, ADM: plan_of_adm}


def to_unet2d(net: nn.Module) -> Any:
    r"""The ``UNet2DModel`` of ``diffusers`` that is the same function as a network.

    It is called as ``unet(x, c).sample`` with the ``x`` and ``c`` of ``net(x, c)``. Its output has
    all channels, those of a learned variance too. An ADM with classes has one class more: the label
    ``classes`` means no label, which ``diffusers`` must be told.

    Parameters
    ----------
    net : NCSNpp, DDPMpp or ADM
        What :func:`sdescore.load_score_sde` or :func:`sdescore.load_guided_diffusion` found, as
        ``model.net``, or a network trained here. :mod:`sdescore.interop.to_unet2d` says which
        configurations are the same function.

    Returns
    -------
    diffusers.UNet2DModel
        With a copy of the weights, on their device, in their dtype and in the network's mode.

    Raises
    ------
    IncompatibleError
        The network is of another class, or an option is one that ``diffusers`` does not have; or
        ``diffusers`` is not installed.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> net = ss.nets.ADM(size=8, width=32, multipliers=(1, 2), blocks=1, attention=(4,)).eval()
    >>> unet = ss.interop.to_unet2d(net)
    >>> x, level = torch.randn(2, 3, 8, 8), torch.tensor([10.0, 900.0])
    >>> bool(torch.allclose(unet(x, level).sample, net(x, level), atol=1e-5))
    True
    """
    diffusers = require_diffusers()
    if type(net) not in PLANS:
        expected = f"one of {', '.join(kind.__name__ for kind in PLANS)}"
        checks.refuse(expected, type(net).__name__, IncompatibleError)
    plan = PLANS[type(net)](net)
    try:
        with torch.device("meta"):  # shapes alone: nothing is drawn
            unet = diffusers.UNet2DModel(**plan.config)
    except ValueError as error:
        checks.refuse("widths that diffusers builds", error, IncompatibleError)
    for name, groups in plan.groups.items():
        theirs = unet.get_submodule(name).num_groups
        got = f"{groups} in place of {theirs} in {name}; take wider features"
        checks.that(groups == theirs, "as many groups as diffusers has", got, IncompatibleError)
    like = next(net.parameters())
    state = {}
    for name, empty in unet.state_dict().items():
        if name.startswith(plan.idle):
            state[name] = like.new_zeros(empty.shape)
        else:  # a matrix for every pixel is a linear layer or a convolution by 1x1
            state[name] = plan.tensors[name].detach().reshape(empty.shape).clone()
    unet.load_state_dict(state, strict=True, assign=True)
    return unet.train(net.training)
