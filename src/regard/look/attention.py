"""Maps the attention of a translation: the weights of each produced token over the source tokens."""

from __future__ import annotations

import numpy as np

from regard.decoding.alignments import alignment_attention, alignments
from regard.draw.maps import AttentionMap, characters
from regard.errors import RegardError
from regard.models.recorder import attentions
from regard.pipelines import Translation, Translator


def cross_attentions(translator: Translator) -> list[str]:
    """The names of the cross-attentions, one for each decoder layer."""
    return [name for name in attentions(translator.model) if "cross_attention" in name]


def look_at(
    translator: Translator,
    text: str,
    *,
    beam: int | None = None,
    layer: int | None = None,
    head: int | None = None,
) -> tuple[Translation, AttentionMap]:
    """Translate, and return the weights of each produced token over the source; layers and heads count from 0.

    Default: the layer that aligns best, the mean over its heads. The bytes of one character are joined. The source's
    end mark has weight but no column: rows sum to at most 1.
    """
    names = cross_attentions(translator)
    if layer is not None and not 0 <= layer < len(names):
        raise RegardError(f"layer {layer}: the decoder has {len(names)}, counted from 0")
    found = translator.translate([text], beam=beam, alignments=True)[0]
    if not found.source_tokens or found.alignment is None:
        raise RegardError("nothing to look at: the text is empty")
    name = alignment_attention(translator.model) if layer is None else names[layer]
    weights = found.alignment
    if layer is not None or head is not None:
        weights = _recorded(translator, found, name, head)
    whose = "mean of the heads" if head is None else f"head {head}"
    title = f"{name}, {whose}"
    return found, characters(AttentionMap(weights, tuple(found.source_tokens), tuple(found.tokens), title))


def _recorded(translator: Translator, found: Translation, name: str, head: int | None) -> np.ndarray:
    """The weights of attention ``name`` for the same tokens, from one more forced pass."""
    if len(found.source_tokens) > translator.settings.max_length:
        raise RegardError(
            f"the text has {len(found.source_tokens)} subwords and is translated in parts of at most "
            f"{translator.settings.max_length}: a layer or head can be chosen for one part only; give a shorter text"
        )
    # Pieces and ids are one to one, so that these ids are those of the search.
    source = [translator.tokenizer.inner.token_to_id(piece) or 0 for piece in found.source_tokens]
    target = [translator.target_tokenizer.inner.token_to_id(piece) or 0 for piece in found.tokens]
    heads = None if head is None else [head]
    return alignments(translator.model, [source], [target], translator.settings, attention=name, heads=heads)[0]
