"""What is asked of any score: its SDE behind a wrapper, and that it is one function."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn

import sdescore as ss
from sdescore.wrappers import sde_of


class Elsewhere(nn.Module):
    """A network in training mode whose dropout changes each call."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        return self.drop(-x)


def test_a_wrapped_call_is_on_the_models_sde() -> None:
    """A sampler on another SDE would give another distribution, unnoticed."""
    model = ss.ScoreModel(ss.MLP(2, hidden=8), ss.VPSDE())
    partial, sampler = functools.partial(model), ss.PredictorCorrector(ss.SubVPSDE(), steps=2)
    wrapped = functools.wraps(model)(lambda x, t: model(x, t))
    for score in (partial, functools.partial(partial), model.forward, wrapped, model):
        with pytest.raises(ss.errors.IncompatibleError, match="a model on the sampler's SDE"):
            sampler.sample(score, (2, 2))
        ss.PredictorCorrector(ss.VPSDE(), steps=2).sample(score, (2, 2))
    with pytest.raises(ss.errors.IncompatibleError, match=r"a score on SubVPSDE.*one on VPSDE"):
        ss.SubVPSDE().reverse(model)


def test_other_callables_are_on_no_sde() -> None:
    """A tensor's method, whose owner has no truth value, and attributes of a call's name."""

    class Holder(nn.Module):
        func = ss.GaussianScore([0.0, 0.0], 1.0, ss.VESDE())  # not what it calls

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return -x

    for score in (torch.ones(2, 2).mul, torch.mul, Holder(), Holder().forward, print):
        assert sde_of(score) is None


def test_dropout_of_nothing_is_steady() -> None:
    """A network as it was made is in training mode, with dropout at 0 as a rule."""
    net = ss.UNet(1, width=8, multipliers=(1,), blocks=1)
    assert net.training and any(isinstance(m, nn.Dropout) for m in net.modules())
    model = ss.ScoreModel(net, ss.VPSDE())
    run = ss.langevin.chains(model, torch.zeros(1, 1, 4, 4), 1e-3, 1, t=0.5)
    assert run.x.isfinite().all()


def test_a_network_in_training_mode_is_refused_where_it_runs_as_it_is() -> None:
    net, x = Elsewhere(), torch.ones(3, 2)
    for run in (
        lambda: ss.langevin.chains(net, x, 0.1, 2),
        lambda: ss.simulate(ss.VPSDE().reverse(net), x, start=1.0, end=0.5, steps=2),
    ):
        net.train()
        with pytest.raises(ss.errors.IncompatibleError, match=r"Dropout in training mode; call"):
            run()
        net.eval()
        run()
