"""Each call draws the numbers of its own role: calls with one seed share none."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch

import sdescore as ss
from sdescore import inverse
from sdescore.noise.counter import Domain, NormalStream
from sdescore.samplers.edit import edit

VP = ss.VPSDE()
SCORE = ss.GaussianScore([0.5], 0.25, VP)
X = torch.linspace(-1, 1, 3)[:, None]
LEVELS = torch.tensor([[0.0], [100.0], [255.0]]) / 127.5 - 1
TABLE = ss.DiscreteVPSDE.linear(10)
STEPPED = ss.PredictorCorrector(VP, predictor=ss.Ancestral(), steps=6)


def posterior_samples() -> None:
    prior = ss.MixtureScore([1.0], [[0.5]], torch.tensor([0.25]), VP)
    seen = inverse.Measurement(torch.zeros(1), inverse.Matrix(torch.ones(1, 1)), 0.1)
    inverse.TwistedSMC(VP, steps=4).sample(inverse.moments(prior, seen), 16)


CALLS: dict[str, Callable[[], object]] = {
    "a sampler": lambda: STEPPED.sample(SCORE, (3, 1)),
    "an adaptive sampler": lambda: ss.AdaptiveSampler(VP).sample(SCORE, (3, 1)),
    "a run from init": lambda: STEPPED.sample(SCORE, init=X),
    "an edit": lambda: edit(STEPPED, SCORE, X, strength=0.5),
    "simulate": lambda: ss.simulate(VP, X, steps=4),
    "the prior": lambda: VP.prior_sample((3, 1)),
    "clean data": lambda: SCORE.sample(3),
    "chains": lambda: ss.langevin.chains(SCORE, X, 0.1, 3, t=0.5),
    "a trace": lambda: ss.ProbabilityFlow(VP, method="euler", steps=4).log_likelihood(
        SCORE, X, divergence="hutchinson"
    ),
    "an SDE's bound": lambda: ss.samplers.sde_bound(SCORE, X, times=4),
    "a table's bound": lambda: ss.samplers.variational_bound(
        ss.GaussianScore([0.5], 0.25, TABLE), LEVELS, levels=256
    ),
    "dequantization": lambda: ss.samplers.dequantize(LEVELS, levels=256),
    "particles": posterior_samples,
}


def domains(call: Callable[[], object]) -> set[int]:
    """The domains of the streams that a call opens with seed 0."""
    found, init = set(), NormalStream.__init__

    def noted(self, seed, *arguments, domain=Domain.SAMPLER, **options) -> None:
        assert seed == 0
        found.add(int(domain))
        init(self, seed, *arguments, domain=domain, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NormalStream, "__init__", noted)
        call()
    return found


def test_no_two_calls_share_a_role() -> None:
    """But for the start of runs from noise, and the steps of particles, which are one sampler's."""
    found = {name: domains(call) for name, call in CALLS.items()}
    plain = {name for name, roles in found.items() if Domain.SAMPLER in roles}
    assert plain == {"a sampler", "an adaptive sampler", "particles"}
    assert found.pop("a sampler") == {Domain.SAMPLER}
    own = {name: roles - {Domain.SAMPLER} for name, roles in found.items()}
    assert all(own.values()), own
    for (one, a), (other, b) in itertools.combinations(own.items(), 2):
        assert not a & b, (one, other)


def test_an_sdes_bound_draws_its_times_apart_from_its_noise() -> None:
    assert len(domains(CALLS["an SDE's bound"])) == 2
