"""An option that has one value is given once: of two values the parser would take the last and say nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from regard.errors import RegardError


def refuse_repeats(command: Any, name: str, given: Sequence[str], parent: Any = None) -> None:
    """Raise where ``given`` names an option twice that may be given once; ``command`` is Typer's, ``name`` its own.

    A command of commands has options of its own, then the name of one of them and what that is given.
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
