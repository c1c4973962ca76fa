"""Backends, which search for translations: regard's engine (the default), or CTranslate2 with the same weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch

from regard.accel import native
from regard.accel.prepared import Prepared, prepare
from regard.accel.thresholds import PROCESS_TOKENS
from regard.decoding.running_batch import Result
from regard.decoding.sampling import Strategy
from regard.decoding.scheduler import Step
from regard.decoding.search import Search
from regard.decoding.shortlist import Shortlist
from regard.decoding.waiting import Input, tokens_of
from regard.decoding.workers import DecodingWorkers
from regard.directory import Loaded
from regard.errors import RegardError
from regard.models.contract import Model
from regard.models.recorder import watched
from regard.text.settings import TextSettings
from regard.text.tokenizer import Tokenizer


class Backend(Protocol):
    """Decodes inputs: their results, in order. ``on_step``, where the backend has steps, is called with each."""

    def __call__(
        self,
        inputs: Sequence[Input],
        search: Search,
        batch_tokens: int,
        on_step: Callable[[Step], None] | None = None,
    ) -> Iterable[Result]: ...


def build_backend(name: str, loaded: Loaded, shortlist: str | Path = "") -> Backend:
    """The backend ``name`` for a model: ``regard``, ``ctranslate2``, or ``ctranslate2:int8`` and the like.

    ``shortlist`` is a file (decoding/shortlist.py), for regard's engine alone.
    """
    check_backend(name, shortlist)
    kind, _, precision = name.partition(":")
    if kind == "ctranslate2":
        from regard.decoding.ctranslate2 import CTranslate2

        device = next(loaded.model.parameters()).device
        return CTranslate2(
            loaded.model,
            _settings(loaded),
            precision=precision or "float32",
            device=device.type,
            threads=torch.get_num_threads(),
        )
    return Engine(loaded, Shortlist.read(shortlist, loaded) if shortlist else None)


def check_backend(name: str, shortlist: str | Path = "") -> None:
    """Raises for a backend that does not exist, or whose package or shortlist is missing, before a model is loaded."""
    if shortlist and name != "regard":
        raise RegardError(f"backend {name!r}: shortlists are for regard's own engine")
    if shortlist and not Path(shortlist).is_file():
        raise RegardError(f"{shortlist}: no such file; expected a shortlist (regard shortlist makes one)")
    kind, colon, precision = name.partition(":")
    if kind == "ctranslate2" and (precision or not colon):
        from regard.interop.ctranslate2 import library

        library()
    elif name != "regard":
        raise RegardError(f"backend {name!r}: expected regard, ctranslate2, or ctranslate2:int8 and the like")


def producing_known(settings: TextSettings, tokenizer: Tokenizer, model: Model) -> TextSettings:
    """The settings with which a model decodes: they suppress the ids that its tokenizer lacks, which are no text.

    Published tables may have more rows than the tokenizer has entries (T5: 32,128 and 32,100). End tokens stay.
    """
    rows = range(tokenizer.size, len(model.output_table()[0]))
    unknown = [number for number in rows if number not in settings.ends]
    return replace(settings, suppressed=(*settings.suppressed, *unknown)) if unknown else settings


def _settings(loaded: Loaded) -> TextSettings:
    return producing_known(loaded.text.settings, loaded.text.target_tokenizer, loaded.model)


class Engine:
    """regard's own backend. On a CPU it decodes with a prepared model, which is made once."""

    def __init__(self, loaded: Loaded, shortlist: Shortlist | None) -> None:
        self.model, self.settings, self.shortlist = loaded.model, _settings(loaded), shortlist
        self._workers = DecodingWorkers()
        self._prepared: Prepared | None = None

    def __call__(
        self,
        inputs: Sequence[Input],
        search: Strategy,
        batch_tokens: int,
        on_step: Callable[[Step], None] | None = None,
    ) -> list[Result]:
        return self._workers.decode(
            self.prepared(inputs, search), inputs, self.settings, search,
            batch_tokens=batch_tokens, shortlist=self.shortlist, on_step=on_step,
        )  # fmt: skip

    def prepared(self, inputs: Sequence[Input], search: Strategy) -> Model:
        """The prepared model; the model itself on a GPU, while it is recorded, and for little text.

        Little text is decoded by the prepared model too where the native kernels need not be compiled first.
        """
        much = tokens_of(inputs, search) >= PROCESS_TOKENS
        if next(self.model.parameters()).device.type != "cpu" or watched(self.model) or not (much or native.at_hand()):
            return self.model
        if self._prepared is None or not self._prepared.is_current(self.model):
            self._prepared = prepare(self.model)
        return self._prepared
