"""A weaker score for autoguidance: the network without some of its modules.

Perturbed-attention guidance (Ahn et al. 2024, arXiv:2403.17377) and skip-layer guidance replace
parts of the network by simpler ones, and guide by the difference.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, TypeVar

from torch import Tensor, nn

from sdescore import checks
from sdescore.errors import IncompatibleError
from sdescore.score.model import ScoreModel

__all__ = ["perturbed"]

Model = TypeVar("Model", bound=nn.Module)
Change = Callable[[nn.Module, Any, Tensor], Tensor]


def perturbed(model: Model, names: Sequence[str], change: Change | None = None) -> Model:
    """A copy of the model that shares its weights, with the outputs of some modules replaced.

    Parameters
    ----------
    model : torch.nn.Module
        A :class:`sdescore.ScoreModel`, or another score that is a module.
    names : sequence of str
        The modules, by their names in ``model.named_modules()``.
    change : callable, optional
        ``(module, inputs, output) -> output``. By default a module returns its first input, which
        takes out a residual block or a self-attention.

    Returns
    -------
    Model
        It has the weights of ``model``, so training ``model`` changes it as well.

    Raises
    ------
    IncompatibleError
        ``model`` is no module, or has none of these names.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> net = ss.UNet(1, width=8, multipliers=(1, 2), blocks=1, attention=(1,))
    >>> model = ss.ScoreModel(net, ss.VPSDE())
    >>> weaker = ss.guidance.perturbed(model, ["net.middle.attention"])
    >>> guided = ss.guidance.autoguidance(model, weaker, 2.0)
    """
    checks.instance("model", model, nn.Module)
    listed = not isinstance(names, str) and len(names) > 0
    checks.that(listed, "a list of names, one or more", f"{names!r}", IncompatibleError)
    models = [part for part in model.modules() if isinstance(part, ScoreModel)]
    learned = chain(model.parameters(), model.buffers(), (part._measured for part in models))
    shared: dict[int, Any] = {id(part): part for part in learned}
    weaker = copy.deepcopy(model, shared)
    found = dict(weaker.named_modules())
    for name in names:
        got = f"{name!r}; see model.named_modules()"
        checks.that(name in found, "the name of a module of the model", got, IncompatibleError)
        found[name].register_forward_hook(change or _first_input)
    return weaker


def _first_input(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    first: Tensor = inputs[0]
    return checks.score_output(first, output, "a module that is taken out")
