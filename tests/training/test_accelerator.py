"""An update on a GPU, without one (fake_gpu.py): every parameter is given a gradient instead of a backward pass."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.utils._python_dispatch import TorchDispatchMode

from regard.accel.fused import Fused
from regard.accel.ways import switched_on
from regard.config import Config, read_config
from regard.data.batch import Batch
from regard.errors import RegardError
from regard.models import registry
from regard.models.recorder import record
from regard.nn.packing import Packing
from regard.nn.sequences import Tokens
from regard.training.feed import Item
from regard.training.step import Trainer

GPU = torch.device("cuda")
LENGTHS = [[9, 7, 7, 2], [6, 11, 3, 4]]  # of sources and targets


class Operators(TorchDispatchMode):
    """Counts operators by name, and by what they come to the rows of the products."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()
        self.rows: Counter[int] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.split(".")[0]
        self.count[name] += 1
        if name in ("addmm", "mm"):
            self.rows[next(x for x in args[-2:] if isinstance(x, Tensor)).shape[0]] += 1
        return func(*args, **(kwargs or {}))


def config_of(**changed: Any) -> Config:
    shape = {"width": 32, "heads": 4, "encoder_layers": 2, "decoder_layers": 2, "feedforward": 64}
    model = {"architecture": "transformer", **shape, **changed.pop("model", {})}
    data = {"train": ["x"], "valid": "x", "source": "xx", "target": "yy", "vocabulary": 300}
    return read_config(None, seed=1, data=data, model=model, training={"precision": "bf16", **changed})


def on_gpu(lengths: list[int], packed: bool = True) -> Tokens:
    size = max(lengths)
    # As ``Tokens.to`` does it, with what the host knows: where the tokens stand.
    rows = torch.empty(sum(lengths), dtype=torch.int64, device=GPU)
    starts = torch.empty(len(lengths) + 1, dtype=torch.int32, device=GPU)
    packing = Packing(rows, starts, len(lengths), size) if packed else None
    ids = torch.empty(len(lengths), size, dtype=torch.int64, device=GPU)
    return Tokens(ids, torch.empty(len(lengths), dtype=torch.int64, device=GPU), packing)


def update(config: Config, *, packed: bool = True) -> tuple[Trainer, Operators, Tensor]:
    """One update of a model on the fake GPU, counted."""
    with GPU:
        model: Any = registry.options_from(config.model).build(300)
    trainer = Trainer(config, model, GPU)
    source, target = (on_gpu(lengths, packed) for lengths in LENGTHS)
    tokens = sum(LENGTHS[1])
    batch = Batch(source, target, torch.empty(target.ids.shape, dtype=torch.int64, device=GPU), tokens)
    item = Item(0, 0, [], [batch], tokens, tokens, (None, None))  # type: ignore[arg-type]

    def backward(loss: Tensor) -> None:
        assert loss.requires_grad and loss.shape == () and loss.dtype == torch.float32
        for parameter in trainer.parameters:
            parameter.grad = torch.empty_like(parameter)

    with pytest.MonkeyPatch.context() as patched, Operators() as seen:
        patched.setattr(torch.autograd, "backward", backward)
        statistics = trainer.start_update(item, 1)
    return trainer, seen, statistics


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"label_smoothing": 0.1, "clip_norm": 1.0},
        {"rdrop": 5.0},
        {"weight_decay": 0.01, "model": {"order": "pre", "norm": "rms_norm", "gated": True}},
        *({"model": {"positions": kind}} for kind in registry.PARTS["positions"]),
        {"model": {"positions": "relative_bias", "attention_dropout": 0.1}},
        {"optimizer": "muon"},
        {"precision": "fp32"},
    ],
    ids=lambda changed: str(changed) or "as it comes",
)
def test_an_update_waits_for_nothing(changed: dict[str, Any], fake_gpu: None) -> None:
    trainer, _, statistics = update(config_of(**changed))
    assert statistics.device.type == "cuda" and statistics.shape == (5,)
    assert all(parameter.grad is not None and parameter.grad.device.type == "cuda" for parameter in trainer.parameters)
    with pytest.raises(DataDependentOutputException):  # which is where an update is waited for
        trainer.read(statistics, 1)


def test_attention_takes_sentences_as_long_as_they_are(fake_gpu: None) -> None:
    _, seen, _ = update(config_of())
    assert seen.count["_flash_attention_forward"] == 2 + 2 * 2
    assert not any("scaled_dot_product" in name or name == "bmm" for name in seen.count)
    _, seen, _ = update(config_of(model={"attention_dropout": 0.1}))
    assert seen.count["_flash_attention_forward"] == 6, "the kernel drops weights itself"


def test_no_product_has_rows_of_padding(fake_gpu: None) -> None:
    _, seen, _ = update(config_of())
    source, target = map(sum, LENGTHS)
    width, inner, vocabulary = 32, 64, 300
    # Forward and backward of tokens; the others are the gradients of matrices, whose rows are outputs.
    assert set(seen.rows) <= {source, target, width, 2 * width, 3 * width, inner, vocabulary}


def test_lengths_go_to_the_device_with_the_packing_that_only_the_host_can_make() -> None:
    tokens = Tokens(torch.ones(3, 5, dtype=torch.int64), torch.tensor([5, 2, 4]))
    assert tokens.to("cpu").packing is None
    moved = tokens.to("meta")
    assert moved.packing is not None and moved.ids.device.type == "meta"
    assert moved.packing.rows.shape == (11,) and moved.packing.starts.dtype == torch.int32
    assert moved.packed(wanted=True) is moved.packing and moved.packed(wanted=False) is None
    whole = Tokens(torch.ones(2, 5, dtype=torch.int64), torch.tensor([5, 5])).to("meta")
    assert whole.packing is not None, "also where nothing is padded: all batches go one way"


def test_layers_are_compiled_in_few_graphs_for_all_lengths(fake_gpu: None) -> None:
    with GPU:
        model: Any = registry.options_from(config_of().model).build(300)
    counter = CompileCounter()
    counters.clear()
    fused = Fused(model, GPU, backend=counter)
    for lengths in (LENGTHS, [[5, 4, 3], [7, 7, 2]], [[12, 3, 3, 3], [2, 9, 9, 1]], [[8] * 6, [9, 8, 7, 6, 5, 4]]):
        source, target = map(on_gpu, lengths)
        with torch.autocast("cuda"), switched_on(), fused.switched_on():
            hidden = model(target, model.encode(source)).hidden
        assert hidden.shape == (*target.ids.shape, 32)
    assert counter.frame_count <= 4, "the first and the other layers, of encoder and decoder"
    assert not counters["graph_break"]
    before = counter.frame_count
    with record(model), torch.autocast("cuda"), switched_on(), fused.switched_on():
        model(target, model.encode(source))
    model(target, model.encode(source))
    assert counter.frame_count == before, "whoever records sees the layers, and outside they are called as they are"


def test_compiling_is_for_gpus(tmp_path: Path) -> None:
    model: Any = registry.options_from(config_of().model).build(300)
    with pytest.raises(RegardError, match=r"training.compile = true is for CUDA GPUs, and this is cpu: leave it out"):
        Trainer(config_of(compile=True), model, torch.device("cpu"))
