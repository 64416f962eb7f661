"""Tensors that torch cannot compute with everywhere are refused at every door, in one wording."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from itertools import product

import pytest
import torch
from torch import Tensor

import sdescore as ss
from sdescore import checks, metrics
from sdescore.errors import SDEScoreError

pytestmark = pytest.mark.fast

SDE = ss.VPSDE()
SCORE = ss.GaussianScore([0.0, 0.0], 1.0, SDE)
MODEL = ss.ScoreModel(ss.MLP(2), SDE)
CLASSED = ss.ScoreModel(ss.MLP(2, classes=3), SDE)
CHAIN = ss.PredictorCorrector(SDE, predictor=ss.DDIM(), steps=20)
FLOW = ss.ProbabilityFlow(SDE)
X = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
SEEN = ss.inverse.Mask(torch.tensor([True, False]))


def quantised(x: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch is about to move it elsewhere
        return torch.quantize_per_tensor(x, 0.1, 0, torch.quint8)


def nested(x: Tensor, layout: torch.layout = torch.strided) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a prototype
        return torch.nested.nested_tensor([x, x], layout=layout)


KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "meta": lambda x: x.to("meta"),
    "sparse": lambda x: x.to_sparse(),
    "float8": lambda x: x.to(torch.float8_e4m3fn),
    "quantised": quantised,
    "nested": nested,
    "jagged": lambda x: nested(x, torch.jagged),
    "complex": lambda x: x.to(torch.complex64),
}

STATES: dict[str, Callable[[Tensor], object]] = {
    "train": lambda x: ss.train(MODEL, x, steps=1, progress=False),
    "train on batches": lambda x: ss.train(MODEL, [x], steps=1, progress=False),
    "train validation": lambda x: ss.train(MODEL, X, validation=x, steps=1, progress=False),
    "train labels": lambda x: ss.train(CLASSED, X, labels=x, steps=1, progress=False),
    "denoising_loss": lambda x: ss.denoising_loss(MODEL, x),
    "denoising_loss noise": lambda x: ss.denoising_loss(MODEL, X, noise=x),
    "sliced_loss": lambda x: ss.losses.sliced_loss(MODEL, x),
    "implicit_loss": lambda x: ss.losses.implicit_loss(MODEL, x),
    "kernel_density_score": lambda x: ss.losses.kernel_density_score(x),
    "EmpiricalScore": lambda x: ss.EmpiricalScore(x, SDE),
    "MixtureScore means": lambda x: ss.MixtureScore([1.0], x, [1.0], SDE),
    "GaussianScore covariance": lambda x: ss.GaussianScore([0.0, 0.0], x, SDE),
    "posterior": lambda x: SCORE.posterior(x, [1.0], 1.0),
    "a score": lambda x: SCORE(x, 0.5),
    "a model": lambda x: MODEL(x, 0.5),
    "denoise": lambda x: MODEL.denoise(x, 0.5),
    "from_data": MODEL.from_data,
    "kernel": lambda x: SDE.kernel(0.5)(x),
    "init": lambda x: CHAIN.sample(MODEL, init=x),
    "label": lambda x: CHAIN.sample(CLASSED, (8, 2), label=x),
    "log_likelihood": lambda x: FLOW.log_likelihood(MODEL, x),
    "encode": lambda x: FLOW.encode(MODEL, x),
    "bits_per_dimension": lambda x: ss.bits_per_dimension(MODEL, x),
    "sde_bound": lambda x: ss.samplers.sde_bound(MODEL, x),
    "edit": lambda x: ss.samplers.edit(CHAIN, MODEL, x, strength=0.5),
    "simulate": lambda x: ss.simulate(SDE, x, steps=2),
    "slerp": lambda x: ss.samplers.slerp(x, X, 0.5),
    "convert": lambda x: ss.convert(x, X, 0.8, 0.6, "score", "x0"),
    "tweedie_mean": lambda x: ss.tweedie_mean(x, X, 0.8, 0.6),
    "tweedie_covariance": lambda x: ss.tweedie_covariance(torch.neg, x, 0.8, 0.6),
    "frechet_distance": lambda x: metrics.frechet_distance(x, X),
    "mmd": lambda x: metrics.mmd(X, x),
    "local_spectra": lambda x: ss.analysis.local_spectra(x),
    "gaussian_error": lambda x: ss.analysis.gaussian_error(CHAIN, data=x),
    "recommended_sampler": lambda x: ss.recommended_sampler(MODEL, data=x),
    "optimal_grid": lambda x: ss.optimal_grid(SDE, ss.DDIM(), 3, data=x),
    "from_data of a ladder": lambda x: ss.DiscreteVESDE.from_data(x, levels=5),
    "chains": lambda x: ss.langevin.chains(SCORE, x, 0.1, 2, t=0.5),
    "full": lambda x: ss.langevin.Preconditioner.full(x),
    "y": lambda x: ss.inverse.Measurement(x, SEEN, 0.1),
    "an operator": SEEN,
    "Matrix": lambda x: ss.inverse.Matrix(x),
    "Blur": lambda x: ss.inverse.Blur(x, (8, 8)),
}
ROWS: dict[str, Callable[[Tensor], object]] = {
    "t of a model": lambda v: MODEL(X, v),
    "t of a score": lambda v: SCORE(X, v),
    "t of an SDE": lambda v: SDE.marginal(v),
    "t of a loss": lambda v: ss.denoising_loss(MODEL, X, t=v),
    "weight": lambda v: ss.denoising_loss(MODEL, X, weight=v),
    "weights": lambda v: ss.MixtureScore(v, X, [1.0] * 8, SDE),
    "variances": lambda v: ss.MixtureScore([0.125] * 8, X, v, SDE),
    "mean": lambda v: ss.GaussianScore(v, 1.0, SDE),
    "spectrum": lambda v: ss.analysis.gaussian_error(CHAIN, v),
    "mean of a spectrum": lambda v: ss.analysis.gaussian_error(CHAIN, torch.ones(8), mean=v),
    "times": lambda v: ss.analysis.gaussian_error(CHAIN, torch.ones(8), times=v),
    "spectrum of a grid": lambda v: ss.optimal_grid(SDE, ss.DDIM(), 3, spectrum=v),
    "CustomGrid": lambda v: ss.CustomGrid(v),
    "Preconditioner": lambda v: ss.langevin.Preconditioner(v),
    "its vectors": lambda v: ss.langevin.Preconditioner(torch.ones(8), v),
    "diagonal": lambda v: ss.langevin.Preconditioner.diagonal(v),
    "sigma2": lambda v: SEEN.solve(torch.ones(8, 1), v),
}


def cases() -> Iterator[object]:
    for doors, x in ((STATES, X), (ROWS, torch.full((8,), 0.125))):
        for (door, call), (kind, made) in product(doors.items(), KINDS.items()):
            yield pytest.param(call, made, x, id=f"{door}, {kind}")


@pytest.mark.parametrize(("call", "made", "x"), [*cases()])
def test_every_door(
    call: Callable[[Tensor], object], made: Callable[[Tensor], Tensor], x: Tensor
) -> None:
    with pytest.raises(SDEScoreError, match=r"expected .*[;,] got "):
        call(made(x))


@pytest.mark.parametrize("kind", KINDS)
def test_the_wording(kind: str) -> None:
    with pytest.raises(ss.errors.ShapeError, match=r"x as a dense, real tensor.*; got .*; "):
        checks.state(KINDS[kind](X))


@pytest.mark.parametrize("kind", ["meta", "float8", "quantised"])
def test_a_network_with_such_a_buffer_is_not_trained(kind: str) -> None:
    net = ss.MLP(2)
    net.register_buffer("odd", KINDS[kind](torch.ones(2)))
    model = ss.ScoreModel(net, SDE)
    with pytest.raises(ss.errors.IncompatibleError, match="network's odd as a dense, real tensor"):
        ss.train(model, X, steps=1, progress=False)
    with pytest.raises(ss.errors.IncompatibleError, match="network's odd as a dense, real tensor"):
        ss.EMA(net)


def test_a_network_with_a_part_on_meta_is_neither_trained_nor_saved(tmp_path) -> None:  # type: ignore[no-untyped-def]
    net = ss.MLP(2)
    net.extra = torch.nn.Linear(2, 2, device="meta")
    model = ss.ScoreModel(net, SDE)
    with pytest.raises(ss.errors.IncompatibleError, match=r'extra\.weight.*"meta"; make it'):
        ss.train(model, X, steps=1, progress=False)
    with pytest.raises(ss.errors.CheckpointError, match=r"extra\.weight.* on meta"):
        ss.save(tmp_path / "m.safetensors", model)
    assert not list(tmp_path.iterdir())
