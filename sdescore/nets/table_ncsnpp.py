"""The configurations of score_sde (Song et al. 2021, arXiv:2011.13456), by their files' names.

Each says where it differs from the defaults of :class:`sdescore.nets.NCSNpp`. Beyond the options of
the network there are ``sde`` and ``continuous``: whether the network was trained at all times, or
at the ``num_scales`` levels of a table.
"""

from __future__ import annotations

from typing import Any

__all__: list[str] = []

Options = dict[str, Any]

# DDPM's U-Net (Ho et al. 2020) is an NCSN++ with these options.
DDPM: Options = {
    "resblock_type": "ddpm",
    "fir": False,
    "skip_rescale": False,
    "progressive": "none",
    "progressive_input": "none",
    "embedding_type": "positional",
    "init_scale": 0.0,
    "groups": 32,
}
SMALL_DDPM: Options = {**DDPM, "num_res_blocks": 2}
LARGE_DDPM: Options = {
    **SMALL_DDPM,
    "image_size": 256,
    "ch_mult": (1, 1, 2, 2, 4, 4),
    "dropout": 0.0,
    "sigma_max": 378.0,
}
DDPMPP: Options = {"fir": False, "progressive_input": "none", "embedding_type": "positional"}
POSITIONAL: Options = {"embedding_type": "positional"}
DEEP: Options = {"num_res_blocks": 8}
SKIPS: Options = {
    "num_scales": 2000,
    "dropout": 0.0,
    "progressive": "output_skip",
    "progressive_input": "input_skip",
}
LARGE: Options = {
    **SKIPS,
    "image_size": 256,
    "ch_mult": (1, 1, 2, 2, 2, 2, 2),
    "num_res_blocks": 2,
}
LARGEST: Options = {
    **SKIPS,
    "image_size": 1024,
    "nf": 16,
    "ch_mult": (1, 2, 4, 8, 16, 32, 32, 32),
    "num_res_blocks": 1,
    "sigma_max": 1348.0,
}

VE: Options = {"sde": "vesde", "continuous": True, "centered": False, "scale_by_sigma": True}
VP: Options = {"sde": "vpsde", "continuous": True, "centered": True, "scale_by_sigma": False}
SUBVP: Options = {**VP, "sde": "subvpsde"}
LEVELS: Options = {"continuous": False}

OFFICIAL: dict[str, Options] = {
    "ve/cifar10_ncsnpp_continuous": VE,
    "ve/cifar10_ncsnpp_deep_continuous": {**VE, **DEEP},
    "ve/cifar10_ncsnpp": {**VE, **LEVELS, **POSITIONAL},
    "ve/cifar10_ddpm": {**VE, **LEVELS, **SMALL_DDPM},
    "ve/celeba_ncsnpp": {**VE, **LEVELS, **POSITIONAL, "image_size": 64, "sigma_max": 90.0},
    "ve/bedroom_ncsnpp_continuous": {**VE, **LARGE, "sigma_max": 378.0},
    "ve/church_ncsnpp_continuous": {**VE, **LARGE, "sigma_max": 380.0},
    "ve/celebahq_256_ncsnpp_continuous": {**VE, **LARGE, "sigma_max": 348.0},
    "ve/ffhq_256_ncsnpp_continuous": {**VE, **LARGE, "sigma_max": 348.0},
    "ve/celebahq_ncsnpp_continuous": {**VE, **LARGEST},
    "ve/ffhq_ncsnpp_continuous": {**VE, **LARGEST},
    "vp/cifar10_ncsnpp": {**VP, **LEVELS, **POSITIONAL},
    "vp/cifar10_ncsnpp_continuous": {**VP, **POSITIONAL},
    "vp/cifar10_ncsnpp_deep_continuous": {**VP, **POSITIONAL, **DEEP},
    "vp/cifar10_ddpmpp": {**VP, **LEVELS, **DDPMPP},
    "vp/cifar10_ddpmpp_continuous": {**VP, **DDPMPP},
    "vp/cifar10_ddpmpp_deep_continuous": {**VP, **DDPMPP, **DEEP},
    "vp/ddpm/cifar10": {**VP, **LEVELS, **SMALL_DDPM},
    "vp/ddpm/cifar10_continuous": {**VP, **SMALL_DDPM},
    "vp/ddpm/bedroom": {**VP, **LEVELS, **LARGE_DDPM},
    "vp/ddpm/church": {**VP, **LEVELS, **LARGE_DDPM},
    "vp/ddpm/celebahq": {**VP, **LEVELS, **LARGE_DDPM},
    "subvp/cifar10_ddpm_continuous": {**SUBVP, **SMALL_DDPM},
    "subvp/cifar10_ncsnpp_continuous": {**SUBVP, **POSITIONAL},
    "subvp/cifar10_ncsnpp_deep_continuous": {**SUBVP, **POSITIONAL, **DEEP},
    "subvp/cifar10_ddpmpp_continuous": {**SUBVP, **DDPMPP},
    "subvp/cifar10_ddpmpp_deep_continuous": {**SUBVP, **DDPMPP, **DEEP},
}
