"""Under every locale names and texts in Chinese are read and written as they are."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import regard as package
from regard.config import read_config
from regard.tasks.translation import Translations
from regard.training.loop import train

from .conftest import PROGRAM, Regard, pairs, refused, write_corpus

# Python's own rescue from the ASCII locale is off, as it is where a locale is named that has an encoding.
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
OTHERS = {"zh_CN.GBK": "GBK", "zh_CN.GB18030": "GB18030", "zh_TW.BIG5": "BIG5", "en_US.ISO-8859-1": "ISO-8859-1"}


@pytest.fixture(scope="module")
def locales(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("locales")


def environment(name: str, folder: Path) -> Mapping[str, str]:
    """What makes a process speak a locale, which is made if this machine has its definition."""
    if name == "ASCII":
        return ASCII
    if not (folder / name).exists():
        maker = shutil.which("localedef")
        command = [maker or "false", "-i", name.partition(".")[0], "-f", OTHERS[name], str(folder / name)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip(f"localedef cannot make {name} here")
    return {**ASCII, "LC_ALL": name, "LOCPATH": str(folder)}


@pytest.mark.parametrize("name", ["ASCII", "zh_CN.GBK", *(pytest.param(n, marks=pytest.mark.slow) for n in OTHERS)])
def test_a_run_in_a_chinese_folder(name: str, locales: Path, tmp_path: Path, regard: Regard) -> None:
    env = environment(name, locales)
    (tmp_path / "数据").mkdir()
    write_corpus(tmp_path / "数据", "语料", pairs(120, seed=4))
    small = ("--set", "model.preset=tiny", "--set", "model.encoder_layers=1", "--set", "model.decoder_layers=1")
    quick = ("--steps", "2", "--save-every", "1", "--validate-every", "1", "--threads", "1", *small)
    done = regard("train", "数据/语料.zh", "数据/语料.en", "-o", "训练", *quick, cwd=tmp_path, **env)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode() == "训练\n"
    done = regard("train", "--resume", "训练", "--steps", "3", cwd=tmp_path, **env)
    assert done.returncode == 0 and "训练" in done.stderr.decode()
    said = regard("translate", "训练", "数据/语料.zh", cwd=tmp_path, **env)
    assert said.returncode == 0 and said.stdout.count(b"\n") == 120
    assert refused(regard("translate", "没有", cwd=tmp_path, **env)).startswith("没有: no such directory")


def test_a_library_in_a_chinese_folder(tmp_path: Path, model: Path) -> None:
    """In Python, where nobody starts again in UTF-8, and with a compiler that has to run."""
    place = tmp_path / "安装"
    shutil.copytree(Path(package.__file__).parent, place / "regard", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(model, tmp_path / "模型")
    code = (
        "import sys, regard; print(sys.getfilesystemencoding())\n"
        "from regard.accel import native; print(native.library() is not None)\n"
        "print(regard.load(sys.argv[1]).translate('一二')[0].text)"
    )
    env = {**os.environ, **ASCII, "PYTHONPATH": str(place), "XDG_CACHE_HOME": str(tmp_path / "缓存")}
    (tmp_path / "程序.py").write_text(code, "utf-8")
    done = subprocess.run([sys.executable, tmp_path / "程序.py", tmp_path / "模型"], env=env, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    first, has_kernels, text = done.stdout.decode().splitlines()
    assert first.startswith("ascii") and text == "one two"
    assert has_kernels == str(shutil.which("cc") is not None)


def test_a_name_that_is_not_utf8_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    write_corpus(tmp_path, "语料", pairs(120, seed=4))
    named = [os.fsencode(tmp_path) + b"/" + "练".encode("gbk") + ending for ending in (b".zh", b".en")]
    for path, language in zip(named, ("zh", "en"), strict=True):
        os.rename(tmp_path / f"语料.{language}", path)
    command = [os.fsencode(PROGRAM), b"train", *named, b"-o", b"run", b"--valid", named[0][:-3]]
    message = refused(subprocess.run(command, cwd=tmp_path, capture_output=True))
    assert "not UTF-8" in message and not (tmp_path / "run" / "run.toml").exists()


def test_a_fault_of_decoding_is_not_told_as_a_length(workshop: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(workshop)
    config = read_config(workshop / "tiny.toml", training={"steps": 1})

    def fail(self: Translations) -> None:
        "é".encode("ascii")

    monkeypatch.setattr(Translations, "rehearse", fail)
    with pytest.raises(UnicodeEncodeError):
        train(config, tmp_path / "run")
