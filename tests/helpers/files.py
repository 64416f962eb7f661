"""Models and files that the tests of the checkpoints' files share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import sdescore as ss
from tests.helpers import ROOT

posix = pytest.mark.skipif(os.name != "posix", reason="links, permissions and locks of POSIX")


def small(seed: int = 0) -> ss.ScoreModel:
    torch.manual_seed(seed)
    net = ss.MLP(2, hidden=8, depth=1, embedding_dim=4)
    nn.init.normal_(net.last.weight)
    return ss.ScoreModel(net, ss.VPSDE(), prediction="epsilon")


def is_model(path: Path, *seeds: int) -> bool:
    weight = ss.load(path).net.last.weight
    return any(torch.equal(weight, small(seed).net.last.weight) for seed in seeds)


def python(code: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout
