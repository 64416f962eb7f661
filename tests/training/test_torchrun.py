"""A script that torchrun starts several times trains one model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT
from tests.helpers.distributed import script


@pytest.mark.slow
def test_torchrun_starts_the_script_four_times(tmp_path: Path) -> None:
    """The first training begins the group, which stays; four processes have the losses of one."""
    (tmp_path / "train.py").write_text(f"""
import json
import os
from pathlib import Path

import torch

from tests.helpers.distributed import script

losses = script()
Path({str(tmp_path)!r}, os.environ["RANK"]).write_text(json.dumps(losses))
assert torch.distributed.get_world_size() == 4
""")
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=4"]
    done = subprocess.run(
        [sys.executable, *start, str(tmp_path / "train.py")],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    four = [json.loads((tmp_path / str(rank)).read_text()) for rank in range(4)]
    assert all(losses == four[0] for losses in four)
    for losses, one in zip(four[0], script(), strict=True):
        assert losses == pytest.approx(one, rel=1e-5)
