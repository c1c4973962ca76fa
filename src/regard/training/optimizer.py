"""The optimizer: the paper's Adam in one fused kernel, or Muon; its state as named tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from regard.config import TrainingConfig
from regard.errors import RegardError
from regard.models.contract import Module
from regard.training.muon import Muon, hidden_matrices


def build_optimizer(model: Module, training: TrainingConfig) -> torch.optim.Optimizer:
    """Adam, or Muon for hidden matrices and Adam for the rest.

    Weight decay is decoupled (AdamW) and applies to matrices and tables, not to biases and norms.
    """
    hidden = hidden_matrices(model) if training.optimizer == "muon" else {}
    rest = [weight for weight in model.parameters() if weight.requires_grad and weight not in hidden]
    kind = torch.optim.AdamW if training.weight_decay else torch.optim.Adam
    adam = kind(
        [
            {"params": [weight for weight in rest if weight.ndim >= 2], "weight_decay": training.weight_decay},
            {"params": [weight for weight in rest if weight.ndim < 2], "weight_decay": 0.0},
        ],
        lr=0.0,  # set before every update from the schedule
        betas=(training.beta1, training.beta2),
        eps=training.eps,
        fused=True,
    )
    return Muon(hidden, adam, training.weight_decay) if hidden else adam


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The Euclidean norm of all gradients, a scalar on their device; not finite if any number is not."""
    return nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])


def update(optimizer: torch.optim.Optimizer, rate: float, norm: Tensor, clip_norm: float) -> Tensor:
    """Move the weights, gradients clipped to ``clip_norm``; skipped where ``norm`` is not finite.

    Returns 1.0 if skipped, else 0.0, a scalar on the device: the host does not wait.
    """
    skip = 1.0 - norm.isfinite().float()
    # The optimizer divides gradients by grad_scale, and leaves weights and moments alone where found_inf is 1.
    optimizer.grad_scale = (norm / clip_norm).clamp(min=1.0) if clip_norm else None  # type: ignore[attr-defined]
    optimizer.found_inf = skip  # type: ignore[attr-defined]
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    return skip


def sum_gradients(parameters: Iterable[nn.Parameter], also: Tensor) -> Tensor:
    """Add up the gradients of all processes, and the numbers ``also`` [n], in one message; returns those sums [n].

    Each process has divided by the target tokens of the whole update, so that the sum is the gradient of the mean loss.
    """
    parameters = list(parameters)
    gradients = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in parameters]
    together = torch.cat([also, *(gradient.reshape(-1) for gradient in gradients)])
    dist.all_reduce(together)
    start = len(also)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = together[start : start + gradient.numel()].view_as(gradient)
        start += gradient.numel()
    return together[: len(also)]


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: Module) -> dict[str, Tensor]:
    """The moments by name, in the optimizer's own memory.

    Adam's are "exp_avg.NAME", "exp_avg_sq.NAME" and "step.NAME"; Muon's is "momentum.NAME".
    """
    return {
        f"{kind}.{name}": tensor
        for name, parameter in model.named_parameters()
        for kind, tensor in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, model: Module, tensors: Mapping[str, Tensor]) -> None:
    """Restore saved moments; names and shapes must be the model's."""
    optimizer.state.clear()
    names = dict(model.named_parameters())
    for key, tensor in tensors.items():
        kind, _, name = key.partition(".")
        if name not in names or (kind != "step" and tensor.shape != names[name].shape):
            raise RegardError(f"optimizer state '{key}' {list(tensor.shape)} does not belong to this model")
        # A copy: the optimizer writes in place. The fused kernel wants "step" as fp32 on the device.
        optimizer.state[names[name]][kind] = tensor.to(names[name].device).clone()
