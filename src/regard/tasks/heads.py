"""The head of an encoder: the one that its task needs, as the configuration shapes it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from regard.errors import RegardError
from regard.models import registry
from regard.models.heads import Head


def with_head(options: Any, usual: Head, labels: tuple[str, ...], task: str) -> Any:
    """An encoder's options with its head, else the ``usual`` one, and the labels of the corpus.

    A RegardError names a head of another kind, or labels, in ``[model]``.
    """
    wanted = registry.kind_of("head", usual)
    if options.head is not None and type(options.head) is not type(usual):
        raise RegardError(
            f"model.head = '{registry.kind_of('head', options.head)}': expected {wanted}, the head of task = '{task}'"
        )
    if options.labels:
        reason = "the corpus names them" if labels else f"task = '{task}' has none"
        raise RegardError(f"model.labels = {options.labels!r:.60}: {reason}: leave it out")
    return replace(options, head=options.head or usual, labels=labels)
