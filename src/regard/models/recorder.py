"""Records attention weights and outputs of modules: ``with regard.record(model) as trace:``.

The recorder sets PyTorch hooks on named submodules, and no model knows of it. Attention weights are recomputed from the
inputs of an attention core, for the chosen heads only and beside the forward pass, so that the model's outputs stay the
same to the last bit. A compiled function does not call hooks that were set later: code that runs one asks
``watched(model)`` first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from regard.errors import RegardError, nearest
from regard.models.contract import Module

Heads = Sequence[int] | None  # None = all of them


class Trace:
    """The recorded tensors, by module name and in the order of the calls.

    ``attention[name]`` holds a tensor [B, chosen heads, Q, S] for each call of that attention, and ``heads[name]`` the
    numbers of the chosen heads; ``outputs[name]`` holds the module's output of each call.
    """

    def __init__(self) -> None:
        self.attention: dict[str, list[Tensor]] = {}
        self.heads: dict[str, tuple[int, ...]] = {}
        self.outputs: dict[str, list[Any]] = {}

    def weights(self, name: str) -> Tensor:
        """All calls of one attention as one tensor [B, heads, ΣQ, S], where their keys are the same.

        A Transformer attends once in a forward pass, a recurrent decoder once for each position.
        """
        calls = _found(self.attention, name, "attention")
        shapes = {(call.shape[0], call.shape[1], call.shape[3]) for call in calls}
        if len(shapes) != 1:
            raise RegardError(f"'{name}' was called {len(calls)} times with different keys; see trace.attention")
        return calls[0] if len(calls) == 1 else torch.cat(calls, dim=2)

    def output(self, name: str) -> Any:
        """The output of a module that was called once while recording."""
        calls = _found(self.outputs, name, "output")
        if len(calls) != 1:
            raise RegardError(f"'{name}' was called {len(calls)} times, not once; see trace.outputs")
        return calls[0]

    def clear(self) -> None:
        """Drop all recorded calls; recording goes on."""
        for calls in (*self.attention.values(), *self.outputs.values()):
            calls.clear()


@contextmanager
def record(
    model: Module,
    heads: Heads | Mapping[str, Heads] = None,
    outputs: str | Sequence[str] = (),
) -> Iterator[Trace]:
    """Record attention weights and outputs of modules of ``model`` while the block runs.

    ``heads``: None for every head of every attention, ``[0, 3]`` for these heads of each, ``[]`` for no attention, or
    a mapping of attention names to heads, for those only: ``{"decoder.layers.3.cross_attention": [0, 3]}``.
    ``outputs``: names of the modules whose outputs are kept. ``*`` in a name stands for anything; names are those of
    ``model.named_modules()``, for attentions with or without ".core" (see ``attentions(model)``).

        with regard.record(model, {"decoder.*.cross_attention": None}, outputs="encoder.layers.*") as trace:
            model(target, model.encode(source))
        trace.weights("decoder.layers.3.cross_attention")       # [B, H, T, S]
    """
    trace, handles = Trace(), []
    modules = dict(model.named_modules())
    cores = _cores(model)
    chosen = _chosen_heads(list(cores), heads)
    kept = _matching(list(modules), [outputs] if isinstance(outputs, str) else outputs, "module")
    try:
        _watch(model, +1)
        for name, which in chosen.items():
            trace.attention[name] = []
            hook: Callable[..., None] = partial(_record_attention, trace, name, which)
            handles.append(cores[name].register_forward_hook(hook, with_kwargs=True))
        for name in kept:
            trace.outputs[name] = []
            handles.append(modules[name].register_forward_hook(partial(_record_output, trace.outputs[name])))
        yield trace
    finally:
        for handle in handles:
            handle.remove()
        _watch(model, -1)


def attentions(model: Module) -> list[str]:
    """The names of a model's attentions, as ``record`` and its trace know them, in the order of the layers.

    >>> attentions(model)    # doctest: +SKIP
    ['encoder.layers.0.self_attention', …, 'decoder.layers.0.self_attention', 'decoder.layers.0.cross_attention', …]
    """
    return list(_cores(model))


def watched(model: Module) -> bool:
    """Whether a recording of the model, or of a part of it, is going on."""
    return bool(_WATCHED) and any(id(module) in _WATCHED for module in model.modules())


def _cores(model: Module) -> dict[str, nn.Module]:
    """The attention cores by the names of their attentions."""
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if callable(getattr(type(module), "weights", None)):  # only attention cores have this method
            found[name.removesuffix(".core")] = module
    return found


# id(model) → how many recordings of it run. An entry is removed when its recordings end, so no id outlives its model.
_WATCHED: dict[int, int] = {}


def _watch(model: Module, change: int) -> None:
    count = _WATCHED.get(id(model), 0) + change
    if count:
        _WATCHED[id(model)] = count
    else:
        _WATCHED.pop(id(model), None)


def _chosen_heads(names: list[str], heads: Heads | Mapping[str, Heads]) -> dict[str, Heads]:
    """The chosen heads of each chosen attention."""
    if not isinstance(heads, Mapping):
        return dict.fromkeys(names, heads) if heads is None or len(heads) else {}
    chosen: dict[str, Heads] = {}
    for pattern, which in heads.items():
        chosen |= dict.fromkeys(_matching(names, [pattern.removesuffix(".core")], "attention"), which)
    return chosen


def _matching(names: list[str], patterns: Sequence[str], what: str) -> list[str]:
    found: list[str] = []
    for pattern in patterns:
        matches = [name for name in names if fnmatchcase(name, pattern)]
        if not matches:
            raise RegardError(f"the model has no {what} '{pattern}'{nearest(pattern, names)}")
        found += [name for name in matches if name not in found]
    return found


def _found(calls: Mapping[str, list[Any]], name: str, what: str) -> list[Any]:
    recorded = calls.get(name.removesuffix(".core") if what == "attention" else name)
    if recorded is None:
        raise RegardError(f"no {what} '{name}' is recorded{nearest(name, calls)}")
    if not recorded:
        raise RegardError(f"'{name}' has not been called while recording")
    return recorded


@torch.no_grad()
def _record_attention(
    trace: Trace, name: str, heads: Heads, core: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor
) -> None:
    """Records the weights of the chosen heads, at once: a cache that holds the keys may be written in place later."""
    query, key, _, layout = args  # [B, H, Q, K], [B, G, S, K]
    count, groups = query.shape[1], key.shape[1]
    which = range(count) if heads is None else heads
    for head in which:
        if not 0 <= head < count:
            raise RegardError(f"'{name}' has {count} heads, counted from 0: there is no head {head}")
    options = dict(kwargs)
    if heads is not None:
        index = torch.tensor(list(which), device=query.device)
        query, key = query.index_select(1, index), key.index_select(1, index // (count // groups))
        bias = options.get("bias")
        if bias is not None and bias.shape[1] > 1:
            options["bias"] = bias.index_select(1, index)
    trace.heads[name] = tuple(which)
    trace.attention[name].append(core.weights(query, key, layout, **options).detach())


@torch.no_grad()
def _record_output(calls: list[Any], module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
    calls.append(_copied(out))


def _copied(value: Any) -> Any:
    """A copy of a tensor, which may be changed in place later, and of the tensors inside a tuple."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, tuple):
        parts = [_copied(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value
