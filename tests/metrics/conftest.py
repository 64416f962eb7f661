"""Fixtures of this room."""

from __future__ import annotations

import pytest

from tests.helpers.metrics import DISTANCES


@pytest.fixture(params=sorted(DISTANCES))
def distance(request):
    return DISTANCES[request.param]
