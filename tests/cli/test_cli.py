"""The command line does what the README says: demo, sample, Ctrl-C, clear refusals."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch

import sdescore as ss
from sdescore import datasets
from sdescore.__main__ import main
from sdescore.demo import judge

pytest.importorskip("sklearn")

TINY = ["--train-steps", "4", "--samples", "20", "--steps", "3"]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a demo of few steps leaves, judged by 300 of the digits: distances take most of it."""
    folder = tmp_path_factory.mktemp("demo") / "out"
    images, labels = datasets.labelled_digits()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge, "labelled_digits", lambda: (images[:300], labels[:300]))
        assert main(["demo", *TINY, "--out", str(folder), "--seed", "5"]) == 0
    return folder


@pytest.mark.slow
def test_demo_leaves_everything_it_promises(out: Path) -> None:
    names = {p.name for p in out.iterdir()}
    promised = {"results.json", "score_field.png"}
    for model in ("ve", "vp"):
        promised |= {f"{model}.safetensors", f"{model}.png", f"{model}_trajectory.png"}
    assert promised <= names


@pytest.mark.slow
def test_a_conditional_demo_draws_one_class_a_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of few steps: the model knows ten classes, and each weight has its agreement."""
    images, labels = datasets.labelled_digits()
    monkeypatch.setattr(judge, "labelled_digits", lambda: (images[:300], labels[:300]))
    argv = ["demo", "--conditional", "--sde", "vp", *TINY, "--out", str(tmp_path)]
    assert main(argv) == 0
    results = json.loads((tmp_path / "conditional.json").read_text())["conditional"]
    for omega in (0, 1, 2, 4):
        row = results[f"omega = {omega}"]
        assert 0 <= row["agreement"] <= 1 and sum(row["class_counts"]) == results["samples"]
    assert "the classifier agrees with" in capsys.readouterr().out
    assert (tmp_path / "conditional.png").stat().st_size > 10_000
    model = ss.load(tmp_path / "vp_conditional.safetensors")
    assert model.net.config["classes"] == 10 and not model.label_required


@pytest.fixture(scope="module")
def judged() -> judge.Judge:
    return judge.Judge(150, seed=0)


@pytest.mark.slow
def test_the_judge_agrees_with_labels_by_its_classifier(judged: judge.Judge) -> None:
    """Real digits with their own labels, and with the next class's."""
    images, labels = datasets.labelled_digits()
    assert judged.agreement(images, labels) > 0.9
    assert judged.agreement(images, (labels + 1) % 10) < 0.1


@pytest.mark.slow
def test_results_name_every_pair_and_its_evaluations(out: Path) -> None:
    results = json.loads((out / "results.json").read_text())
    pairs = {
        f"{p}{c}"
        for p in ("euler-maruyama", "reverse-diffusion", "ancestral", "ddim")
        for c in ("", " + langevin")
    }
    pairs |= {"default", "recommended, 3 evaluations"}
    assert set(results["models"]["vp"]["samplers"]) == pairs
    assert set(results["models"]["ve"]["samplers"]) == {*pairs, "annealed Langevin"}
    for model in results["models"].values():
        for name, row in model["samplers"].items():
            # Three evaluations; a corrector acts at the two times after the first.
            expected = 301 if name.startswith("annealed") else 5 if "langevin" in name else 3
            assert row["evaluations"] == expected
            assert sum(row["class_counts"]) == 20
            assert row["sliced_w2"]["relative"] > 0
    assert results["options"]["seed"] == 5
    assert results["versions"]["torch"] == torch.__version__
    assert 0 <= results["reference"]["classifier_on_held_out_digits"]["accuracy"] <= 1


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


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
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


@pytest.mark.slow
def test_the_judge_sees_copies_noise_and_missing_classes(judged: judge.Judge) -> None:
    assert judged.report["classifier_on_held_out_digits"]["accuracy"] > 0.95
    images, labels = datasets.labelled_digits()
    copies = judged(images[:200])
    assert copies["nearest_real"] == pytest.approx(0, abs=1e-3)
    assert copies["sliced_w2"]["relative"] < 2.5  # the file is not in random order
    threes = judged(images[labels == 3])
    assert threes["classes"] <= 4 and threes["class_counts"][3] > 170
    assert threes["sliced_w2"]["relative"] > 3  # the bar of a good sampler
    noise = judged(torch.randn(200, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert noise["nearest_real"] > 2 and noise["sliced_w2"]["relative"] > 3


def test_a_demo_without_scikit_learn_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("sklearn", "sklearn.datasets", "sklearn.neural_network"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["demo", "--out", str(tmp_path / "out")]) == 2
    assert "sdescore[demo]" in capsys.readouterr().err
