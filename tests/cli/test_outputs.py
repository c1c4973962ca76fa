"""No time is lost on what is refused in the end: outputs and options come first, and what is known is told."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from regard import directory
from regard.cli.common import files_of_model
from regard.cli.main import main
from regard.errors import RegardError
from regard.outputs import check_output, write_output

from .conftest import Regard, refused

SETS = ("--source", "test.zh", "--reference", "test.en")
NO_MODEL = "no-such-model"  # of which nothing is heard where something else is refused first


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["evaluate", NO_MODEL, *SETS, "-o", "."], ".: is a folder"),
        (["evaluate", NO_MODEL, *SETS, "-o", "test.zh/out"], "test.zh/out: cannot be written: Not a directory"),
        (["evaluate", NO_MODEL, *SETS, "-o", "x" * 250], "cannot be written: File name too long"),
        (["evaluate", NO_MODEL, *SETS, "-o", "./test.en"], "test.en: is read as well"),
        (["evaluate", NO_MODEL, *SETS, "-o", "valid.en", "--compare", "valid.en"], "valid.en: is read as well"),
        (["evaluate", NO_MODEL, *SETS, "--compare", "valid.en"], "valid.en has 40 lines, expected 60"),
        (["evaluate", NO_MODEL, *SETS, "--compare", "nosuch"], "nosuch: no such"),
        (["evaluate", NO_MODEL, *SETS, "--length-penalty", "wu:1"], "gnmt"),
        (["evaluate", NO_MODEL, *SETS, "--backend", "marian"], "backend 'marian'"),
        (["evaluate", NO_MODEL, *SETS, "--shortlist", "nosuch"], "nosuch: no such file"),
        (["shortlist", NO_MODEL, "test.zh/list", "--source", "test.zh", "--target", "test.en"], "Not a directory"),
        (["shortlist", NO_MODEL, "test.en", "--source", "test.zh", "--target", "test.en"], "is read as well"),
        (["look", NO_MODEL, "一", "--png", "test.zh/a.png"], "Not a directory"),
        (["bench", "decode", NO_MODEL, "--png", "test.zh/a.png"], "Not a directory"),
        (["bench", "decode", NO_MODEL, "--source", "nosuch"], "nosuch: no such file"),
        (["bench", "serve", NO_MODEL, "--source", "nosuch"], "nosuch: no such file"),
        (["bench", "train", "--png", "test.zh/a.png"], "Not a directory"),
        (["average", NO_MODEL, "test.zh"], "test.zh: is there already"),
        (["average", NO_MODEL, "test.zh/out"], "Not a directory"),
        (["demo", "--run", "test.zh/run", "--model", NO_MODEL], "Not a directory"),
        (["translate", NO_MODEL, "nosuch"], "nosuch: no such file"),
        (["translate", NO_MODEL, "--n-best", "9"], "n-best"),
        (["score", NO_MODEL, "--source", "test.zh", "--target", "nosuch"], "nosuch: no such file"),
    ],
)
def test_no_model_is_loaded_for_what_is_refused(
    workshop: Path, regard: Regard, arguments: list[str], expected: str
) -> None:
    before = {path: path.read_bytes() for path in workshop.iterdir() if path.is_file()}
    assert expected in refused(regard(*arguments, cwd=workshop))
    assert {path: path.read_bytes() for path in workshop.iterdir() if path.is_file()} == before


@pytest.mark.parametrize(
    ("arguments", "lost"),
    [
        (["evaluate", "MODEL", *SETS, "-o", "list", "--shortlist", "list"], "list"),
        (["evaluate", "MODEL", *SETS, "-o", "MODEL/config.json"], "MODEL/config.json"),
        (["evaluate", "MODEL", *SETS, "-o", "MODEL/run.toml"], "MODEL/run.toml"),
        (["evaluate", "zh-en", *SETS, "-o", "MODEL/model.safetensors", "--compare", "MODEL"], "MODEL"),
        (["evaluate", "MODEL", *SETS, "-o", "link"], "link"),
        (["evaluate", "MODEL", *SETS, "-o", "CHECKPOINT"], "checkpoints"),
        (["shortlist", "MODEL", "MODEL/text.json", "--source", "test.zh", "--target", "test.en"], "MODEL/text.json"),
    ],
)
def test_no_model_and_no_shortlist_is_lost_to_an_output(
    workshop: Path, model: Path, tmp_path: Path, arguments: list[str], lost: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process: one that ends at once needs no other."""
    run = Path(shutil.copytree(model, tmp_path / "run"))
    (tmp_path / "list").write_text("a list", "utf-8")
    (tmp_path / "link").symlink_to("run/config.json")
    places = {
        "MODEL": run,
        "CHECKPOINT": next((run / "checkpoints").rglob("manifest.json")),
        "test.": f"{workshop}/test.",
    }
    for name, place in places.items():
        arguments = [word.replace(name, str(place)) for word in arguments]
    arguments = [str(tmp_path / word) if word in ("list", "link") else word for word in arguments]
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert "is read as well; choose another file to write" in said
    assert lost.replace("MODEL", "run") in said
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_no_packaged_model_is_lost_to_an_output() -> None:
    with pytest.raises(RegardError, match="is read as well"):
        check_output(directory.find("zh-en") / "model.safetensors", files_of_model("zh-en"))


def test_no_shard_and_no_file_of_a_published_folder_is_lost_to_an_output(tmp_path: Path) -> None:
    shards = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    (tmp_path / "config.json").write_text('{"model_type": "marian"}', "utf-8")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}), "utf-8")
    for name in (*shards.values(), "generation_config.json", "model.safetensors.index.json"):
        (tmp_path / name).touch()
        with pytest.raises(RegardError, match="is read as well"):
            check_output(tmp_path / name, files_of_model(str(tmp_path)))


def test_what_a_user_keeps_beside_a_model_may_be_replaced(model: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(model, tmp_path / "run"))
    (run / "translations.en").write_text("old", "utf-8")
    check_output(run / "translations.en", files_of_model(str(run)))


def test_no_decoding_is_lost_to_a_package_that_is_missing(workshop: Path, regard: Regard, tmp_path: Path) -> None:
    (tmp_path / "sacremoses.py").write_text("raise ImportError\n", "utf-8")
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = regard("evaluate", NO_MODEL, *SETS, "--published", cwd=workshop, PYTHONPATH=paths)
    assert "pip install sacremoses" in refused(done)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a disk that is always full")
def test_no_score_is_lost_with_translations_that_cannot_be_written(workshop: Path, model: Path, regard: Regard) -> None:
    for json_too in ([], ["--json"]):
        done = regard("evaluate", model, *SETS, "-o", "/dev/full", "--worst", 1, *json_too, cwd=workshop)
        assert "/dev/full: cannot be written: No space left" in refused(done)
        assert b"BLEU" in done.stdout or json.loads(done.stdout)["bleu"] > 50
        assert b"worst" in done.stdout or b"line " in done.stdout
    assert not Path("/dev/full").is_file(), "a device stays one"


def test_no_score_is_lost_with_a_later_part_that_fails(workshop: Path, regard: Regard, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import regard.pipelines as p\nfrom regard.errors import RegardError\n"
        "def fail(*a, **b): raise RegardError('too long to be scored')\np.Translator.score = fail\n",
        "utf-8",
    )
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    for json_too in ([], ["--json"]):
        done = regard("evaluate", "runs/tiny", *SETS, *json_too, cwd=workshop, PYTHONPATH=paths)
        assert "too long to be scored" in refused(done)
        assert b"BLEU" in done.stdout or json.loads(done.stdout)["bleu"] > 50


def test_an_output_is_replaced_whole_and_links_and_pipes_stay(
    workshop: Path, model: Path, regard: Regard, tmp_path: Path
) -> None:
    (tmp_path / "old").write_text("old", "utf-8")
    (tmp_path / "link").symlink_to("old")
    done = regard("evaluate", model, *SETS, "-o", tmp_path / "link", cwd=workshop)
    assert done.returncode == 0, done.stderr.decode()
    assert (tmp_path / "link").is_symlink() and len((tmp_path / "old").read_text("utf-8").splitlines()) == 60
    done = regard("evaluate", model, *SETS, "-o", "/dev/stdout", cwd=workshop)
    assert done.returncode == 0 and done.stdout.startswith((tmp_path / "old").read_bytes()) and b"BLEU" in done.stdout
    done = regard("evaluate", model, *SETS, "-o", tmp_path / "new" / "folder" / "out", cwd=workshop)
    assert done.returncode == 0 and (tmp_path / "new" / "folder" / "out").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "new", "old"]


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="descriptors have names")
@pytest.mark.parametrize(
    ("name", "to"),
    [
        ("/dev/stdout", "> out"),
        ("/dev/stdout", ">> out"),
        ("/dev/fd/1", "> out"),
        ("/proc/self/fd/1", "> out"),
        ("/dev/fd/3", "3> out >&3"),
        ("link", "> out"),
        ("out", "> out"),
        ("/dev/stderr", "> out 2>&1"),
    ],
)
def test_translations_and_scores_in_one_stream_do_not_overwrite_each_other(tmp_path: Path, name: str, to: str) -> None:
    (tmp_path / "link").symlink_to("/dev/stdout")
    program = (
        "import sys; from regard.outputs import check_output, write_output; print('first'); "
        "check_output(sys.argv[1]); write_output(sys.argv[1], b'translations\\n' * 9); print('scores')"
    )
    line = f'{sys.executable} -c "$1" {name} {to}'
    done = subprocess.run(["sh", "-c", line, "sh", program], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert (tmp_path / "out").read_text("utf-8") == "first\n" + "translations\n" * 9 + "scores\n"


def test_a_stream_that_is_only_read_is_no_output(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("kept", "utf-8")
    with open(tmp_path / "in", "rb") as file, pytest.raises(RegardError, match="cannot be written"):
        check_output(f"/dev/fd/{file.fileno()}")
    assert (tmp_path / "in").read_text("utf-8") == "kept"


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o755])
def test_a_file_that_others_may_not_read_stays_so_when_it_is_replaced(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "secret"
    path.write_text("old", "utf-8")
    path.chmod(mode)
    (tmp_path / "link").symlink_to("secret")
    (tmp_path / ".secret.partial").write_text("of a write that was killed", "utf-8")
    write_output(tmp_path / "link", b"new")
    assert path.read_text("utf-8") == "new" and path.stat().st_mode & 0o777 == mode
    assert sorted(one.name for one in tmp_path.iterdir()) == ["link", "secret"]


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["translate", NO_MODEL, "--device", "cpu", "--device=cuda"], "--device"),
        (["translate", NO_MODEL, "-b1", "--beam", "2"], "--beam"),
        (["score", NO_MODEL, "--source", "a", "--target", "b", "--target", "c"], "--target"),
        (["evaluate", NO_MODEL, "--source", "a", "--source", "b", "--reference", "c"], "--source"),
        (["train", "a.zh", "a.en", "--valid", "b", "--valid", "c"], "--valid"),
        (["train", "a.zh", "a.en", "--joint", "--no-joint"], "--joint/--no-joint"),
        (["train", "a.zh", "a.en", "--set", "training.steps=1", "--set", "training.steps = 2"], "--set training.steps"),
        (["bench", "decode", NO_MODEL, "--threads", "1", "--threads", "2"], "--threads"),
        (["serve", NO_MODEL, "--port", "1", "--port", "2"], "--port"),
    ],
)
def test_no_option_is_lost_to_its_repetition(regard: Regard, arguments: list[str], option: str) -> None:
    message = refused(regard(*arguments))
    assert option in message and "is given 2 times" in message


@pytest.mark.parametrize(
    ("flags", "key"),
    [
        (["--bf16", "--precision", "fp32"], "training.precision is given twice, as fp32 and bf16"),
        (["--steps", "5", "--set", "training.steps=6"], "training.steps is given twice, by a flag and by --set"),
        (["--preset", "base", "--set", "model.preset=tiny"], "model.preset is given twice"),
    ],
)
def test_no_key_is_lost_that_is_given_in_two_ways(
    workshop: Path, regard: Regard, tmp_path: Path, flags: list[str], key: str
) -> None:
    assert key in refused(regard("train", workshop / "tiny.toml", *flags, "-o", tmp_path / "run", cwd=workshop))
    assert not (tmp_path / "run").exists()


def test_several_references_are_all_used(workshop: Path, model: Path, regard: Regard, tmp_path: Path) -> None:
    import sacrebleu

    references = (workshop / "test.en").read_text("utf-8").splitlines()
    second = [" ".join([*line.split()[:1], "more"]) for line in references]
    (tmp_path / "second").write_text("".join(line + "\n" for line in second), "utf-8")
    shutil.copy(workshop / "test.en", tmp_path / "first")
    two = ("--source", "test.zh", "--reference", tmp_path / "first", "--reference", tmp_path / "second")
    options = ("--compare", "test.en", "--by-length", "--worst", 1, "-o", tmp_path / "out")
    done = regard("evaluate", model, *two, *options, "--json", cwd=workshop)
    assert done.returncode == 0, done.stderr.decode()
    report = json.loads(done.stdout)
    hypotheses = (tmp_path / "out").read_text("utf-8").splitlines()
    assert report["bleu"] == sacrebleu.corpus_bleu(hypotheses, [references, second]).score
    assert report["chrf"] == sacrebleu.corpus_chrf(hypotheses, [references, second]).score
    for signature in (report["bleu_signature"], report["chrf_signature"], report["compare"]["signature"]):
        assert signature.startswith("nrefs:2|")
    assert report["compare"]["b"] == report["bleu"] and len(report["worst"][0]["others"]) == 1
    text = regard("evaluate", model, *two, "--worst", 1, cwd=workshop).stdout.decode()
    assert text.count("\n  = ") == 2
    wrong = regard("evaluate", model, *two, "--reference", "valid.en", cwd=workshop)
    assert "test.zh has 60 lines and valid.en has 40" in refused(wrong)
