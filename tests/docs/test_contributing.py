"""Each file that CONTRIBUTING shows is found by itself where it is put, and does what it says."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import ROOT

FENCE = re.compile(r"^```python\n# (sdescore/\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LOOK = """
import importlib.util, json, sys
from pathlib import Path

import torch
import sdescore as ss
from sdescore.rooms import members
from tests.helpers.methods import CORRECTORS, PREDICTORS
from tests.helpers.operators import OPERATORS, adjoint_error
from tests.helpers.strategies import REPRESENTATIVES

here = Path.cwd()
assert Path(ss.__file__).is_relative_to(here), ss.__file__
spec = importlib.util.spec_from_file_location("class_tables", here / "docs" / "class_tables.py")
tables = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tables)
tables.STEPS = 8  # orders are measured below
rows = {name: [row for row in make()] for name, (_, make) in tables.OF.items()}
found = {name: [row[0].split("(")[0] for row in table] for name, table in rows.items()}

# The SDE: its rates against the closed form, and a checkpoint.
sde = ss.sde.TrigonometricSDE(T=0.9)
f, g2 = sde.rates(0.3)
torch.manual_seed(0)
model = ss.ScoreModel(ss.nets.AffineNet(2), sde, "epsilon")  # its config alone builds it
ss.save("model.safetensors", model)
loaded = ss.load("model.safetensors")
loaded = getattr(loaded, "model", loaded)
x = torch.randn(5, 2)
same = torch.equal(loaded(x, 0.5), model(x, 0.5)) and type(loaded.net) is ss.nets.AffineNet
# The corrector: the stationary variance of one step on the Gaussian that it is made for.
corrector = ss.correctors.GaussianCorrector(data_std=0.5, theta=1.0)
times = torch.tensor([0.9, 0.3], dtype=torch.float64)
numbers = corrector.tableau(sde, times)
S = (0.5 * sde.marginal(times)[0]) ** 2 + sde.marginal(times)[1] ** 2
after = (numbers.a[:, 0] - numbers.b[:, 0, 0] / S) ** 2 * S + numbers.c[:, 0, 0] ** 2
# The loss: at x0 = 0 the exact noise is x_t/σ, and a model of no noise errs by ‖ε‖.
zero, noise = torch.zeros(4, 2), torch.ones(4, 2)
fresh = ss.ScoreModel(ss.MLP(2), ss.VPSDE(), "epsilon")
loss = ss.losses.huber_loss(fresh, zero, t=0.5, noise=noise, c=1.0)
trained = ss.train(
    model, torch.zeros(64, 2), steps=3, objective=ss.losses.huber_loss, progress=False
)
# The operator: its value, and noiseless data found again from it.
operator = ss.inverse.CumulativeSum((2, 3))
signal = torch.tensor([[[1.0, 2.0, -4.0], [0.5, 0.0, 3.0]]], dtype=torch.float64)
sums = operator(signal)
again = operator.adjoint(operator.solve(sums, 0.0))
ss.inverse.Measurement(sums[0], operator, noise_std=0.1)  # with its own dot test
early = ss.losses.EarlyTimes()
t = early.sample(sde, 1000, torch.Generator().manual_seed(0))
sampler = ss.PredictorCorrector(
    sde, predictor=ss.predictors.WideAncestral(), corrector=corrector, grid=ss.grids.PowerGrid(),
    steps=20,
)
samples = sampler.sample(ss.GaussianScore([0.0], 0.25, sde), shape=(2000, 1), seed=0)
print(json.dumps({
    "tables": found,
    "members": [kind.__name__ for kind in members("sdescore.sde", ss.LinearSDE)],
    "methods": [type(method).__name__ for method in PREDICTORS + CORRECTORS],
    "strategies": [type(sde).__name__ for sde in REPRESENTATIVES.values()],
    "rates": [f.item(), g2.item()],
    "loaded": [repr(loaded.sde), same],
    "order": ss.analysis.order(ss.predictors.WideAncestral(), ss.VPSDE()),
    "grid": ss.grids.PowerGrid(power=2.0).times(sde, 9).tolist(),
    "quadratic": ss.QuadraticGrid().times(sde, 9).tolist(),
    "variance": [S.tolist(), after.tolist()],
    "loss": loss.per_sample.tolist(),
    "trained": trained.step,
    "adjoints": {k: adjoint_error(A) for k, A in OPERATORS.items() if A.linear},
    "sums": [sums.tolist(), (again - signal).abs().max().item()],
    "early": (t < sde.t_min + (sde.T - sde.t_min) / 4).double().mean().item(),
    "std": samples.std().item(),
}))
"""


@pytest.fixture(scope="module")
def shown() -> dict[str, str]:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return dict(FENCE.findall(text))


@pytest.fixture(scope="module")
def seen(shown: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a copy of the package with all shown files says of itself."""
    copy = tmp_path_factory.mktemp("copy")
    made = ("__pycache__", "_build", "examples", "reference", "internals")
    skip = shutil.ignore_patterns(*made, "_static", "locale")
    for folder in ("sdescore", "docs", "tests/helpers"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=skip)
    (copy / "tests" / "__init__.py").touch()
    for path, body in shown.items():
        assert not (copy / path).exists()
        (copy / path).write_text(body, encoding="utf-8")
    (copy / "look.py").write_text(LOOK)
    run = subprocess.run(
        [sys.executable, "look.py"], cwd=copy, env={**os.environ, "PYTHONPATH": str(copy)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_there_is_a_file_for_each_kind_of_part(shown: dict[str, str]) -> None:
    rooms = [Path(path).parent.name for path in shown]
    kinds = "correctors grids inverse losses losses nets predictors sde"
    assert sorted(rooms) == kinds.split()


@pytest.mark.slow
def test_the_tables_checkpoints_and_strategies_find_them(seen: dict[str, Any]) -> None:
    assert "TrigonometricSDE" in seen["members"]
    assert "TrigonometricSDE" in seen["strategies"]
    assert "TrigonometricSDE" in seen["tables"]["sdes"]
    assert {"WideAncestral", "GaussianCorrector"} <= set(seen["methods"])
    assert "WideAncestral" in seen["tables"]["predictors"]
    assert "GaussianCorrector" in seen["tables"]["correctors"]
    assert "CumulativeSum" in seen["tables"]["operators"]
    assert {"CumulativeSum 0", "CumulativeSum 1"} <= set(seen["adjoints"])
    assert seen["loaded"] == ["TrigonometricSDE(T=0.9)", True]


@pytest.mark.slow
def test_they_do_what_they_say(seen: dict[str, Any]) -> None:
    f = -math.pi / 2 * math.tan(math.pi / 2 * 0.3)  # g² = −2f, for α² + σ² = 1
    assert seen["rates"] == pytest.approx([f, -2 * f], rel=1e-9)
    assert seen["order"] == pytest.approx(1.0, abs=0.1)
    assert seen["grid"] == pytest.approx(seen["quadratic"], rel=1e-12)
    assert seen["variance"][1] == pytest.approx(seen["variance"][0], rel=1e-12)
    assert seen["loss"] == pytest.approx(4 * [3**0.5 - 1], rel=1e-6)
    assert seen["trained"] == 3
    assert seen["sums"][0] == [[[1.0, 3.0, -1.0], [0.5, 0.5, 3.5]]]
    assert seen["sums"][1] < 1e-10
    assert max(seen["adjoints"].values()) < 1e-12
    assert abs(seen["early"] - 0.5) < 5 * (0.25 / 1000) ** 0.5  # 6e-7
    # The sampler's own error at 20 steps is 2 %; the spread of 2,000 samples 1.6 %.
    assert abs(seen["std"] / 0.5 - 1) < 0.1


def test_the_files_are_as_ruff_formats_them(shown: dict[str, str], tmp_path: Path) -> None:
    for path, body in shown.items():
        (tmp_path / Path(path).name).write_text(body, encoding="utf-8")
    for command in (["format", "--check"], ["check"]):
        run = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--config", ROOT / "pyproject.toml", tmp_path],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert run.returncode == 0, run.stdout + run.stderr
