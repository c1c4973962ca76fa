"""Muon: orthogonal steps for the matrices of linear layers, Adam for everything else.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024). The gradient of a linear layer has a
few large singular values and many small ones; Muon makes them about equal, so that rare directions are learnt as fast
as common ones. The length of a step is that of Liu et al., "Muon is Scalable for LLM Training" (arXiv:2502.16982,
section 2.2): about Adam's, so that one learning rate serves both.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from regard.models.contract import Module
from regard.nn.multihead import MultiHeadAttention

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic a·x + b·x³ + c·x⁵: steep at 0, near 1 elsewhere
ITERATIONS = 5
_ADAMS_LENGTH = 0.2  # root mean square of one of Adam's steps, in learning rates


class Muon(torch.optim.Optimizer):
    """Muon for ``matrices``, ``adam`` for its own parameters.

    ``matrices`` maps each weight to the rows of the matrices stacked in it (as query, key and value); each gets a step
    of its own. As in PyTorch's fused Adam, gradients are divided by ``grad_scale`` if it is set, and nothing moves when
    ``found_inf`` is 1; both are scalars on the device, so that the host never waits.
    """

    def __init__(
        self, matrices: Mapping[nn.Parameter, list[int]], adam: torch.optim.Optimizer, weight_decay: float
    ) -> None:
        super().__init__([{"params": list(matrices), "weight_decay": weight_decay}], {"lr": 0.0})
        self.rows = matrices
        self.adam = adam
        # Both share groups and state, so that rates are set, and moments saved and cleared, in one place.
        self.param_groups += adam.param_groups
        adam.state = self.state
        self.grad_scale: Tensor | None = None
        self.found_inf: Tensor

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move all parameters."""
        self.adam.grad_scale, self.adam.found_inf = self.grad_scale, self.found_inf  # type: ignore[attr-defined]
        self.adam.step()
        rate, decay = self.param_groups[0]["lr"], self.param_groups[0]["weight_decay"]
        moves = 1.0 - self.found_inf
        together: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}  # matrices of one shape share a batched product
        for weight, rows in self.rows.items():
            if weight.grad is not None:
                if decay:
                    weight.mul_(1.0 - moves * (rate * decay))
                direction = self._smoothed(weight)
                for pair in zip(torch.split(weight, rows), torch.split(direction, rows), strict=True):
                    matrix, towards = map(_wide, pair)
                    together.setdefault(matrix.shape, []).append((matrix, towards))
        for shape, pairs in together.items():
            length = moves * (rate * _ADAMS_LENGTH * max(shape) ** 0.5)
            steps = length * orthogonal(torch.stack([towards for _, towards in pairs]))
            for (matrix, _), step in zip(pairs, steps, strict=True):
                matrix.sub_(step)

    def _smoothed(self, weight: nn.Parameter) -> Tensor:
        """Nesterov's momentum of the gradient; a gradient that is not finite leaves the mean unchanged."""
        assert weight.grad is not None
        gradient = weight.grad if self.grad_scale is None else weight.grad / self.grad_scale
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        mean: Tensor = state["momentum"]
        gradient = torch.where(self.found_inf.bool(), mean, gradient)  # NaN times a weight of 0 would still be NaN
        mean.lerp_(gradient, 1 - MOMENTUM)
        return gradient.lerp(mean, MOMENTUM)


def hidden_matrices(model: Module) -> dict[nn.Parameter, list[int]]:
    """The weights of linear layers, and the rows of each matrix in them.

    The output layer is left out: like the embeddings it is a table of words, whose rare rows seldom have a gradient.
    """
    output = getattr(model, "output", None)
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear) and layer is not output]
    joined = [module.joined() for module in model.modules() if isinstance(module, MultiHeadAttention)]
    rows = {layer.get_parameter("weight"): [layer.out_features] for layer in layers}
    rows |= {layer.get_parameter("weight"): parts for layer, parts in joined}
    return {weight: parts for weight, parts in rows.items() if weight.requires_grad}


def orthogonal(matrices: Tensor) -> Tensor:
    """U·Vᵀ, approximately, of each matrix U·S·Vᵀ in [N, R, C], R ≤ C: singular values near 1, by Newton–Schulz."""
    a, b, c = COEFFICIENTS
    x: Tensor = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _wide(matrix: Tensor) -> Tensor:
    """The matrix or its transpose, whichever is not taller than wide."""
    return matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix
