"""Digits by their class, guided by several weights, one class a row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sdescore.demo.judge import Judge
from sdescore.guidance.classifier_free import classifier_free
from sdescore.plotting import plot_rows
from sdescore.samplers.predictor_corrector.sampler import PredictorCorrector
from sdescore.score.model import ScoreModel

__all__ = ["one_class_a_row"]

OMEGAS = (0.0, 1.0, 2.0, 4.0)  # no condition, the condition alone, and guided
EACH, SHOWN = 40, 16  # samples of a class


def one_class_a_row(
    model: ScoreModel, sampler: PredictorCorrector, judge: Judge, seed: int, out: Path
) -> dict[str, Any]:
    """Figures of ``EACH`` samples of a class for each ω; the picture is that of the last but one.

    - agreement: the share of samples that the classifier puts in the class that was asked for
    - sliced W2 to the real digits, relative to that between real digits
    """
    labels = torch.arange(10, device="cpu").repeat_interleave(EACH)
    report: dict[str, Any] = {"evaluations": sampler.evaluations, "samples": len(labels)}
    for omega in OMEGAS:
        guided = classifier_free(model, model, omega)
        x = sampler.sample(guided, (len(labels), 1, 8, 8), label=labels, seed=seed).cpu()
        agreement, verdict = judge.agreement(x, labels), judge(x)
        report[f"omega = {omega:g}"] = {"agreement": agreement, **verdict}
        print(
            f"  omega = {omega:g}: the classifier agrees with {agreement:.1%} of the labels, "
            f"sliced W2 {verdict['sliced_w2']['relative']:.2f} × real",
            flush=True,
        )
        if omega == OMEGAS[-2]:
            rows = {str(digit): x[labels == digit][:SHOWN] for digit in range(10)}
            title = f"One class a row, guided by ω = {omega:g}"
            plot_rows(rows, columns=SHOWN, title=title).savefig(out / "conditional.png", dpi=110)
    real = judge.report["classifier_on_held_out_digits"]["accuracy"]
    print(f"  real digits that it was not fitted on: {real:.1%}", flush=True)
    return report
