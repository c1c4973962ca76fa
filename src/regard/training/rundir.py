"""The run directory: its lock, its configuration, and the files of an earlier run."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from regard import directory, files, manifest, regular
from regard.config import Config, read_config, to_toml
from regard.data.examples import files_of
from regard.errors import RegardError
from regard.model_folder import CARD
from regard.surrogates import has_half
from regard.tasks import task_named
from regard.training import checkpoint, previous
from regard.training.distributed import Group
from regard.training.metrics import METRICS, TENSORBOARD, TIMING
from regard.training.snapshots import SNAPSHOTS
from regard.weights import WEIGHTS

if TYPE_CHECKING:
    from regard.data.holdout import Split

CONFIG, CHECKPOINTS, DATA, CORPUS = "run.toml", "checkpoints", "data", "corpus"

# The names that a new run replaces. Shards (``data/``) and held-out pairs (``corpus/``) are handled apart.
_FOLDERS = (CHECKPOINTS, SNAPSHOTS, TENSORBOARD)
_FILES = (
    CONFIG,
    METRICS,
    TIMING,
    directory.CONFIG,
    WEIGHTS,
    directory.TEXT,
    directory.TOKENIZER,
    directory.TARGET_TOKENIZER,
    CARD,
    manifest.MANIFEST,
)
_OF_RUN = (*_FOLDERS, *_FILES)
_BUSY = "{run}: another training is writing to it; wait for it or choose another folder"

# Settings that may change when a run is resumed. Corpora and the initial model may be named anew, since their
# fingerprints are compared.
CHANGEABLE = {
    "training.steps",
    "training.minutes",
    "training.patience",
    "training.keep_checkpoints",
    "training.save_every",
    "training.threads",
    "training.log_every",
    "training.samples",
    "training.init",
    "data.train",
    "data.valid",
    "data.test",
    "data.cache",
    "decoding",
}


@contextlib.contextmanager
def opened(run: Path, config: Config, *, resume: bool, force: bool, hold_out: Split | None = None) -> Iterator[None]:
    """Lock the run directory and prepare it for a new run or a resumed one.

    ``hold_out`` is written to the new run's ``corpus/``. If a new run ends before its first checkpoint, the earlier run
    is put back; if its preparation fails, its files are removed.
    """
    _check_names(run, config)
    for name in (*_FOLDERS, DATA, CORPUS):
        if (run / name).is_symlink() and not _inside(run / name, run):
            raise RegardError(f"{run / name}: is a link out of the run; link the run as a whole instead")
    if run.exists() and not run.is_dir():
        raise RegardError(f"{run}: expected a run directory, found a file")
    if resume and not run.is_dir():
        raise RegardError(f"{run}: no run to go on with: it has no {CONFIG}")
    if not (resume or force):
        refuse_occupied(run)
    with files.writing(run):
        run.mkdir(parents=True, exist_ok=True)
    with files.locked(run / ".lock", _BUSY.format(run=run)):
        _settle(run)
        if resume:
            check_same(read_run(run), config, run)
            yield
            return
        names, begun = _names_taken(run, config, hold_out), False
        try:
            previous.set_aside(run, names)
            begun = True
            if hold_out is not None:
                hold_out.write(run / CORPUS)
            write_config(run, config)
            yield
        except BaseException:
            if begun and not previous.exists(run) and not (run / METRICS).exists():
                previous.remove(run, names)
            raise
        finally:
            _settle(run)


def _check_names(run: Path, config: Config) -> None:
    """Raise for names that are not UTF-8, which neither run.toml nor the card can hold."""

    def check(name: str) -> str:
        if has_half(name):  # Python's surrogateescape of such bytes
            raise RegardError(f"{name}: the name is not UTF-8; rename the file or folder")
        return name

    check(str(run))
    _renamed(config, check)


def refuse_occupied(run: Path) -> None:
    """Raise if the directory already holds a run or a model."""
    for name in (*_OF_RUN, previous.FOLDER, previous.MOVING):
        if (run / name).exists():
            raise RegardError(
                f"{run}: already holds a run or model ({name}); go on with: regard train --resume {quote(str(run))}, "
                "or replace it with --force"
            )


def settle(run: Path) -> None:
    """Complete an interrupted move of an earlier run, unless a training is writing there."""
    if not Group.from_environment().first:
        end = time.monotonic() + 60.0
        while previous.exists(run) and time.monotonic() < end:  # the first process completes it
            time.sleep(0.05)
    elif previous.exists(run):
        with files.locked(run / ".lock", _BUSY.format(run=run)):
            _settle(run)


def _settle(run: Path) -> None:
    """Leave the files of one run: writes and moves of killed processes are completed or removed."""
    previous.settle(run, has_checkpoint=bool(checkpoint.steps(run)), known=[*_OF_RUN, CORPUS])
    files.finish(run)
    files.sweep(run)


def _names_taken(run: Path, config: Config, hold_out: Split | None) -> list[str]:
    """The names that a new run replaces; an error if those are not a run's files, or the new run reads them."""
    occupied = [name for name in _OF_RUN if (run / name).exists()]
    if occupied and not any((run / name).exists() for name in (CONFIG, CHECKPOINTS, manifest.MANIFEST)):
        raise RegardError(f"{run}: {occupied[0]} is there, but no run or model: --force does not write over it")
    names, whole = [*_OF_RUN, CORPUS], run.resolve()
    read = [Path(path).resolve() for path in _read(config, hold_out)]
    own = _wrote(run / CORPUS)
    if hold_out is None and (not own or any(path.is_relative_to(whole / CORPUS) for path in read)):
        names.remove(CORPUS)  # the user's own folder, or the earlier run's corpus, which the new run reads
    for path in read:
        if path == whole or any(path.is_relative_to(whole / name) for name in names):
            raise RegardError(f"{run}: the new run reads {path}, which it would write over; choose another folder (-o)")
    if hold_out is not None and (run / CORPUS).exists() and not own:
        raise RegardError(f"{run / CORPUS}: is there already, and no training wrote it; choose another folder (-o)")
    return names


def _inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _wrote(corpus: Path) -> bool:
    """Whether every file of the folder was written by a training that held pairs out."""
    try:
        listed = regular.read_json(corpus / manifest.MANIFEST).get("files")
    except RegardError:
        return False
    return isinstance(listed, dict) and {path.name for path in corpus.iterdir()} == {*listed, manifest.MANIFEST}


def _read(config: Config, hold_out: Split | None) -> list[str]:
    """The files and folders that a new run reads."""
    data = config.data
    init = [config.training.init] if config.training.init else []
    if hold_out is not None:
        return [*hold_out.files, *init]
    entries = [*data.train, data.valid, *([data.test] if data.test else [])]
    columns = task_named(config.task).columns(data)
    return [*(path for entry in entries for path in files_of(entry, data, columns)), *init]


# --- the configuration ----------------------------------------------------------------------------------------------

_RUN = "$RUN"


def read_run(run: Path, overrides: Sequence[str] = (), **tables: Mapping[str, Any] | int | str) -> Config:
    """The configuration of a run, with the present paths of files inside the run."""
    if not (run / CONFIG).is_file():
        raise RegardError(f"{run}: no run to go on with: it has no {CONFIG}")
    return read_file(run / CONFIG, overrides, **tables)


def read_file(path: Path, overrides: Sequence[str] = (), **tables: Mapping[str, Any] | int | str) -> Config:
    """A configuration file, in which ``$RUN/…`` is a path relative to it."""

    def place(name: str) -> str:
        return str(path.parent / name[len(_RUN) + 1 :]) if name.startswith(f"{_RUN}/") else name

    return _renamed(read_config(path, overrides, **tables), place)


def write_config(run: Path, config: Config) -> None:
    """Write run.toml, with relative paths (``$RUN/…``) inside the run, so that a run can be moved."""
    whole = run.resolve()

    def portable(name: str) -> str:
        path = Path(name)
        # A name without a folder may be a packaged model, or two files with a comma in an old configuration.
        if not path.parent.name or name.startswith("$") or not path.resolve().is_relative_to(whole):
            return name
        return f"{_RUN}/{path.resolve().relative_to(whole)}"

    files.write_atomic(run / CONFIG, to_toml(_renamed(config, portable)).encode())


def _renamed(config: Config, rename: Callable[[str], str]) -> Config:
    """The configuration with the paths of corpora, cache and initial model renamed."""
    data = {name: _each(getattr(config.data, name), rename) for name in ("train", "valid", "test", "cache")}
    training = dataclasses.replace(config.training, init=rename(config.training.init))
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **data), training=training)


def _each(value: Any, rename: Callable[[str], str]) -> Any:
    return rename(value) if isinstance(value, str) else tuple(_each(item, rename) for item in value)


def check_same(before: Config, now: Config, run: Path) -> None:
    """Raise for the first changed setting that may not change within a run."""
    old, new = _flat(before), _flat(now)
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) == new.get(key) or key in CHANGEABLE or key.partition(".")[0] in CHANGEABLE:
            continue
        began = f"with {old[key]!r}" if key in old else "without it"
        raise RegardError(
            f"{run}: cannot go on with {key} = {new.get(key)!r}: the run was begun {began}; "
            "begin a new run for another value"
        )


def _flat(config: Config) -> dict[str, Any]:
    tables = dataclasses.asdict(config)
    flat: dict[str, Any] = {key: tables.pop(key) for key in ("seed", "task")}
    for table, values in tables.items():
        flat |= {f"{table}.{key}": value for key, value in values.items()}
    return flat
