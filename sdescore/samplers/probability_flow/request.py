"""Requests that start from given states, and the model with its labels bound."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sdescore.checks import require_state
from sdescore.errors import ShapeError
from sdescore.samplers.model import Model
from sdescore.samplers.request import Request, make_request
from sdescore.sde.linear import LinearSDE
from sdescore.typing import Score


def given_request(
    sde: LinearSDE,
    model: Model,
    x: Tensor,
    name: str,
    label: Tensor | None,
    max_batch: int | None,
) -> Request:
    """A request that starts from ``x`` in its own dtype and on its own device.

    Raises
    ------
    ShapeError
        ``x`` is no state in float32 or float64, or it is not where the model is.
    """
    require_state(x, name)
    if isinstance(model, nn.Module):
        home = next((p.device for p in model.parameters()), x.device)
        if home != x.device:
            raise ShapeError(f"expected {name} on the model's device {home}, got {x.device}")
    return make_request(sde, model, None, 0, None, x.detach(), label, x.dtype, x.device, max_batch)


def bind(request: Request, samples: range) -> Score:
    """The request's model with the labels of these samples, as ``score(x, t)``."""
    model = request.model
    if request.label is None:
        return model
    # A network may save the labels for a derivative, which inference mode's tensors forbid.
    with torch.inference_mode(False):
        label = request.label[samples.start : samples.stop].clone().to(request.device)
    return lambda x, t: model(x, t, label)
