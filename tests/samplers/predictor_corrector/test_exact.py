"""The exact effect of many rows, taken block by block and composed in pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import sdescore as ss
from sdescore.samplers.predictor_corrector import exact
from sdescore.samplers.predictor_corrector.exact import AffineRows, Spectrum
from tests.helpers.affine import Modes, output_moments

PARTS = {
    "one stage": {"predictor": ss.ReverseDiffusion(), "corrector": ss.Langevin(snr=0.1)},
    "multistep, correctors between": {
        "predictor": ss.ExponentialAdams(eta=0.5, points=2, corrector_points=3),
        "corrector": ss.Langevin(snr=0.1, steps=2),
    },
    "stages, churn, correctors between": {
        "predictor": ss.Heun(s_churn=3.0),
        "corrector": ss.Langevin(snr=0.1),
        "corrector_first": True,
    },
}


@pytest.mark.parametrize("numbers", [1, 2**17], ids=["blocks of 8", "one block"])
@pytest.mark.parametrize("steps", [2, 9, 30])
@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_blocks_of_rows_are_the_chain(
    monkeypatch: pytest.MonkeyPatch, parts: dict[str, object], steps: int, numbers: int
) -> None:
    """Mean and variance against the coefficients of each draw."""
    monkeypatch.setattr(exact, "BLOCK", numbers)
    sde, data = ss.VPSDE(), Modes.of((0.5, 0.0), (-1.0, 0.04), (2.0, 1.0))
    sampler = ss.PredictorCorrector(sde, steps=steps, **parts)
    spectrum = Spectrum(torch.from_numpy(data.variance), torch.from_numpy(data.mean))
    chain = AffineRows(sampler.moves()).on(sde, spectrum)
    mean, variance = (v.numpy() for v in spectrum.marginal(sde, sampler.times[0]))
    expected = output_moments(sampler, data)
    offset, transfer = chain.offset.numpy(), chain.transfer.numpy()
    np.testing.assert_allclose(transfer * mean + offset, expected[0], rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(
        transfer**2 * variance + chain.variance.numpy(), expected[1], rtol=1e-8, atol=1e-10
    )
