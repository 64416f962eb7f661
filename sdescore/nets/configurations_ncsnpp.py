"""The options of a configuration of score_sde, by name or as a dict, and its network."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from sdescore import checks
from sdescore.errors import IncompatibleError
from sdescore.nets.ncsnpp import NCSNpp
from sdescore.nets.table_ncsnpp import DDPM, OFFICIAL, Options

__all__ = ["score_sde_configuration", "score_sde_network"]

SDES = ("vesde", "vpsde", "subvpsde")
NETWORK = {
    name: parameter.default
    for name, parameter in inspect.signature(NCSNpp).parameters.items()
    if name != "round_levels"
}
DEFAULTS: Options = {**NETWORK, "beta_min": 0.1, "beta_max": 20.0}
# What the official code has no option for, and the options that change no function.
FIXED = {
    "normalization": ("GroupNorm",),
    "attention_type": ("ddpm",),
    "conv_size": (3,),
    "name": ("ncsnpp", "ddpm"),
}
SECTIONS = ("training", "model", "data")
UNUSED = {"ema_rate", "sigma_begin"}


def score_sde_configuration(config: str | Mapping[str, Any]) -> Options:
    """All options of a configuration of score_sde, with the network's and the SDE's.

    Parameters
    ----------
    config : str or dict
        The name of an official configuration file, such as ``"ve/cifar10_ncsnpp_continuous"``. Or
        a dict of options under their official names, either flat or in the sections ``training``,
        ``model`` and ``data``, as ``config.to_dict()`` gives it; ``sde`` and ``continuous`` must be
        in it. What it leaves out is as in ``ve/cifar10_ncsnpp_continuous``.

    Raises
    ------
    IncompatibleError
        The name is not official, or an option is unknown, missing or of no effect.

    Examples
    --------
    >>> options = score_sde_configuration("vp/cifar10_ddpmpp_deep_continuous")
    >>> options["sde"], options["num_res_blocks"], options["fir"]
    ('vpsde', 8, False)
    """
    if isinstance(config, str):
        name = config.removeprefix("configs/").removesuffix(".py")
        checks.choice("config", name, sorted(OFFICIAL))
        return {**DEFAULTS, **OFFICIAL[name]}
    expected = "config as the name of an official configuration or a dict of options"
    checks.that(isinstance(config, Mapping), expected, f"{config!r:.100}", IncompatibleError)
    options = dict(config)
    if "model" in options:
        sections = [options.get(section, {}) for section in SECTIONS]
        known = {*DEFAULTS, *FIXED, "sde", "continuous"}
        options = {k: v for part in sections for k, v in part.items() if k in known}
    for key in ("sde", "continuous"):
        got = f"{sorted(map(str, options))}"
        checks.that(key in options, f"{key!r} in config", got, IncompatibleError)
    for key, allowed in FIXED.items():
        if key in options:
            checks.choice(key, options[key], allowed)
    if options.get("name") == "ddpm":
        options.update(DDPM)
    options = {k: v for k, v in options.items() if k not in {*FIXED, *UNUSED}}
    for key in options:
        checks.choice("an option of config", key, sorted({*DEFAULTS, "sde", "continuous"}))
    words = {key: v.lower() for key, v in options.items() if isinstance(v, str)}
    options = {**DEFAULTS, **options, **words}  # the original ignores the case of words
    checks.choice("sde", options["sde"], SDES)
    checks.flag("continuous", options["continuous"])
    fits = options["continuous"] or options["embedding_type"] == "positional"
    got = "Fourier features, of which level 0 has none"
    checks.that(fits, "embedding_type='positional' for levels", got, IncompatibleError)
    return options


def score_sde_network(config: str | Mapping[str, Any]) -> NCSNpp:
    """The untrained network of a configuration; see :func:`score_sde_configuration`.

    Examples
    --------
    >>> import torch
    >>> with torch.device("meta"):  # shapes alone, for it is large
    ...     net = score_sde_network("vp/cifar10_ddpmpp_continuous")
    >>> sum(weights.numel() for weights in net.parameters())
    61804419
    """
    options = score_sde_configuration(config)
    levels = options["sde"] == "vesde" and not options["continuous"]
    network = {key: value for key, value in options.items() if key in NETWORK}
    return NCSNpp(**network, round_levels=levels)
