import math

import pytest
import torch
from torch import nn

from regard.config import TrainingConfig
from regard.errors import RegardError
from regard.training.optimizer import build_optimizer, gradient_norm, optimizer_tensors, restore_optimizer, update


def model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, 3))


def backward(net: nn.Module, seed: int) -> None:
    net.zero_grad(set_to_none=True)
    torch.manual_seed(seed)
    (10 * net(torch.randn(6, 5)).square().sum()).backward()


@pytest.mark.parametrize("clip", [0.0, 1.0])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_updates_equal_torchs_unfused_adam(clip: float, decay: float) -> None:
    ours, theirs = model(), model()
    optimizer = build_optimizer(ours, TrainingConfig(weight_decay=decay))
    groups = [
        {"params": [p for p in theirs.parameters() if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in theirs.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    reference = (torch.optim.AdamW if decay else torch.optim.Adam)(groups, betas=(0.9, 0.98), eps=1e-9)
    for step in range(1, 6):
        backward(ours, step)
        backward(theirs, step)
        if clip:
            nn.utils.clip_grad_norm_(theirs.parameters(), clip)
        for group in reference.param_groups:
            group["lr"] = 0.01 * step
        reference.step()
        assert update(optimizer, 0.01 * step, gradient_norm(ours.parameters()), clip).item() == 0.0
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", ["adam", "muon"])
def test_a_gradient_that_is_not_finite_changes_no_bit(kind: str, bad: float) -> None:
    net = model()
    optimizer = build_optimizer(net, TrainingConfig(optimizer=kind, weight_decay=0.1))
    backward(net, 1)
    update(optimizer, 0.01, gradient_norm(net.parameters()), 1.0)
    before = [t.clone() for t in (*net.parameters(), *optimizer_tensors(optimizer, net).values())]
    backward(net, 2)
    next(net.parameters()).grad[0, 0] = bad
    assert update(optimizer, 0.01, gradient_norm(net.parameters()), 1.0).item() == 1.0
    after = [*net.parameters(), *optimizer_tensors(optimizer, net).values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("kind", ["adam", "muon"])
def test_restored_moments_go_on_bit_for_bit(kind: str) -> None:
    training = TrainingConfig(optimizer=kind)
    whole, resumed = model(), model(1)
    first = build_optimizer(whole, training)
    for step in range(3):
        backward(whole, step)
        update(first, 0.01, gradient_norm(whole.parameters()), 0.0)
    saved = {name: tensor.clone() for name, tensor in optimizer_tensors(first, whole).items()}
    resumed.load_state_dict(whole.state_dict())
    second = build_optimizer(resumed, training)
    restore_optimizer(second, resumed, saved)
    for net, optimizer in ((whole, first), (resumed, second)):
        backward(net, 9)
        update(optimizer, 0.01, gradient_norm(net.parameters()), 0.0)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert all(not torch.equal(saved[n], t) for n, t in optimizer_tensors(first, whole).items() if "exp" in n)


def test_foreign_moments_are_refused_by_name() -> None:
    net = model()
    with pytest.raises(RegardError, match=r"exp_avg.0.weight.*does not belong"):
        restore_optimizer(build_optimizer(net, TrainingConfig()), net, {"exp_avg.0.weight": torch.zeros(2, 2)})
