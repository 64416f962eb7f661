"""How far a reader must go: files and functions of ours that one call enters.

Comprehensions are no functions here, for a newer Python enters them nowhere; lambdas are.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest
import torch

import sdescore as ss

PACKAGE = str(Path(ss.__file__).parent)
COMPREHENSIONS = ("<listcomp>", "<genexpr>", "<dictcomp>", "<setcomp>")


def way(call: Callable[[], object]) -> tuple[set[str], set[tuple[str, int]]]:
    """The files of the package that a call enters, and the functions in them."""
    functions = set()

    def hook(frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        own = code.co_filename.startswith(PACKAGE) and code.co_name not in COMPREHENSIONS
        if event == "call" and own:
            functions.add((code.co_filename[len(PACKAGE) + 1 :], code.co_firstlineno))

    sys.setprofile(hook)
    try:
        call()
    finally:
        sys.setprofile(None)
    return {file for file, _ in functions}, functions


SDE = ss.VPSDE()
MODEL = ss.ScoreModel(ss.MLP(2), SDE, prediction="epsilon")


def test_a_sample() -> None:
    """Of a network, by a sampler with a corrector that was made before."""
    sampler = ss.PredictorCorrector(
        SDE, predictor=ss.ReverseDiffusion(), corrector=ss.Langevin(), steps=100
    )
    files, functions = way(lambda: sampler.sample(MODEL, (4, 2)))
    assert len(files) <= 12, sorted(files)
    assert len(functions) <= 60, sorted(functions)


def test_a_sample_from_nothing() -> None:
    """As above, the sampler's making and its parts included, and the check of its steps."""
    ReverseDiffusion, Langevin = ss.ReverseDiffusion, ss.Langevin  # their rooms are loaded before

    def call() -> None:
        sampler = ss.PredictorCorrector(
            SDE, predictor=ReverseDiffusion(), corrector=Langevin(), steps=100
        )
        sampler.sample(MODEL, (4, 2))

    files, functions = way(call)
    assert len(files) <= 22, sorted(files)
    assert len(functions) <= 107, sorted(functions)


@pytest.mark.parametrize("prediction", ["epsilon", "F"])
def test_a_loss(prediction: str) -> None:
    """Of a network that predicts ε or F, with every option left at its default."""
    model = ss.ScoreModel(ss.MLP(2), SDE, prediction)
    x0 = torch.ones(8, 2, dtype=torch.float32, device="cpu")
    loss = ss.denoising_loss  # its room is loaded before, not on the way
    files, functions = way(lambda: loss(model, x0))
    assert len(files) <= 7, sorted(files)
    assert len(functions) <= 25, sorted(functions)


@pytest.mark.parametrize("prediction", ["epsilon", "F"])
def test_a_training_run(prediction: str) -> None:
    """Of a network that predicts ε or F, three steps with every option left at its default."""
    data = torch.ones(100, 2, dtype=torch.float32, device="cpu")
    train, model = ss.train, ss.ScoreModel(ss.MLP(2), SDE, prediction)
    files, _ = way(lambda: train(model, data, steps=3, progress=False))
    assert len(files) <= 12, sorted(files)


def test_a_likelihood() -> None:
    """Of a network, by an exact divergence; the bar is on the files."""
    flow = ss.ProbabilityFlow(SDE)
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    files, functions = way(lambda: flow.log_likelihood(MODEL, x))
    assert len(files) <= 11, sorted(files)
    assert len(functions) <= 83, sorted(functions)
