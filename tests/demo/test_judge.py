"""The judge of generated digits: what it sees in copies, noise and missing classes."""

from __future__ import annotations

import pytest
import torch

from sdescore import datasets
from sdescore.demo import judge

pytest.importorskip("sklearn")


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
