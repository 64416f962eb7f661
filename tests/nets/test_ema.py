"""The exponential moving average of the weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from sdescore.errors import CheckpointError, IncompatibleError, ParameterError
from sdescore.nets import EMA


def toy() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def set_all(net: nn.Module, value: float) -> None:
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(value)


def test_ema_closed_form() -> None:
    # Weights 1, 2, …, n from 0: the average is Σ_k (1-d) d^(n-k) k = n - d (1 - d^n) / (1 - d).
    net, decay, n = toy(), 0.9, 25
    set_all(net, 0.0)
    ema = EMA(net, decay=decay, warmup=False)
    for k in range(1, n + 1):
        set_all(net, float(k))
        ema.update(net)
    assert ema.num_updates == n
    expected = n - decay * (1 - decay**n) / (1 - decay)
    for name, _ in net.named_parameters():
        assert ema.shadow[name].flatten().tolist() == pytest.approx(
            [expected] * ema.shadow[name].numel(), rel=1e-6
        )


def test_ema_warmup_closed_form() -> None:
    # From 0 with weights held at 1, what is missing is the product of the decays. While the
    # warm-up binds, Π_{k≤n} (1+k)/(10+k) = (n+1)! 10! / (n+10)!; with d = 0.5 it binds up to
    # k = 8, where both are equal, and every later update halves it.
    net = toy()
    set_all(net, 0.0)
    ema = EMA(net, decay=0.5)
    set_all(net, 1.0)
    for n in range(1, 13):
        ema.update(net)
        bound = min(n, 8)
        missing = math.factorial(bound + 1) * math.factorial(10) / math.factorial(bound + 10)
        missing *= 0.5 ** (n - bound)
        assert 1.0 - ema.shadow["0.weight"][0, 0].item() == pytest.approx(
            missing, rel=1e-4, abs=2e-7
        )


@pytest.mark.parametrize("sigma_rel", [0.28, 0.1, 0.03])
def test_power_function_average_has_its_profile(sigma_rel: float) -> None:
    """Weights are those of ∫ s^γ over the n-th parts of [0, 1]; their deviation is σ_rel."""
    net, n = toy(), 400
    set_all(net, 7.0)  # of which nothing is kept
    ema = EMA(net, sigma_rel=sigma_rel)
    moments = []
    for power in (0, 1, 2):  # of k/n under the weights of the updates k
        ema = EMA(net, sigma_rel=sigma_rel)
        for k in range(1, n + 1):
            set_all(net, ((k - 0.5) / n) ** power)
            ema.update(net)
        moments.append(ema.shadow["0.weight"][0, 0].item())
    assert moments[0] == pytest.approx(1.0, abs=1e-5)
    deviation = math.sqrt(moments[2] - moments[1] ** 2)
    assert deviation == pytest.approx(sigma_rel, rel=5e-3)


def test_power_function_average_by_its_closed_form() -> None:
    # γ = 1 has the variance 2/(9·4): update k of 3 weighs (k² − (k−1)²)/9, so 1/9, 3/9, 5/9.
    net = toy()
    ema = EMA(net, sigma_rel=math.sqrt(1 / 18))
    for value in (1.0, 10.0, 100.0):
        set_all(net, value)
        ema.update(net)
    expected = (1 + 30 + 500) / 9
    assert ema.shadow["0.weight"][0, 0].item() == pytest.approx(expected, rel=1e-6)
    for wrong in (0.0, 0.3, 1e-300):
        with pytest.raises(ParameterError, match="sigma_rel"):
            EMA(net, sigma_rel=wrong)


def test_ema_copies_buffers_and_leaves_the_net_alone() -> None:
    torch.manual_seed(0)
    net = toy()
    ema = EMA(net)
    net(5.0 + torch.randn(16, 2))  # moves the running mean and the counter of BatchNorm
    before = {k: v.clone() for k, v in net.state_dict().items()}
    set_all(net, 3.0)
    ema.update(net)
    assert torch.equal(ema.shadow["1.running_mean"], before["1.running_mean"])
    assert ema.shadow["1.num_batches_tracked"].item() == 1
    assert bool((net[0].weight == 3.0).all())
    target = toy()
    ema.copy_to(target)
    for name, value in target.state_dict().items():
        assert torch.equal(value, ema.shadow[name])
    assert target[0].weight.requires_grad and not ema.shadow["0.weight"].requires_grad
    with torch.no_grad():
        target[0].weight.add_(1.0)
    assert not torch.equal(target[0].weight, ema.shadow["0.weight"])


def test_ema_keeps_low_precision_weights_in_float32() -> None:
    # A step of 1e-3 on a bfloat16 average of 1 rounds away; in float32 it moves by exactly 1e-3.
    net = toy().to(torch.bfloat16)
    set_all(net, 1.0)
    ema = EMA(net, decay=0.999, warmup=False)
    set_all(net, 2.0)
    ema.update(net)
    assert ema.shadow["0.weight"].dtype == torch.float32
    assert ema.shadow["0.weight"][0, 0].item() == pytest.approx(1.001, abs=1e-6)
    ema.copy_to(net)
    assert net[0].weight.dtype == torch.bfloat16


def test_ema_resumes_bit_for_bit() -> None:
    torch.manual_seed(0)
    net = toy()
    ema = EMA(net)
    weights = [{k: torch.randn_like(p) for k, p in net.named_parameters()} for _ in range(8)]
    for i, values in enumerate(weights):
        net.load_state_dict({**net.state_dict(), **values})
        ema.update(net)
        if i == 3:
            saved = ema.state_dict()
    assert all(isinstance(value, Tensor) for value in saved.values())
    resumed = EMA(toy())
    resumed.load_state_dict(saved)
    assert resumed.num_updates == 4
    for values in weights[4:]:
        net.load_state_dict({**net.state_dict(), **values})
        resumed.update(net)
    assert all(torch.equal(value, ema.shadow[name]) for name, value in resumed.shadow.items())


def test_ema_refuses_what_does_not_fit() -> None:
    ema, other = EMA(toy()), nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4))
    for method in (ema.update, ema.copy_to):
        with pytest.raises(IncompatibleError, match=r"expected \(3, 2\), got \(4, 2\)"):
            method(other)
        with pytest.raises(IncompatibleError, match="got nothing"):
            method(nn.Linear(2, 3))
    assert ema.num_updates == 0
    good = ema.state_dict()
    key = "shadow.0.weight"
    bad_states = [
        {},
        {k: v for k, v in good.items() if k != key},
        {k: v for k, v in good.items() if k != "num_updates"},
        {**good, key: torch.zeros(9)},
        {**good, "shadow.more": torch.zeros(9)},
        {**good, "num_updates": torch.tensor(-1)},
        {**good, "num_updates": torch.tensor(1.5)},
        {**good, "num_updates": torch.tensor([1, 2])},
    ]
    for bad in bad_states:
        with pytest.raises(CheckpointError, match="expected"):
            ema.load_state_dict(bad)
    for decay in (1.0, -0.1, math.nan):
        with pytest.raises(ParameterError, match="decay"):
            EMA(toy(), decay=decay)


def test_an_updater_finds_its_tensors_once_and_reads_them_each_time() -> None:
    net = toy()
    by_update, by_updater = EMA(net, 0.5, warmup=False), EMA(net, 0.5, warmup=False)
    update = by_updater.updater(net)
    for k in range(1, 4):
        set_all(net, float(k))
        if k == 2:  # as Module.to does it, and as some networks do with their buffers
            net[0].weight.data = torch.full((3, 2), -7.0)
            net[1].running_mean = torch.full((3,), 5.0)
        by_update.update(net)
        update()
    assert by_updater.num_updates == 3
    for name, value in by_update.shadow.items():
        assert torch.equal(by_updater.shadow[name], value)
    # The scale of the normalisation starts at 1, so its average is 1/8 + 1/8 + 2/4 + 3/2.
    assert torch.equal(by_updater.shadow["1.running_mean"], torch.full((3,), 5.0))
    biases = [by_updater.shadow["1.weight"], torch.full((3,), 1 / 8 + 1 / 8 + 2 / 4 + 3 / 2)]
    torch.testing.assert_close(*biases)
    with pytest.raises(IncompatibleError, match="new EMA"):
        by_updater.updater(nn.Linear(2, 3))


def test_a_tensor_that_cannot_be_written_is_refused() -> None:
    net = toy()
    net.register_buffer("wide", torch.ones(1).expand(3))
    with pytest.raises(IncompatibleError, match="got 'wide' that expand"):
        EMA(net)


def test_what_is_no_network_has_no_average() -> None:
    with pytest.raises(IncompatibleError, match="net to be a Module"):
        EMA("network")  # type: ignore[arg-type]
