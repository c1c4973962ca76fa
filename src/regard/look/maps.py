"""What is drawn: weights and the two sides' tokens, no model. Drawings take these and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class AttentionMap:
    """How much each target token looked at each source token: `weights` [T, S], rows sum to at most 1."""

    weights: NDArray[np.float32]
    source: tuple[str, ...]
    target: tuple[str, ...]
    title: str = ""

    def __post_init__(self) -> None:
        shape = (len(self.target), len(self.source))
        if self.weights.shape != shape:
            raise ValueError(f"weights are {self.weights.shape}, the tokens ask for {shape}")

    def to_dict(self) -> dict[str, Any]:
        """As `--json` prints it."""
        weights = [[round(float(w), 4) for w in row] for row in self.weights]
        return {"title": self.title, "source": list(self.source), "target": list(self.target), "weights": weights}
