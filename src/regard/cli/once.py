"""Refuses an option that is given twice: the parser would silently take the last value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from regard.errors import RegardError


def refuse_repeats(command: Any, name: str, given: Sequence[str], parent: Any = None) -> None:
    """Raise if ``given`` repeats an option that takes one value; ``command`` is Typer's command ``name``.

    A group of commands has its own options, then the name of a command and that command's arguments.
    """
    context = command.context_class(command, info_name=name, parent=parent, **command.context_settings)
    _, rest, order = command.make_parser(context).parse_args(list(given))
    for option, times in Counter(order).items():
        if option.param_type_name == "option" and times > 1 and not (option.multiple or option.is_eager):
            flags = "/".join([*option.opts, *option.secondary_opts])
            raise RegardError(f"{flags} is given {times} times: expected once (regard {name} --help)")
    inner = getattr(command, "commands", {}).get(rest[0]) if rest else None
    if inner is not None:
        refuse_repeats(inner, f"{name} {rest[0]}", rest[1:], context)
