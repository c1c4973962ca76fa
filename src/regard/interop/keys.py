"""Entries of someone else's ``config.json`` and the options of ours that they stand for, each read both ways.

    option(key, name)       a key with the value of one option, or with another name for each value
    norm(key, kind, …)      a key with the ε of norms
    model_class(name, …)    the class in "architectures"
    options(defaults, …)    any other relation between keys and options

Every key is declared, with its value where a file leaves it out. ``HARMLESS`` are the keys that may stand in any file
and change no number of inference; ``SPECIALS`` are those of special ids, which specials.py reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from regard.errors import RegardError

Values = Mapping[str, Any]

REQUIRED: Any = object()  # a key without a default
POSITIONS = 1 << 24  # at most, of any model

ACTIVATIONS = {
    "gelu": "gelu", "relu": "relu", "silu": "silu", "swish": "silu", "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh", "gelu_python": "gelu",
}  # fmt: skip

HARMLESS = frozenset({
    # who wrote the file, and how their library is to run the model
    "_name_or_path", "name_or_path", "transformers_version", "torch_dtype", "dtype", "torchscript", "use_bfloat16",
    "_attn_implementation", "attn_implementation", "_attn_implementation_autoset", "_commit_hash", "is_assistant",
    "tokenizer_class", "return_dict", "output_attentions", "output_hidden_states", "output_past", "output_scores",
    "return_dict_in_generate", "use_cache", "cache_implementation", "chunk_size_feed_forward", "low_memory",
    # training
    "gradient_checkpointing", "initializer_range", "initializer_factor", "init_std", "finetuning_task",
    "task_specific_params", "transformers.js_config",
    # settings of decoding, which a user chooses
    "max_length", "max_new_tokens", "min_length", "min_new_tokens", "do_sample", "early_stopping", "num_beams",
    "num_beam_groups", "num_return_sequences", "diversity_penalty", "temperature", "top_k", "top_p", "min_p",
    "typical_p", "repetition_penalty", "encoder_repetition_penalty", "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size", "remove_invalid_values", "exponential_decay_length_penalty", "prefix",
})  # fmt: skip

SPECIALS = frozenset({
    "pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id", "mask_token_id", "unk_token_id",
    "decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id", "bad_words_ids", "suppress_tokens",
    "begin_suppress_tokens", "length_penalty",
})  # fmt: skip


@dataclass(frozen=True)
class Key:
    """Keys of theirs, with their values where a file leaves them out, and what they mean, both ways.

    ``read`` gets the values of these keys and returns options by name; ``write`` gets our options. ``read`` may raise
    ValueError, TypeError or KeyError for what it cannot read: the keys are named.
    """

    defaults: Mapping[str, Any]
    read: Callable[[Values], dict[str, Any]]
    write: Callable[[Any], dict[str, Any]]


def options(
    defaults: Mapping[str, Any], read: Callable[[Values], dict[str, Any]], write: Callable[[Any], dict[str, Any]]
) -> Key:
    """Some keys that together stand for some options."""
    return Key(defaults, read, write)


def option(
    key: str, name: str, default: Any = REQUIRED, values: Mapping[Any, Any] | None = None, same_as: str = ""
) -> Key:
    """The key has the option's value, or by ``values`` another name for it; of two names the first is written.

    ``same_as``: a second key, which has the same value in every model that we can hold.
    """

    def read(given: Values) -> dict[str, Any]:
        if same_as and given[key] != given[same_as]:
            raise RegardError(
                f"{key} = {given[key]!r:.40} and {same_as} = {given[same_as]!r:.40}: expected the same number"
            )
        return {name: given[key] if values is None else chosen(key, given[key], values)}

    def write(ours: Any) -> dict[str, Any]:
        value = getattr(ours, name)
        return dict.fromkeys(keys, value if values is None else name_of(name, value, values))

    keys = [key, same_as] if same_as else [key]
    return Key(dict.fromkeys(keys, default), read, write)


def norm(key: str, kind: str, default: float, *names: str) -> Key:
    """The key is the ε of the norms with these names, all of one kind."""
    return Key(
        {key: default},
        lambda given: {name: {"kind": kind, "eps": given[key]} for name in names},
        lambda ours: {key: getattr(ours, names[0]).eps},
    )


def model_class(*names: str) -> Key:
    """The class in ``architectures``: one of the names, of which the first is written."""

    def read(given: Values) -> dict[str, Any]:
        chosen("architectures", class_of(given), dict.fromkeys(names))
        return {}

    return Key({"architectures": [names[0]]}, read, lambda ours: {"architectures": [names[0]]})


def class_of(values: Values) -> str:
    """The one class in ``architectures``."""
    found = values["architectures"]
    if not isinstance(found, list) or len(found) != 1 or not isinstance(found[0], str):
        raise RegardError(f"architectures = {found!r:.100}: expected a list with the name of one class")
    return found[0]


def chosen(key: str, value: Any, values: Mapping[Any, Any]) -> Any:
    """What a value means; another value raises and lists the known ones."""
    if not isinstance(value, str | int | float | bool | None) or value not in values:
        raise RegardError(f"{key} = {value!r:.60}: expected one of {', '.join(map(str, values))}")
    return values[value]


def name_of(option: str, value: Any, values: Mapping[Any, Any]) -> Any:
    """The first name of a value."""
    for theirs, ours in values.items():
        if ours == value:
            return theirs
    raise RegardError(f"{option} would have to be one of {', '.join(map(str, values.values()))}")
