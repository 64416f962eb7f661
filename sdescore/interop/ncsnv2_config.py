"""The configuration files of NCSN and NCSNv2: what is read from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from sdescore import checks
from sdescore.errors import IncompatibleError

# By the name of the official file: channels, width, largest σ, number of levels. The smallest σ is
# 0.01. NCSN's own code has one file for all data sets; its names are those of the data.
PUBLISHED = {
    "cifar10": (3, 128, 50, 232),
    "celeba": (3, 128, 90, 500),
    "church": (3, 128, 140, 788),
    "bedroom": (3, 128, 190, 1086),
    "tower": (3, 128, 190, 1086),
    "ffhq": (3, 128, 348, 2311),
    "ncsn_mnist": (1, 64, 1, 10),
    "ncsn_cifar10": (3, 128, 1, 10),
    "ncsn_celeba": (3, 128, 1, 10),
}
NORMS = ["InstanceNorm++", "InstanceNorm"]  # the second of them in one network of 2019


def sections(config: str | Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The parts ``data`` and ``model`` of a configuration; what no network here has is refused."""
    if isinstance(config, str):
        name = checks.choice("config", config, list(PUBLISHED))
        channels, width, sigma_max, levels = PUBLISHED[name]
        ends = {"sigma_begin": sigma_max, "sigma_end": 0.01}
        return {"channels": channels}, {"ngf": width, "num_classes": levels, **ends}
    parts = [config.get(key) for key in ("data", "model")] if isinstance(config, Mapping) else []
    found = [part for part in parts if isinstance(part, Mapping)]
    if len(found) != 2:
        expected = 'the name of a configuration, or its parsed file, a dict with "data" and "model"'
        checks.refuse(expected, f"{config!r:.100}", IncompatibleError)
    data, options = found
    for key, value, served in (
        ("data.logit_transform", data.get("logit_transform", False), [False]),
        ("model.spec_norm", options.get("spec_norm", False), [False]),
        ("model.normalization", options.get("normalization", NORMS[0]), NORMS),
    ):
        expected = f"{key}: {' or '.join(map(str, served))}"
        checks.that(value in served, expected, f"{value}; no network here has it")
    return data, options


def required(section: Mapping[str, Any], key: str) -> Any:
    """A value that a configuration must have."""
    name = key.partition(".")[2]
    checks.that(name in section, f"{key} in the configuration", f"{sorted(section)}")
    return section[name]


def ladder(options: Mapping[str, Any]) -> tuple[list[float], bool]:
    """The noise levels of a configuration, the largest first, and whether they are geometric."""
    levels = checks.count("model.num_classes", required(options, "model.num_classes"), at_least=2)
    keys = ("model.sigma_begin", "model.sigma_end")
    first, last = (checks.number(key, required(options, key), above=0) for key in keys)
    kinds = ["geometric", "uniform"]
    kind = checks.choice("model.sigma_dist", options.get("sigma_dist", "geometric"), kinds)
    geometric = kind == "geometric"
    if geometric:
        first, last = math.log(first), math.log(last)
    line = torch.linspace(first, last, levels, dtype=torch.float64, device="cpu")
    return (line.exp() if geometric else line).tolist(), geometric
