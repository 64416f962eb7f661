r"""What a network of score_sde (Song et al. 2021, arXiv:2011.13456) is given, and predicts.

The original's function ``get_score_fn`` says so for time t and output y. Here as there t runs from
data to noise; N is ``num_scales``.

=====================  =======================  =================  ==========================
SDE                    network's time           score              here
=====================  =======================  =================  ==========================
VE, continuous         :math:`\sigma(t)`        y                  ``"score"``, ``"sigma"``
VE, levels             round((1 − t)(N − 1))    y                  ``"score"``, level
VP, sub-VP             999 t                    −y/σ(t)            ``"epsilon"``, ``"999t"``
VP, levels             t (N − 1)                −y/σ of the level  ``"epsilon"``, level
=====================  =======================  =================  ==========================

Since :math:`\nabla \log p_t(x) = -E[\epsilon | x]/\sigma_t`, an output with score −y/σ is ε. VE's
ladder is :math:`\sigma_i = \sigma_{max} (\sigma_{min}/\sigma_{max})^{i/(N-1)}`, level 0 the
noisiest, which is :class:`sdescore.DiscreteVESDE`. VP's table is
:math:`\beta_i = (\beta_{min} + (\beta_{max} - \beta_{min})\, i/(N - 1))/N`, level 0 the least
noisy, which is :class:`sdescore.DiscreteVPSDE`: its time is (i + 1)/N at level i, where the
original counts i/(N − 1). Between two levels the original takes the σ of the lower one for VP, and
here it is interpolated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sdescore.sde.discrete import DiscreteVESDE, DiscreteVPSDE
from sdescore.sde.linear import LinearSDE
from sdescore.sde.subvp import SubVPSDE
from sdescore.sde.ve import VESDE
from sdescore.sde.vp import VPSDE

__all__: list[str] = []


def convention_of(options: Mapping[str, Any]) -> tuple[LinearSDE, str, str]:
    """The SDE, prediction and time input of a configuration's network."""
    levels = options["num_scales"]
    if options["sde"] == "vesde":
        sigmas = {key: float(options[key]) for key in ("sigma_min", "sigma_max")}
        if options["continuous"]:
            return VESDE(**sigmas), "score", "sigma"
        return DiscreteVESDE.geometric(**sigmas, levels=levels), "score", "continuous_level"
    first, last = float(options["beta_min"]), float(options["beta_max"])
    if options["sde"] == "subvpsde":
        return SubVPSDE(beta_min=first, beta_max=last), "epsilon", "999t"
    if options["continuous"]:
        return VPSDE(beta_min=first, beta_max=last), "epsilon", "999t"
    chain = DiscreteVPSDE.linear(levels, first / levels, last / levels)
    return chain, "epsilon", "continuous_level"
