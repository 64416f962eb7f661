"""Data, and options beside data, that training refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

import sdescore as ss
from sdescore import checks
from tests.helpers.samples import LABELS, Found, Pairs, fit
from tests.helpers.training import cloud, make


class Bare(Dataset[Any]):
    def __getitem__(self, i: int) -> Tensor:
        return cloud()[i]


class Frame(Found):
    """What a data frame looks like from outside."""

    def to_numpy(self) -> np.ndarray[Any, Any]:
        return cloud().numpy()


class Odd(Pairs):
    def __getitem__(self, i: int) -> Any:
        return object()


class Growing(Pairs):
    def __getitem__(self, i: int) -> Any:
        return torch.ones(1 + i)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ((cloud(), LABELS), "labels="),
        ({"x": cloud()}, "TensorDataset"),
        ("data.npy", "a Dataset"),
        (3, "a Dataset"),
        ([], "at least one batch"),
        (iter([]), "at least one batch"),
        ([[0.0]], "torch.Tensor"),
        ([cloud().long()], "floating point"),
        ([torch.ones(())], r"\(B, \*E\)"),
        ([cloud().to_sparse()], "a dense"),
        ([cloud().to(torch.float8_e4m3fn)], "of 16 bits or more"),
        ([(cloud(), LABELS, LABELS)], "3 parts"),
        ([()], "0 parts"),
        ([{"x": cloud(), "labels": LABELS}], r"\['labels', 'x'\]"),
        ([{"label": LABELS}], r"\['label'\]"),
        ([(cloud(), LABELS[:5])], "one label per sample"),
        ([(cloud(), LABELS.float())], "one label per sample"),
        ([(cloud(), cloud() / 0)], "finite label"),
        (Pairs(n=0), "at least one sample"),
        (Bare(), "__len__"),
        (Frame("x"), r"Frame; pass a table.s \.to_numpy\(\)"),
        (Odd(), "tensors or arrays of one shape"),
        (np.zeros((0, 2), dtype=np.float32), "at least one sample"),
        (np.array(3.0), "one number"),
        (np.full((4, 2), np.nan), "finite data"),
        (np.zeros((4, 2), dtype=np.int64), "floating point"),
        (np.zeros((4, 2), dtype=">f4"), r"\.astype"),
        (np.array([["a"]]), r"\.astype"),
        (np.ma.masked_array(np.zeros((4, 2)), mask=True), "MaskedArray"),
    ],
)
def test_data_refused_at_the_door(data: Any, match: str) -> None:
    model = make()
    with pytest.raises(ss.errors.SDEScoreError, match=match):
        fit(data, model)
    assert model.net.calls == 0


def test_conditions_that_are_not_finite_are_refused_at_the_door() -> None:
    model, bad = make(), cloud().clone()
    bad[-1, 0] = torch.nan
    with pytest.raises(ss.errors.ParameterError, match=r"finite label\['size'\]"):
        fit(cloud(), model, labels={"size": bad})
    assert model.net.calls == 0


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"batch_size": 8}, "own batches"),
        ({"labels": LABELS}, "labels= beside a list"),
        ({"label_dropout": 0.1}, "no labels"),
        ({"transform": 3}, "transform to be callable"),
    ],
)
def test_options_refused_beside_a_stream(options: dict[str, Any], match: str) -> None:
    model = make()
    with pytest.raises(ss.errors.SDEScoreError, match=match):
        fit([cloud()], model, **options)
    assert model.net.calls == 0


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ([cloud(), (cloud(), LABELS)], "or in none"),
        ([(cloud(), LABELS), cloud()], "a label in every batch"),
        ([(cloud(), {"a": LABELS}), (cloud(), {"b": LABELS})], "of the same parts"),
        ([cloud(), cloud() * torch.nan], "finite x0"),
        ([cloud(), cloud()[:0]], "at least one sample in every batch"),
        (Growing(), "one shape"),
    ],
)
def test_a_later_batch_is_refused(data: Any, match: str) -> None:
    with pytest.raises(ss.errors.SDEScoreError, match=match):
        fit(data)


def test_numbers_whose_sum_is_infinite_are_finite() -> None:
    x = torch.full((4, 2), 3e38)
    assert checks.finite_tensor("x0", x) is x
    for bad in (torch.inf, -torch.inf, torch.nan):
        x[2, 1] = bad
        with pytest.raises(ss.errors.ParameterError, match="finite x0"):
            checks.finite_tensor("x0", x)
