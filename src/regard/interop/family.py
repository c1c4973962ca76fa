"""A family of published models: a table of configuration entries, and one of weights, both two-way and strict.

A family's file declares keys (keys.py) and tensors (tables.py). What all families share stands here: the refusal of
what is unknown, defaults, the registry's checks, and at export the comparison of what was written with the model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from regard.errors import RegardError, nearest
from regard.interop.keys import HARMLESS, REQUIRED, SPECIALS, Key, Values, class_of
from regard.interop.tables import Entry, check_names, check_shapes, export_weights, held, readable
from regard.interop.transforms import Shape
from regard.model_folder import check_layers
from regard.models import registry
from regard.models.assign import Readable

#: Options of ours that change no number of inference: a file may say something else of them.
TRAINING = ("dropout", "embedding_dropout", "activation_dropout", "attention_dropout", "final_dropout")


class PositionsKey(NamedTuple):
    """The key with the number of positions, its value where a file leaves it out, and the largest that is read."""

    key: str
    default: int
    largest: int


@dataclass(frozen=True, kw_only=True)
class Family:
    """The tables of one ``model_type``."""

    name: str  # of the family, in messages
    model_type: str
    architecture: str  # ours
    tasks: Mapping[str, str]  # the task of each of their classes
    keys: Sequence[Key]
    table: Callable[[Any, Values], list[Entry]]  # the tensors, from our options and the values of the keys
    positions: PositionsKey
    vocabularies: tuple[str, ...] = ("vocab_size",)  # the keys with the sizes: of one vocabulary, or source and target
    only: Mapping[str, Any] = field(default_factory=dict)  # keys with the one value that we hold; a file may lack them
    fixed: Mapping[str, Any] = field(default_factory=dict)  # our options that every model of the family has
    free: tuple[str, ...] = ()  # our options of tensors that every file has: a model without them is written with zeros
    ignored: frozenset[str] = frozenset()  # keys of this family that change no number of inference
    tensors: Mapping[str, str] = field(default_factory=dict)  # see ``values``
    renamed: Mapping[str, str] = field(default_factory=dict)  # older ends of tensors' names → those in the table
    base: tuple[str, str] | None = None  # a class whose files leave a prefix out of all tensors' names, and the prefix

    def values(self, config: Values, tensors: Iterable[str] = ()) -> dict[str, Any]:
        """The values of all declared keys in their ``config.json``, where ``tensors`` are the names of their weights.

        Each key of ``self.tensors`` has no place in files: it is true where the weights have the tensor that it names.
        A RegardError for an unknown key, a value that is missing or cannot be held, or another family.
        """
        defaults = {key: default for entry in self.keys for key, default in entry.defaults.items()}
        self._check_keys(config, defaults)
        names = set(tensors)
        values = {key: config.get(key) for key in (*defaults, *self.vocabularies)}
        values |= {key: name in names for key, name in self.tensors.items()}
        for key, value in values.items():
            values[key] = defaults.get(key) if value is None else value
            if values[key] is REQUIRED or (value is None and key == self.vocabularies[0]):
                raise RegardError(f"config.json has no '{key}'")
        key, default, largest = self.positions
        positions = default if config.get(key) is None else config[key]
        if not isinstance(positions, int) or isinstance(positions, bool) or not 2 <= positions <= largest:
            raise RegardError(f"{key} = {positions!r:.40}: expected 2 to {largest}")
        return {**values, key: positions}

    def _check_keys(self, config: Values, defaults: Values) -> None:
        """Refuse another family, unknown keys, and values of ``only`` that we cannot hold."""
        if config.get("model_type", self.model_type) != self.model_type:
            raise RegardError(f"model_type = {config['model_type']!r:.60}: expected '{self.model_type}'")
        declared = {*defaults, *self.vocabularies, self.positions.key, *self.only} - self.tensors.keys()
        known = declared | self.ignored | HARMLESS | SPECIALS | {"model_type"}
        for key, value in config.items():
            if key not in known and value is not None:
                raise RegardError(
                    f"{key!r:.60} = {value!r:.60}: regard does not know this key, which may change what the model "
                    f"computes{nearest(key, defaults)}"
                )
        for key, value in self.only.items():
            found = value if config.get(key) is None else config[key]
            if type(found) is not type(value) or found != value:
                raise RegardError(f"{key} = {found!r:.60}: regard has models with {value!r} alone")

    def options_from(self, config: Values, tensors: Iterable[str] = ()) -> Any:
        """Our options from their ``config.json`` and the names of their ``tensors``."""
        values = self.values(config, tensors)
        ours, sources = dict(self.fixed), dict.fromkeys(self.fixed, "")
        for entry in self.keys:
            keys = " and ".join(entry.defaults)
            try:
                found = entry.read({key: values[key] for key in entry.defaults})
            except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError) as error:
                said = ", ".join(f"{key} = {values[key]!r:.60}" for key in entry.defaults)
                raise RegardError(f"{said:.200}: cannot be read ({' '.join(str(error).split())[:100]})") from None
            ours |= found
            sources |= dict.fromkeys(found, keys)
        try:
            return registry.options_from({"architecture": self.architecture, **ours})
        except RegardError as error:  # it names the option; here the keys are known too
            named = re.search(r"'model\.(\w+)", str(error))
            keys = sources.get(named[1], "") if named else ""
            raise RegardError(f"{keys}: {error}" if keys else str(error)) from None

    def sizes(self, config: Values, options: Any) -> tuple[int, int | None]:
        """The rows of the tables of source and target; None: the target's vocabulary is the source's."""
        found = [config.get(key) for key in self.vocabularies]
        for key, size in zip(self.vocabularies, found, strict=True):
            if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
                raise RegardError(f"{key} = {size!r:.40}: expected a whole number, 1 or more")
        first, *others = found
        if first is None:
            raise RegardError(f"config.json has no '{self.vocabularies[0]}'")
        if not others or others[0] in (None, first):
            return first, None
        if getattr(options, "share", "none") in ("all", "inputs"):
            said = " and ".join(f"{key} = {config[key]}" for key in self.vocabularies)
            raise RegardError(f"{said}: expected the same number, since the two sides share a table")
        return first, others[0]

    def task(self, config: Values) -> str:
        """The task of their class."""
        return self.tasks[class_of(self.values(config))]

    def config_from(self, options: Any, vocabulary: int, target_vocabulary: int | None = None) -> dict[str, Any]:
        """Their ``config.json`` from our options, without special ids; an option that it cannot hold raises."""
        if registry.architecture_of(options) != self.architecture:
            raise RegardError(f"{self.name} holds models of architecture {self.architecture} only")
        config: dict[str, Any] = {"model_type": self.model_type}
        try:
            for entry in self.keys:
                config |= entry.write(options)
            has_tensor = {key: config.pop(key) for key in self.tensors}
            sizes = (vocabulary, vocabulary if target_vocabulary is None else target_vocabulary)
            config |= zip(self.vocabularies, sizes, strict=False)
            tensors = [self.tensors[key] for key, there in has_tensor.items() if there]
            back = canonical(self.options_from(config, tensors))
        except RegardError as error:
            raise RegardError(f"{self.name} cannot hold this model: {error}") from None
        for name, value in canonical(options).items():
            if name not in (*TRAINING, *self.free) and back[name] != value:
                raise RegardError(f"{self.name} cannot hold this model: {name} would have to be {back[name]}")
        return config

    def names(self, config: Values, names: Iterable[str]) -> dict[str, str]:
        """{name in the table: name in the file} of all their tensors."""
        prefix = self.base[1] if self.base and self.base[0] in (config.get("architectures") or ()) else ""
        found: dict[str, str] = {}
        for name in names:
            known = name if name.startswith(prefix) else prefix + name
            for old, new in self.renamed.items():
                known = known.replace(old, new)
            if found.setdefault(known, name) != name:
                raise RegardError(f"{name!r:.100} and {found[known]!r:.100} are one tensor: expected one of the two")
        return found

    def readable(
        self, options: Any, config: Values, theirs: Mapping[str, Readable], ours: Mapping[str, Shape]
    ) -> dict[str, Readable]:
        """Our tensors, which have the shapes ``ours``, from theirs; names and shapes are checked, nothing is read."""
        names = self.names(config, theirs)
        table, named = self.table(options, self.values(config, names)), {n: theirs[file] for n, file in names.items()}
        check_names(table, named)  # a name that is wrong is not the configuration's fault
        try:
            check_shapes(table, {name: tensor.shape for name, tensor in named.items()}, ours)
        except RegardError as error:
            raise RegardError(f"{error}: the weights do not fit the configuration") from None
        return readable(table, named, ours)

    def import_model(self, config: Values, theirs: Mapping[str, Tensor]) -> Any:
        """Our model, in evaluation mode, from their configuration and state dict."""
        options = self.options_from(config, self.names(config, theirs))
        check_layers(options, len(theirs))
        model = options.build(*self.sizes(config, options))
        ours = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        weights = {name: tensor.read() for name, tensor in self.readable(options, config, held(theirs), ours).items()}
        model = model.to(next(iter(weights.values())).dtype)
        model.load_state_dict(weights)
        return model.eval()

    def export_model(self, model: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Their configuration, without special ids, and their state dict from our model."""
        ours = {name: tensor.detach() for name, tensor in model.state_dict().items() if name not in model.ties}
        source = getattr(model, "source_embedding", model.target_embedding).table.weight
        target = model.target_embedding.table.weight
        config = self.config_from(model.options, len(source), len(target))
        table = self.table(model.options, self.values(config))
        for entry in table:  # tensors of ``free`` options that this model lacks, such as a bias, are written as 0
            for name in entry.ours:
                if name not in ours and name in self.free:
                    ours[name] = torch.zeros(len(target), dtype=target.dtype, device=target.device)
        theirs = export_weights(table, ours)
        if self.base and self.base[0] in config["architectures"]:
            theirs = {name.removeprefix(self.base[1]): tensor for name, tensor in theirs.items()}
        return config, theirs


def canonical(options: Any) -> dict[str, Any]:
    """Our options by name; one that others imply has the value that says so."""
    found = {item.name: getattr(options, item.name) for item in fields(options)}
    found["final_norm"] = options.normed_at_the_end
    if "output_scale" in found:  # 1 / √D and D ** -0.5 may differ in the last digit
        found["output_scale"] = float(f"{found['output_scale']:.12g}")
    if options.key_value_heads == options.heads:
        found["key_value_heads"] = 0
    if options.head_width * options.heads == options.width:
        found["head_width"] = 0
    return found
