"""The command line does what the README says: demo, sample, Ctrl-C, clear refusals."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch

import sdescore as ss
from sdescore.__main__ import main
from sdescore.demo.recipes import digit_model

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints as a demo leaves them, of networks that nobody trained."""
    folder = tmp_path_factory.mktemp("main")
    for name in ("ve", "vp"):
        model = digit_model(name)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
        ss.save(folder / f"{name}.safetensors", model, info={"event_shape": [1, 8, 8]})
    return folder


@pytest.mark.slow
def test_sample_reloads_and_draws_what_the_library_draws(out: Path) -> None:
    target = out / "drawn.npy"
    argv = ["sample", str(out / "vp.safetensors"), "--n", "6", "--seed", "3", "--steps", "4"]
    assert main([*argv, "--predictor", "ddim", "--corrector", "none", "--out", str(target)]) == 0
    model = ss.load(out / "vp.safetensors")
    sampler = ss.PredictorCorrector(model.sde, predictor=ss.DDIM(), steps=4)
    expected = sampler.sample(model, (6, 1, 8, 8), seed=3)
    assert numpy.array_equal(numpy.load(target), expected.numpy())


@pytest.mark.slow
def test_sample_writes_a_picture_beside_the_checkpoint(out: Path) -> None:
    assert main(["sample", str(out / "ve.safetensors"), "-n", "4", "--steps", "2"]) == 0
    assert (out / "ve.samples.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_refusals_are_one_line_and_status_2(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sample", str(tmp_path / "missing.safetensors")]) == 2
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes((out / "vp.safetensors").read_bytes()[:-1])
    assert main(["sample", str(damaged)]) == 2
    assert "CheckpointError" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main(["demo", "--steps", "0"])
    assert stop.value.code == 2


@pytest.mark.parametrize(
    "event_shape", [None, "2", [], [0], [-1], [2.0], [True], [[2]], {"a": 1}, [10**6, 10**6]]
)
def test_a_shape_in_a_file_is_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], event_shape: object
) -> None:
    path = tmp_path / "m.safetensors"
    ss.save(
        path,
        ss.ScoreModel(ss.MLP(2, hidden=4), ss.VPSDE(), prediction="epsilon"),
        info={"event_shape": event_shape},
    )
    assert main(["sample", str(path), "-n", "4", "--steps", "2"]) == 2
    assert "expected event_shape in the notes" in capsys.readouterr().err
    out = str(tmp_path / "x.npy")
    assert main(["sample", str(path), "-n", "4", "--steps", "2", "--shape", "2", "--out", out]) == 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_leaves_a_loadable_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "sdescore", "demo", "--out", str(folder), "--sde", "vp"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    stderr = process.stderr
    assert stderr is not None
    seen = ""
    while "loss" not in seen and (char := stderr.read(1)):  # the bar of the training loop
        seen += char
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate()
    assert process.returncode == 130
    assert "Interrupted" in rest
    model = ss.load(folder / "vp.safetensors")
    assert isinstance(model.sde, ss.DiscreteVPSDE)


def test_a_demo_without_scikit_learn_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("sklearn", "sklearn.datasets", "sklearn.neural_network"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["demo", "--out", str(tmp_path / "out")]) == 2
    assert "sdescore[demo]" in capsys.readouterr().err
