"""Fixtures of this room."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

import sdescore as ss
from tests.helpers.accuracy import RESULTS, SAVED
from tests.helpers.trained import VARIANCE, ExactNet, normal


@pytest.fixture(scope="module")
def trained(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("trained")


@pytest.fixture(scope="module")
def models(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("trained_models")


@pytest.fixture(scope="module")
def shown(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("trained_report")


@pytest.fixture
def subject(models: ModuleType) -> Any:
    model = ss.ScoreModel(ExactNet(), ss.DiscreteVPSDE.linear(), "epsilon", "log_snr")
    data = VARIANCE**0.5 * normal(1600, 1, 2, 2, seed=5)
    seen, held = data[:1200], data[1200:]
    judge = models.Judge(lambda x: x, seen, held, 400)
    return models.Subject("exact", model, "none", seen, held, judge, 400)


@pytest.fixture(scope="module")
def accuracy(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("accuracy")


@pytest.fixture(scope="module")
def targets(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("targets")


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return json.loads((RESULTS / f"{SAVED[0]}.json").read_text())
