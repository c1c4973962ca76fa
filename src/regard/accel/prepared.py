"""A model prepared for decoding: the same contract over packed or quantised weights, with the native kernels.

``quantize`` gives a model whose modules are still those of the model, so that it can be recorded and scored with;
``prepare`` replaces all that the kernels compute. Neither changes the model that it is given, and modules of unknown
kinds stay as they are.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from regard.accel import int8, native
from regard.accel.int8 import Int8Linear
from regard.accel.linear import available
from regard.accel.native import Native
from regard.accel.prepacked import PrepackedLinear, gains, in_fp32, prepack
from regard.accel.stack import CompiledStack, fits
from regard.accel.topk import TopK, rows_at_once, topk_of_logits
from regard.errors import RegardError
from regard.models.base import TiedModel
from regard.models.contract import Memory, Model, Module, State
from regard.nn.sequences import Output, Tokens


class Prepared(nn.Module):
    """A model's contract and its top-k tokens, for inference alone.

    ``model`` is a copy of the original in which layers were replaced. A recording is made of the original, of which
    every module is called.
    ``output_layer`` is the output table, prepacked or quantised; None: the model's own logits are taken.
    ``cache_dtype`` is the type of cached keys and values, None: that in which they are computed. ``only_linears``:
    nothing but linear layers was replaced.
    """

    model: Model

    def __init__(
        self,
        model: Any,
        made_of: object,
        *,
        output_layer: Int8Linear | PrepackedLinear | None = None,
        native: Native | None = None,
        cache_dtype: torch.dtype | None = None,
        only_linears: bool = False,
    ) -> None:
        super().__init__()
        vars(self)["model"] = model  # not as a submodule: the modules of the model are, by their own names
        self._modules.update(model._modules)
        self._parameters.update(model._parameters)
        self.output_layer, self.native, self.cache_dtype = output_layer, native, cache_dtype
        self.only_linears, self._made_of = only_linears, made_of
        self.model.eval()
        self.eval()

    @property
    def has_source(self) -> bool:
        """Whether there is an encoder."""
        return self.model.has_source

    @property
    def has_scores(self) -> bool:
        """Whether there is an output table."""
        return self.model.has_scores

    @property
    def longest(self) -> int | None:
        """How many tokens of a sentence have positions, its mark included; None: unlimited."""
        return self.model.longest

    @property
    def width(self) -> int:
        """The width of the hidden states."""
        return self.model.width

    @property
    def ties(self) -> Mapping[str, str]:
        """Parameters that are one in memory: left out on disk → kept."""
        return self.model.ties

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights of products."""
        return torch.int8 if isinstance(self.output_layer, Int8Linear) else table_and_bias(self.model)[0].dtype

    @property
    def is_alone(self) -> bool:
        """Whether the original's weights were let go: what was prepared while it was read."""
        return self._made_of is None

    @property
    def leaves_out(self) -> bool:
        """Whether a step computes nothing for hypotheses that are not alive."""
        return isinstance(self._modules.get("decoder"), CompiledStack)

    def is_current(self, model: Module) -> bool:
        """Whether ``model`` still has the weights that this was made of."""
        return model is self or self._made_of == _state_of(model)

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode; RuntimeError where ``mode`` is True."""
        if mode:
            raise RuntimeError("a prepared model is for inference alone")
        return super().train(False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """A RuntimeError for ``to`` and its like: the original shares parameters, and would move too."""
        raise RuntimeError("a prepared model is neither moved nor cast: prepare the moved or cast original")

    def encode(self, source: Tokens) -> Memory:
        """Source sentences [B, S] → their memory."""
        return self.model.encode(source)

    def forward(self, target: Tokens, memory: Memory | None = None) -> Output:
        """Target inputs [B, T] and a memory → hidden [B, T, D]."""
        return self.model(target, memory)

    def label_scores(self, target: Tokens) -> Tensor:
        """Texts [B, T] → scores of labels; see ``regard.models.contract.LabelModel``."""
        if not hasattr(self.model, "label_scores"):
            raise TypeError("this model has no scores of labels")
        scores: Tensor = self.model.label_scores(target)
        return scores

    def output_table(self) -> tuple[Tensor, Tensor | None]:
        """The matrix [V, D] that makes logits of hidden states, and their bias [V] if there is one.

        Where the model ``is_alone`` the matrix may have no numbers: it has the shape, and is full of NaN.
        """
        return self.model.output_table()

    def logits(self, hidden: Tensor, candidates: Tensor | None = None) -> Tensor:
        """hidden [*, D] → [*, V], or [*, C] for the ``candidates`` [C] alone."""
        if self.output_layer is not None and candidates is None:
            found: Tensor = self.output_layer(hidden)
            return found
        matrix = self.output_layer.matrix if self.is_alone and isinstance(self.output_layer, PrepackedLinear) else None
        if candidates is None or matrix is None:
            return self.model.logits(hidden, candidates)
        rows, bias = matrix.rows(candidates), self.output_table()[1]
        return nn.functional.linear(hidden.to(rows.dtype), rows, None if bias is None else bias[candidates])

    def start(
        self,
        memory: Memory | None,
        beams: int,
        capacity: int,
        batch: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> State:
        """A decoding state, whose keys and values are of ``dtype``; None: of ``cache_dtype``."""
        return self.model.start(memory, beams, capacity, batch, dtype or self.cache_dtype)

    def step(
        self,
        tokens: Tensor,
        state: State,
        lengths: Tensor | None = None,
        extent: int | None = None,
        live: Tensor | None = None,
    ) -> Tensor:
        """New tokens [B, Q] → hidden [B, Q, D]; see ``regard.models.contract.Model.step``."""
        return self.model.step(tokens, state, lengths, extent, live)

    def topk(self, hidden: Tensor, k: int, ends: Tensor, suppressed: Tensor | None = None) -> TopK:
        """The top-k tokens after hidden [B, R, D]; ``suppressed`` [n] ids are not among them; ``ends`` [E]."""
        matrix = None if self.output_layer is None else self.output_layer.matrix
        if self.native is not None and matrix is not None:
            batch, rows, width = hidden.shape
            k = min(k, matrix.outputs)
            found = self.native.topk_of_table(matrix, hidden.reshape(batch * rows, width), k, ends, suppressed)
            return TopK(*(x.view(batch, rows, x.shape[-1]) for x in found))
        table = self.output_table()[0]
        chunk = rows_at_once(len(table), table.device, self.output_layer is not None)
        return topk_of_logits(self.logits, hidden, k, ends, chunk=chunk, suppressed=suppressed, native=self.native)


def prepare(model: Model, dtype: torch.dtype | None = None) -> Prepared:
    """The model for decoding on a CPU: prepacked and compiled where that gains, its tables shared.

    ``dtype``: that of the weights, ``torch.int8`` among them; None: the model's own. RegardError where int8 cannot be.
    A model that ``prepare`` made is returned as it is; ValueError where another ``dtype`` is asked of it.
    """
    if isinstance(model, Prepared) and not model.only_linears:
        if dtype not in (None, model.dtype):
            raise ValueError(f"the model is prepared in {model.dtype} already: prepare the original in {dtype}")
        return model
    made_of = _state_of(model)
    if dtype == torch.int8:
        model = quantize(model)
    inner, output = (model.model, model.output_layer) if isinstance(model, Prepared) else (model, None)
    with torch.no_grad():
        other = _copied(inner)
        if dtype is not None and dtype != torch.int8:
            _cast(other, dtype)
    return _completed(other, output, made_of)


def prepare_in_place(model: Any, output: Int8Linear | PrepackedLinear | None) -> Prepared:
    """A model whose linear layers were replaced while it was read (accel/preparing.py), and its ``output`` layer."""
    with torch.no_grad():
        return _completed(model.eval(), output, None)


def quantized_in_place(model: Any, output: Int8Linear | PrepackedLinear | None) -> Prepared:
    """A model whose linear layers were quantised while it was read, as ``quantize`` makes it of a whole one."""
    model.eval()
    return Prepared(model, _state_of(model), output_layer=output, only_linears=True)


@torch.no_grad()
def _completed(other: Any, output: Int8Linear | PrepackedLinear | None, made_of: object) -> Prepared:
    """Replaces in place all that the kernels compute; linear layers of ``other`` may have been replaced before."""
    table, bias = table_and_bias(other)
    if table.device.type != "cpu":
        return Prepared(other, made_of, output_layer=output)
    if output is None and has_known_logits(other) and gains(table):
        output = PrepackedLinear(table, bias)
    prepack(other, table)
    if table.dtype == torch.bfloat16 and gains(table):
        in_fp32(other, table)
    kernels = native.library() if table.dtype in (torch.float32, torch.bfloat16) else None
    for name, child in list(other.named_children()):
        if kernels is not None and fits(child):
            setattr(other, name, CompiledStack(child, kernels))
    small = table.dtype == torch.bfloat16 or isinstance(output, Int8Linear)
    caches = isinstance(other._modules.get("decoder"), CompiledStack)
    return Prepared(
        other, made_of, output_layer=output, native=kernels, cache_dtype=torch.bfloat16 if small and caches else None
    )


def quantize(model: Model) -> Prepared:
    """The model with products in int8 where that gains, and in bf16 elsewhere if the processor multiplies it.

    Tables stay as they are for what looks things up in them.
    """
    check_int8(table_and_bias(model)[0].device)
    with torch.no_grad():
        other = _copied(model)
        table, bias = table_and_bias(other)
        output = Int8Linear(table, bias, torch.float32) if has_known_logits(other) else None
        int8.in_int8(other, table)
        if available(torch.bfloat16):
            _cast(other, torch.bfloat16)
    return Prepared(other, _state_of(model), output_layer=output, only_linears=True)


def check_int8(device: torch.device | str) -> None:
    """RegardError where a model cannot be quantised."""
    if torch.device(device).type != "cpu" or not int8.available():
        raise RegardError(f"int8 is for CPUs on which PyTorch has oneDNN, and the device is '{device}': use bf16")


def _state_of(model: Module) -> list[tuple[int, int]]:
    """The address of each weight and how often it was written: they change when the weights do."""
    # Tensors of ``torch.inference_mode`` do not count how often they were written.
    return [(weight.data_ptr(), 0 if weight.is_inference() else weight._version) for weight in model.parameters()]


def _copied(model: Module) -> Any:
    """A copy of the modules that shares parameters, buffers and layers in int8."""
    buffers = (buffer for module in model.modules() for buffer in module.buffers(recurse=False))
    quantised: Iterable[object] = (module for module in model.modules() if isinstance(module, Int8Linear))
    shared: dict[int, Any] = {id(part): part for part in (*model.parameters(), *buffers, *quantised)}
    return copy.deepcopy(model, shared).eval()


def _cast(module: nn.Module, dtype: torch.dtype) -> None:
    """Gives all modules new parameters of that type; the tensors that they shared with a model do not change."""
    cast: dict[int, nn.Parameter] = {}
    for each in module.modules():
        for name, parameter in list(each._parameters.items()):
            if parameter is not None and parameter.is_floating_point() and parameter.dtype != dtype:
                if id(parameter) not in cast:
                    cast[id(parameter)] = nn.Parameter(parameter.to(dtype), requires_grad=False)
                each._parameters[name] = cast[id(parameter)]
    module.to(dtype)  # the buffers


def table_and_bias(model: Any) -> tuple[Tensor, Tensor | None]:
    """The output table and its bias; of a model without scores of tokens, the table of its embedding."""
    if isinstance(model, TiedModel) and not model.has_scores:
        return model.target_embedding.table.weight, None
    found: tuple[Tensor, Tensor | None] = model.output_table()
    return found


def has_known_logits(model: object) -> bool:
    """Whether there are logits, and they are the product with the output table and nothing else."""
    known = getattr(type(model), "logits", None) is TiedModel.logits
    return known and isinstance(model, TiedModel) and model.has_scores
