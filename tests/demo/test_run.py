"""The demonstration leaves what it promises."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import pytest
import torch

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
def test_its_checkpoints_know_the_shape_of_a_sample(out: Path) -> None:
    for model in ("ve", "vp"):
        target = out / f"{model}.npy"
        argv = ["sample", str(out / f"{model}.safetensors"), "-n", "2", "--steps", "2"]
        assert main([*argv, "--out", str(target)]) == 0
        assert numpy.load(target).shape == (2, 1, 8, 8)
