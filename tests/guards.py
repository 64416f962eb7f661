"""What must never break, by id: a test says which of these it guards.

``@pytest.mark.guards("M01")`` on a test names the mistake (M), the numerical trap (T) or the bar
(B) that it would catch. :mod:`tests.test_guards` looks that every id has a test.
"""

from __future__ import annotations

GUARDS = {
    # Mistakes of other libraries.
    "M01": "1 − exp(−B) for the VP variance loses every digit as t → 0",
    "M02": "a level index from (t (N − 1)).long() is off on any grid but the stock one",
    "M03": "dt = 1/N where the grid's spacing is another; a step knows both its ends",
    "M04": "Langevin's step from batch-mean norms; a zero score gives NaN",
    "M05": "sub-VP, or a user's SDE, rejected by a ladder of isinstance",
    "M06": "a last denoise with β₀/N; it is Tweedie's mean at the last time",
    "M07": "inpainting whose last denoise is computed from the noised state",
    "M08": "two-stage SDE steps with independent noises; the path is one Brownian path",
    "M09": "multistep rows whose σ is taken at the wrong end",
    "M10": "a VE prior that forgets the data's own variance when σ_max is small",
    "M11": "an ODE solver trusted to stay in the range of times",
    "M12": "reverse diffusion with fewer than 20 steps on VP: β_i > 1 and NaN",
    "M13": "noise drawn that a deterministic step then ignores",
    "M14": "golden numbers that freeze a bug; a test has an oracle",
    # Traps of arithmetic.
    "T01": "σ of VP and sub-VP by expm1",
    "T02": "transition variances and ancestral noise without cancellation",
    "T03": "a grid in float64 with exact ends; a sampler's state in at least float32",
    "T04": "the score grows like 1/σ at the end: stop at t_min, then one denoise",
    "T05": "VE: σ(0) = σ_min in the marginal, 0 from a point",
    "T06": "a DDPM's index i is not t = i/(N − 1)",
    "T07": "log-SNR from logs, never log(α²/(1 − α²))",
    "T08": "ancestral σ_up = σ_s √((1 − r)(1 + r))",
    "T09": "the posterior variance at time 0 is 0",
    "T10": "the cosine schedule near its singular end",
    "T11": "ε → x₀ amplifies errors: convert in float32 or better",
    "T12": "Hutchinson's variance, probes averaged, standard error reported",
    "T13": "bits per dimension: levels and range are arguments",
    "T14": "torchdiffeq: its step couples a batch, a NaN hangs it under python -O",
    "T15": "torch.randn is no prefix-stable stream",
    "T16": "the noises of a two-stage step add up to the exact kernel's",
    "T17": "Langevin's norms: a sample does not depend on its companions",
    # Bars.
    "B01": "α, σ against the moment equations",
    "B02": "the semigroup of transitions",
    "B03": "the continuity equation on Gaussians and mixtures",
    "B04": "the order of every predictor",
    "B05": "strong order on a shared Brownian path",
    "B06": "Langevin's exact stationary variance",
    "B07": "log-likelihood of a 2-D mixture",
    "B08": "encode, then decode",
    "B09": "conversions between predictions",
    "B10": "batch invariance: chunks change no bit with an elementwise score",
    "B11": "a fixed-step sampler compiles to one graph",
    "B12": "kill −9 at any point of training: the resume is exact",
    "B13": "no damaged checkpoint is loaded",
    "B14": "no malicious checkpoint executes anything",
    "B15": "bad input is refused before the first network call; batch 0 returns empty",
    # The caller's world and what is shared.
    "W01": "default dtype, default device, autocast, inference mode and threads change no number",
    "W02": "calls that are meant to be chained draw independent noise",
    "W03": "what training accepts can be saved, and a save that fails leaves the result",
    "W04": "several threads may sample one network",
    "W05": "a save follows no planted link, and the last of several writers wins, whole",
    "W06": "memory does not grow with copies that nobody asked for",
    "W07": "a resumed run is the run: data and schedule are part of it",
    "W08": "no call runs on a state that nobody trained",
}
