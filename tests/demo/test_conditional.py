"""A conditional demo: one class a row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import sdescore as ss
from sdescore import datasets
from sdescore.__main__ import main
from sdescore.demo import judge

pytest.importorskip("sklearn")

TINY = ["--train-steps", "4", "--samples", "20", "--steps", "3"]


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
