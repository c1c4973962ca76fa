"""The table of verbs, the overview, and what becomes of an error.

``regard --help`` is printed from the table itself: no verb, no Typer, no torch is imported for it. A verb is a
function with Typer's annotations, or a Typer app where it has verbs of its own, named here as "module:name".
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import regard
from regard import __version__
from regard.errors import RegardError, RegardWarning, nearest
from regard.terminal import printable


class Verb(NamedTuple):
    """Where a verb's function stands, and its line in the overview."""

    where: str
    summary: str


VERBS: dict[str, Verb] = {
    "demo": Verb("regard.cli.demo:demo", "translate at once with the packaged zh→en model, then train one"),
    "train": Verb("regard.cli.train:train", "train a translator from a configuration or from two text files"),
    "translate": Verb("regard.cli.translate:translate", "translate lines of a file or of standard input"),
    "serve": Verb("regard.cli.serve:serve", "translate over HTTP, sentences of all requests together"),
    "evaluate": Verb("regard.cli.evaluate:evaluate", "BLEU, chrF and perplexity on a test set; compare two systems"),
    "score": Verb("regard.cli.score:score", "log-probabilities of given translations"),
    "look": Verb("regard.cli.look:look", "what the model attends to, drawn"),
    "average": Verb("regard.cli.average:average", "average checkpoints of a run into a model"),
    "shortlist": Verb("regard.cli.shortlist:shortlist", "learn what a sentence can be translated with, for speed"),
    "params": Verb("regard.cli.params:params", "where the parameters of a model are"),
    "bench": Verb("regard.cli.bench:bench", "this machine's speed, as a share of its limit"),
}

OUT_OF_MEMORY = "out of memory: smaller batches need less (--batch-tokens), and so do narrower beams (--beam)"
EXAMPLES = """\
  regard demo
  regard train train.zh train.en --minutes 30
  echo 我爱机器学习 | regard translate zh-en
  regard evaluate runs/zh-en --source test.zh --reference test.en
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code.

    0, 1 where ``train --prove-resume`` finds a difference, 2 for a user's error, 130 for Ctrl-C, 141 where the reader
    of the output is gone.
    """
    if arguments is None:
        _speak_utf8()
        _stop_imports_at_once()
    given = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        # Text in any language comes out whole, whatever the locale says.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        code = _dispatch(given)
        sys.stdout.flush()
        return code
    except RegardError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        print("regard: stopped", file=sys.stderr)
        return 130
    except OSError as error:
        if error.errno == errno.EPIPE:
            return _hang_up()
        if os.environ.get("REGARD_DEBUG"):
            raise
        name = f"{error.filename}: " if error.filename else ""
        return _fail(f"{name}{error.strerror or error}")
    except MemoryError:
        return _fail(OUT_OF_MEMORY)
    except RuntimeError as error:  # as PyTorch says it
        if not any(words in str(error) for words in ("out of memory", "can't allocate memory")):
            raise
        return _fail(OUT_OF_MEMORY)


def _speak_utf8() -> None:
    """Start again in Python's UTF-8 mode where the locale says otherwise.

    Under ASCII, GBK or Latin-1 Python decodes names of files by that encoding, and files that libraries open without
    naming one. On today's disks names are UTF-8, whatever the locale; other bytes pass through the mode unchanged.
    """
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1" and sys.platform != "win32":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [os.fsencode(word) for word in (sys.executable, *sys.orig_argv[1:])])


def _stop_imports_at_once() -> None:
    """Let Ctrl-C end a process that is importing: there a KeyboardInterrupt may be swallowed, or break the import."""

    def stop(number: int, frame: object) -> None:
        specs = [getattr(module, "__spec__", None) for module in list(sys.modules.values())]
        if any(getattr(spec, "_initializing", False) for spec in specs):
            os.write(2, b"regard: stopped\n")
            os._exit(130)  # nothing has been begun
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, stop)


def _dispatch(given: list[str]) -> int:
    if not given or given[0] in ("--help", "-h", "help"):
        if len(given) > 1 and given[0] == "help":
            return _run(given[1], ["--help"])
        print(overview())
        return 0
    if given[0] in ("--version", "-V"):
        print(f"regard {__version__}")
        return 0
    return _run(given[0], given[1:])


def _run(name: str, rest: list[str]) -> int:
    """Import the verb, let Typer read its arguments, and run it."""
    if name not in VERBS:
        raise RegardError(f"unknown verb '{name}'{nearest(name, VERBS)} (regard --help lists all)")
    import typer

    from regard.cli.once import refuse_repeats

    module, _, attribute = VERBS[name].where.partition(":")
    verb = getattr(importlib.import_module(module), attribute)
    if isinstance(verb, typer.Typer):
        app = verb
    else:
        app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)
        app.command(help=_paragraphs(verb.__doc__), context_settings={"help_option_names": ["--help", "-h"]})(verb)
    command = typer.main.get_command(app)
    try:
        refuse_repeats(command, name, rest)
        with _notices(), command.make_context(f"regard {name}", rest) as context:
            result = command.invoke(context)
    except typer.Exit as stop:
        return int(stop.exit_code)
    except Exception as error:
        # Typer's usage errors, whichever Click they come from, know how to say themselves in one line.
        if not hasattr(error, "format_message"):
            raise
        raise RegardError(f"{_one_line(error.format_message())} (regard {name} --help)") from None
    return result if isinstance(result, int) else 0


@contextlib.contextmanager
def _notices() -> Iterator[None]:
    """What the library warns of is one line for the person, once."""
    from regard.cli.common import talk

    with warnings.catch_warnings():
        warnings.simplefilter("once", RegardWarning)
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], filename: str, *rest: Any) -> None:
            # The parts in nn/ know nothing of regard's own kinds of warnings.
            if issubclass(category, RegardWarning) or filename.startswith(os.path.dirname(regard.__file__)):
                talk(f"regard: {message}")
            else:
                others(message, category, filename, *rest)

        warnings.showwarning = show  # type: ignore[assignment]
        yield


def _paragraphs(text: str | None) -> str:
    """A docstring whose lines are joined again, for a terminal of any width."""
    return "\n\n".join(" ".join(part.split()) for part in (text or "").split("\n\n"))


def _one_line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")


def _fail(message: str) -> int:
    try:
        sys.stdout.flush()
    except OSError:
        _hang_up()
    print(f"regard: error: {printable(message)}", file=sys.stderr)
    return 2


def _hang_up() -> int:
    """The reader of our output went away (``| head``): no message, and none from Python's last flush either."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(nowhere, stream.fileno())
    return 141


def overview() -> str:
    """What ``regard --help`` prints."""
    width = max(map(len, VERBS))
    lines = [f"  {name:<{width}}  {verb.summary}" for name, verb in VERBS.items()]
    return (
        "regard: Transformers that you can see through\n\n"
        "usage: regard VERB … (regard VERB --help: its options, with an example)\n\n"
        + "\n".join(lines)
        + f"\n\nexamples:\n{EXAMPLES}\n"
        + "MODEL is a model directory (a run is one) or the name of a packaged model.\n"
        + "Results go to standard output, talk to standard error; errors exit with 2."
    )
