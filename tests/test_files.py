"""The write protocol: old or new, never neither, never a mixture; and what readers say of damage."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from regard import files, manifest, regular
from regard.errors import RegardError

WRITE = """
import sys
from pathlib import Path
from regard import files
content = sys.argv[2].encode()
def writer(folder):
    for name in "abc":
        files.write(folder / name, name.encode() + content)
files.write_folder(Path(sys.argv[1]), writer)
"""


def fill(content: str, names: str = "abc"):
    def writer(folder: Path) -> None:
        for name in names:
            (folder / name).write_text(name + content)

    return writer


def contents(folder: Path) -> set[str]:
    """The versions that a reader finds: one element when the folder is whole."""
    where = files.current(folder)
    hashes = manifest.verify(where)
    return {(where / name).read_text()[1:] for name in hashes}


def test_folder_is_written_with_a_manifest(tmp_path: Path) -> None:
    files.write_folder(tmp_path / "step-1", fill("one"))
    assert contents(tmp_path / "step-1") == {"one"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-1"]


def test_existing_folder_keeps_what_is_not_its_own(tmp_path: Path) -> None:
    run = tmp_path / "run"
    files.write_folder(run, fill("one", "abcd"))
    (run / "metrics.jsonl").write_text("kept")
    files.write_folder(run, fill("two", "abc"))
    assert contents(run) == {"two"}
    assert sorted(path.name for path in run.iterdir()) == ["a", "b", "c", "manifest.json", "metrics.jsonl"]


POINTS = ["begin", "written", "synced", "manifest", "renamed", "placed", "placed#2", "placed#4", "end"]


@pytest.mark.parametrize("name", POINTS)
@pytest.mark.parametrize("there", [True, False])
def test_a_kill_leaves_old_or_new(tmp_path: Path, name: str, there: bool) -> None:
    target = tmp_path / "folder"
    if there:
        files.write_folder(target, fill("old"))
    environment = {**os.environ, files.STOP_AT: f"save:{name}"}
    command = [sys.executable, "-c", WRITE, str(target), "new"]
    code = subprocess.run(command, env=environment).returncode
    assert code == (0 if "placed" in name and not there else -signal.SIGKILL)
    if there:
        expected = {"old"} if name in ("begin", "written", "synced", "manifest") else {"new"}
        assert contents(target) == expected
    else:
        assert target.exists() == (name in ("renamed", "end") or code == 0)
    files.write_folder(target, fill("next"))
    assert contents(target) == {"next"}
    files.sweep(tmp_path)
    files.sweep(target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder"]
    assert sorted(path.name for path in target.iterdir()) == ["a", "b", "c", "manifest.json"]


def test_everything_is_synced_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill leaves the page cache whole, so the order of fsync and rename is looked at directly."""
    log: list[str] = []
    opened: dict[int, str] = {}
    real_open, real_sync, real_rename = os.open, os.fsync, os.rename

    def tracked_open(path, flags, *rest, **keywords):  # type: ignore[no-untyped-def]
        handle = real_open(path, flags, *rest, **keywords)
        opened[handle] = Path(path).name
        return handle

    def tracked_sync(handle: int) -> None:
        log.append(f"sync {Path(os.readlink(f'/proc/self/fd/{handle}')).name}")
        real_sync(handle)

    def tracked_rename(source, target) -> None:  # type: ignore[no-untyped-def]
        log.append(f"rename {Path(target).name}")
        real_rename(source, target)

    monkeypatch.setattr(os, "open", tracked_open)
    monkeypatch.setattr(os, "fsync", tracked_sync)
    monkeypatch.setattr(os, "rename", tracked_rename)
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("no /proc to read the names from")
    files.write_folder(tmp_path / "step-1", fill("one"))
    rename = log.index("rename step-1")
    before, after = log[:rename], log[rename + 1 :]
    assert {"sync a", "sync b", "sync c"} <= set(before[: before.index("sync manifest.json")])
    assert before[-1] == "sync .step-1.partial"
    assert after == [f"sync {tmp_path.name}"]


def test_failure_keeps_the_old_and_leaves_no_litter(tmp_path: Path) -> None:
    def fails(folder: Path) -> None:
        (folder / "a").write_text("anew")
        with files.writing(folder / "b", 12345):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for target in (tmp_path / "there", tmp_path / "not"):
        if target.name == "there":
            files.write_folder(target, fill("old"))
        with pytest.raises(RegardError, match=rf"{target.name}/b: cannot be written: no space .*12,345 bytes needed"):
            files.write_folder(target, fails)
    assert contents(tmp_path / "there") == {"old"}
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert not list(tmp_path.rglob("*.partial"))


def test_remove_folder_and_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write_folder(tmp_path / "step-1", fill("one"))
    files.write_folder(tmp_path / "step-2", fill("two"))
    command = "import sys; from pathlib import Path; from regard import files; files.remove_folder(Path(sys.argv[1]))"
    environment = {**os.environ, files.STOP_AT: "rotate:file#2"}
    killed = subprocess.run([sys.executable, "-c", command, str(tmp_path / "step-1")], env=environment)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "step-1").exists()
    assert [path.name for path in files.sweep(tmp_path)] == [".step-1.partial"]
    assert [path.name for path in tmp_path.iterdir()] == ["step-2"]


def test_write_atomic(tmp_path: Path) -> None:
    files.write_atomic(tmp_path / "new" / "file.json", b"{}")
    files.write_atomic(tmp_path / "new" / "file.json", b'{"a": 1}')
    assert regular.read_json(tmp_path / "new" / "file.json") == {"a": 1}
    assert len(list((tmp_path / "new").iterdir())) == 1


@pytest.mark.parametrize("damage", ["flip", "truncate", "append", "missing", "swap", "stale"])
@pytest.mark.parametrize("name", ["a", "b", "manifest.json"])
def test_damage_is_found(tmp_path: Path, damage: str, name: str) -> None:
    folder = tmp_path / "folder"
    files.write_folder(folder, fill("one"))
    files.write_folder(tmp_path / "other", fill("two"))
    path = folder / name
    data = path.read_bytes()
    if damage == "flip":
        for position in range(len(data)):
            for bit in range(8):
                broken = bytearray(data)
                broken[position] ^= 1 << bit
                path.write_bytes(broken)
                if name == "manifest.json" and same_json(broken, data):
                    continue  # one kind of white space for another, or an escape: the same manifest
                with pytest.raises(RegardError, match="folder"):
                    manifest.verify(folder)
        return
    if damage == "missing":
        path.unlink()
    elif damage == "swap":
        (folder / "c").rename(folder / "x")
        path.rename(folder / "c")
        (folder / "x").rename(path)
    else:
        changed = {"truncate": data[:-2], "append": data + b"x", "stale": (tmp_path / "other" / name).read_bytes()}
        path.write_bytes(changed[damage])
    with pytest.raises(RegardError, match="folder"):
        manifest.verify(folder)


def same_json(first: bytes, second: bytes) -> bool:
    try:
        return json.loads(first) == json.loads(second)
    except ValueError:
        return False


@pytest.mark.parametrize("name", ["/etc/hostname", "../outside", "a/../../outside", ""])
def test_a_manifest_cannot_name_files_outside(tmp_path: Path, name: str) -> None:
    (tmp_path / "outside").write_text("x")
    files.write_folder(tmp_path / "folder", fill("one"))
    listed = {"format_version": 1, "files": {name: {"bytes": 1, "sha256": manifest.sha256(tmp_path / "outside")}}}
    (tmp_path / "folder" / "manifest.json").write_text(json.dumps(listed))
    with pytest.raises(RegardError, match="damaged"):
        manifest.verify(tmp_path / "folder")
    files.write_folder(tmp_path / "folder", fill("two"))
    assert (tmp_path / "outside").exists()


def listed(folder: Path, entries: dict[str, tuple[int, str]]) -> None:
    made = {name: {"bytes": size, "sha256": digest} for name, (size, digest) in entries.items()}
    (folder / "manifest.json").write_text(json.dumps({"format_version": 1, "files": made}), "utf-8")


@pytest.mark.skipif(not hasattr(os, "SEEK_HOLE"), reason="a file system with holes")
@pytest.mark.parametrize("begins", [b"", b"x" * 9000])
def test_no_hours_are_lost_to_a_hole_of_a_terabyte(tmp_path: Path, begins: bytes) -> None:
    (tmp_path / "weights").write_bytes(begins)
    os.truncate(tmp_path / "weights", 1 << 40)  # it takes no room on the disk
    listed(tmp_path, {"weights": (1 << 40, "0" * 64)})
    with pytest.raises(RegardError, match="weights: damaged: of its 1,099,511,627,776 bytes nearly none"):
        manifest.verify(tmp_path)


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_no_hours_are_lost_to_many_names_of_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, link: Callable[[Path, Path], None]
) -> None:
    (tmp_path / "weights").write_bytes(b"x" * 1000)
    digest, read = manifest.sha256(tmp_path / "weights"), []
    for number in range(50):
        link(tmp_path / "weights", tmp_path / f"{number}")
    listed(tmp_path, dict.fromkeys(("weights", *map(str, range(50))), (1000, digest)))
    real = manifest.hashlib.file_digest

    def counting(file: Any, name: Any) -> Any:
        read.append(name)
        return real(file, name)

    monkeypatch.setattr(manifest.hashlib, "file_digest", counting)
    assert set(manifest.verify(tmp_path).values()) == {digest} and len(read) == 1
    listed(tmp_path, {"weights": (1000, digest), "7": (1000, "0" * 64)})
    with pytest.raises(RegardError, match="7: damaged: its SHA-256"):
        manifest.verify(tmp_path)


def test_a_manifest_of_countless_files_is_refused_before_any_is_read(tmp_path: Path) -> None:
    listed(tmp_path, {f"{number}": (1, "0" * 64) for number in range(10_001)})
    with pytest.raises(RegardError, match="it lists 10,001 files, expected at most 10,000"):
        manifest.verify(tmp_path)


@pytest.mark.parametrize("text", ["", "[", "[]", '{"a": NaN}', "[" * 150_000, '{"a": ' + "9" * 5000 + "}", "\ud800"])
def test_json_that_is_not(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(RegardError, match=r"x\.json"):
        regular.read_json(tmp_path / "x.json")


def test_lock(tmp_path: Path) -> None:
    path = tmp_path / "run" / ".lock"
    with files.locked(path), pytest.raises(RegardError, match="busy"), files.locked(path, "busy"):
        pass
    with files.locked(path, "busy"):
        pass
