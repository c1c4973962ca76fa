"""The command line: the table of verbs, the overview, and the handling of errors.

``regard --help`` is printed from the table, without importing a verb, Typer or PyTorch. A verb is a function with
Typer's annotations, or a Typer app if it has verbs of its own, named here as "module:name".
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
    """A verb's function, "module:name", and its line in the overview."""

    where: str
    summary: str


VERBS: dict[str, Verb] = {
    "demo": Verb("regard.cli.demo:demo", "translate at once with the packaged zh→en model, then train one"),
    "train": Verb("regard.cli.train:train", "train a translator, a language model, a masked model or a classifier"),
    "translate": Verb("regard.cli.translate:translate", "translate lines of a file or of standard input"),
    "generate": Verb("regard.cli.generate:generate", "continue a prompt, or each line of a file, by a language model"),
    "classify": Verb("regard.cli.classify:classify", "label the lines of a file or of standard input"),
    "tag": Verb("regard.cli.tag:tag", "tag the words of texts: names of people, parts of speech"),
    "fill": Verb("regard.cli.fill:fill", "fill in masked words, with their probabilities"),
    "serve": Verb("regard.cli.serve:serve", "translate over HTTP, sentences of all requests together"),
    "evaluate": Verb("regard.cli.evaluate:evaluate", "the scores of a model on a test set; compare two systems"),
    "score": Verb("regard.cli.score:score", "log-probabilities of given translations"),
    "look": Verb("regard.cli.look:look", "draw what the model attends to"),
    "average": Verb("regard.cli.average:average", "average checkpoints of a run into a model"),
    "shortlist": Verb("regard.cli.shortlist:shortlist", "learn which subwords may translate a sentence, for speed"),
    "params": Verb("regard.cli.params:params", "where the parameters of a model are"),
    "bench": Verb("regard.cli.bench:bench", "this machine's speed, as a share of its limit"),
}

OUT_OF_MEMORY = "out of memory: smaller batches need less (--batch-tokens), and so do narrower beams (--beam)"
EXAMPLES = """\
  regard demo
  regard train train.zh train.en --minutes 30
  regard train plays.txt && regard generate runs/plays --prompt "The king"
  regard train reviews.tsv && regard classify runs/reviews new.txt
  echo 我爱机器学习 | regard translate zh-en
  regard evaluate runs/zh-en --source test.zh --reference test.en
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code.

    Codes: 0, 1 if ``train --prove-resume`` finds a difference, 2 for a user's error, 130 for Ctrl-C, 141 if the reader
    of the output is gone.
    """
    if arguments is None:
        _speak_utf8()
        _stop_imports_at_once()
    given = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        # Print any language, whatever the locale.
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
    except RuntimeError as error:  # PyTorch's form of it
        if not any(words in str(error) for words in ("out of memory", "can't allocate memory")):
            raise
        return _fail(OUT_OF_MEMORY)


def _speak_utf8() -> None:
    """Restart the process in Python's UTF-8 mode if the locale has another encoding.

    Python would decode names of files by the locale (ASCII, GBK, Latin-1), and also files that libraries open without
    an encoding. Names on today's disks are UTF-8, whatever the locale; other bytes pass through the mode unchanged.
    """
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1" and sys.platform != "win32":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [os.fsencode(word) for word in (sys.executable, *sys.orig_argv[1:])])


def _stop_imports_at_once() -> None:
    """End a process at once if Ctrl-C comes during an import, which may swallow a KeyboardInterrupt."""

    def stop(number: int, frame: object) -> None:
        specs = [getattr(module, "__spec__", None) for module in list(sys.modules.values())]
        if any(getattr(spec, "_initializing", False) for spec in specs):
            os.write(2, b"regard: stopped\n")
            os._exit(130)  # nothing has started yet
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
        # Usage errors of Typer or of any Click have format_message.
        if not hasattr(error, "format_message"):
            raise
        raise RegardError(f"{_one_line(error.format_message())} (regard {name} --help)") from None
    return result if isinstance(result, int) else 0


@contextlib.contextmanager
def _notices() -> Iterator[None]:
    """Print each of the library's warnings as one line, once."""
    from regard.cli.common import talk

    with warnings.catch_warnings():
        warnings.simplefilter("once", RegardWarning)
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], filename: str, *rest: Any) -> None:
            # nn/ does not import RegardWarning.
            if issubclass(category, RegardWarning) or filename.startswith(os.path.dirname(regard.__file__)):
                talk(f"regard: {message}")
            else:
                others(message, category, filename, *rest)

        warnings.showwarning = show  # type: ignore[assignment]
        yield


def _paragraphs(text: str | None) -> str:
    """A docstring with joined lines, for a terminal of any width."""
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
    """End silently when the reader of the output is gone (``| head``); Python's last flush prints nothing either."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(nowhere, stream.fileno())
    return 141


def overview() -> str:
    """The text of ``regard --help``."""
    width = max(map(len, VERBS))
    lines = [f"  {name:<{width}}  {verb.summary}" for name, verb in VERBS.items()]
    return (
        "regard: Transformers that you can see through\n\n"
        "usage: regard VERB … (regard VERB --help: its options, with an example)\n\n"
        + "\n".join(lines)
        + f"\n\nexamples:\n{EXAMPLES}\n"
        + "MODEL is a model directory (a run is one), a folder of save_pretrained or its ORG/NAME in the local cache,\n"
        + "or the name of a packaged model.\n"
        + "Results go to standard output, talk to standard error; errors exit with 2."
    )
