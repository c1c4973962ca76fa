import pytest
import torch
from torch import nn

from regard.config import TrainingConfig
from regard.models import registry
from regard.nn.multihead import Attention
from regard.training.muon import Muon, hidden_matrices, orthogonal
from regard.training.optimizer import build_optimizer, gradient_norm, optimizer_tensors, update

MUON = TrainingConfig(optimizer="muon", weight_decay=0.1)


def backward(net: nn.Module, seed: int) -> None:
    net.zero_grad(set_to_none=True)
    torch.manual_seed(seed)
    (10 * net(torch.randn(64, 48)).square().sum()).backward()


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(48, 32), nn.LayerNorm(32), nn.Linear(32, 48), nn.Tanh(), nn.Linear(48, 48))


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_updates_are_those_of_torchs_muon(clip: float, monkeypatch: pytest.MonkeyPatch) -> None:
    # Theirs iterates in bf16; kept from rounding, it differs by the order of additions alone.
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    ours, theirs = net(), net()
    optimizer = build_optimizer(ours, MUON)
    matrices = [p for p in theirs.parameters() if p.ndim == 2]
    muon = torch.optim.Muon(matrices, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.Adam([p for p in theirs.parameters() if p.ndim < 2], betas=(0.9, 0.98), eps=1e-9)
    for step in range(1, 6):
        backward(ours, step)
        backward(theirs, step)
        if clip:
            nn.utils.clip_grad_norm_(theirs.parameters(), clip)
        for reference in (muon, adam):
            reference.param_groups[0]["lr"] = 0.01 * step
            reference.step()
        assert update(optimizer, 0.01 * step, gradient_norm(ours.parameters()), clip).item() == 0.0
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(128, 128), (128, 256), (32, 512)])
def test_singular_values_come_near_to_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    # Singular values from 1 down to 1/100: what a gradient looks like.
    left, _ = torch.linalg.qr(torch.randn(shape[0], shape[0]))
    right, _ = torch.linalg.qr(torch.randn(shape[1], shape[1]))
    wanted = left @ right[: shape[0]]
    matrix = left * torch.logspace(0, -2, shape[0]) @ right[: shape[0]]
    found = orthogonal(torch.stack([matrix, 1e3 * matrix, 1e-3 * matrix, torch.zeros(shape)]))
    # The paper's constants leave singular values between about 0.7 and 1.2 where they began above 0.01 of the norm.
    values = torch.linalg.svdvals(found[0])
    assert values.min() > 0.3 and values.max() < 1.25
    assert torch.linalg.vector_norm(found[0] - wanted) < 0.4 * torch.linalg.vector_norm(wanted)
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found[2], found[0], rtol=1e-3, atol=1e-3)
    assert not found[3].any()


@pytest.mark.parametrize("share", ["all", "none"])
def test_tables_and_the_output_layer_are_adams(share: str) -> None:
    options = registry.options_from({"preset": "tiny", "share": share})
    model = options.build(300, 300)
    names = {name for name, p in model.named_parameters() if p in hidden_matrices(model)}
    assert sum(map(len, hidden_matrices(model).values())) == 4 * (4 + 2) + 4 * (8 + 2)
    assert all(name.startswith(("encoder.layers.", "decoder.layers.")) for name in names)
    optimizer = build_optimizer(model, MUON)
    assert isinstance(optimizer, Muon)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    update(optimizer, 0.01, gradient_norm(model.parameters()), 0.0)
    kinds: dict[str, set[str]] = {}
    for key in optimizer_tensors(optimizer, model):
        kind, _, name = key.partition(".")
        kinds.setdefault(name, set()).add(kind)
    assert kinds == {
        name: {"momentum"} if name in names else {"exp_avg", "exp_avg_sq", "step"}
        for name, _ in model.named_parameters()
    }
    optimizer.zero_grad(set_to_none=True)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_queries_keys_and_values_move_one_by_one() -> None:
    torch.manual_seed(0)
    attention = Attention(heads=4).build(32)
    optimizer = build_optimizer(attention, TrainingConfig(optimizer="muon"))
    weight = attention.joined()[0].weight
    before = weight.detach().clone()
    for parameter in attention.parameters():
        parameter.grad = torch.randn_like(parameter)
    weight.grad[:32] *= 1e-3  # queries with small gradients move as far as values
    update(optimizer, 0.01, gradient_norm(attention.parameters()), 0.0)
    for old, new in zip(before.split(32), attention.matrices(), strict=True):
        # A root mean square of 0.2 rates, as Adam's steps: 0.2 · √32 · rate of singular values that are about 0.85.
        assert 0.7 < (new - old).square().mean().sqrt() / (0.2 * 0.01) < 1.1
