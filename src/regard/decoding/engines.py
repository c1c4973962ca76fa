"""What can search for translations: regard's own engine, the default, or CTranslate2 with the same weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import torch

from regard.decoding.flight import Result
from regard.decoding.search import Search
from regard.decoding.shortlist import Shortlist
from regard.decoding.workers import decode_on_cores
from regard.directory import Loaded
from regard.errors import RegardError

#: (sources without end marks, search, batch_tokens) → their results, in order.
Engine = Callable[[Sequence[list[int]], Search, int], Iterable[Result]]


def build_engine(name: str, loaded: Loaded, shortlist: str | Path = "") -> Engine:
    """The engine of that name for a model: ``regard``, ``ctranslate2``, or ``ctranslate2:int8`` and the like.

    ``shortlist``: the file of one, for regard's own.
    """
    if shortlist and name != "regard":
        raise RegardError(f"engine {name!r}: shortlists are for regard's own engine")
    kind, colon, precision = name.partition(":")
    if kind == "ctranslate2" and (precision or not colon):
        from regard.interop.ctranslate2 import CTranslate2

        place = next(loaded.model.parameters()).device
        return CTranslate2(
            loaded.model,
            loaded.settings,
            precision=precision or "float32",
            device=place.type,
            threads=torch.get_num_threads(),
        )
    if name != "regard":
        raise RegardError(f"engine {name!r}: expected regard, ctranslate2, or ctranslate2:int8 and the like")
    return partial(_own, loaded, Shortlist.read(shortlist, loaded) if shortlist else None)


def _own(
    loaded: Loaded, shortlist: Shortlist | None, sources: Sequence[list[int]], search: Search, batch_tokens: int
) -> Iterable[Result]:
    return decode_on_cores(
        loaded.model, sources, loaded.settings, search, batch_tokens=batch_tokens, shortlist=shortlist
    )
