"""The configuration: read, written, overridden; each wrong key or value named."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regard.config import TABLES, Config, DataConfig, TrainingConfig, options_table, read_config, to_toml
from regard.errors import RegardError

DATA = {"train": ["a", "b"], "valid": "v", "source": "zh", "target": "en"}


def read(*overrides: str, **tables: typing.Any) -> Config:
    return read_config(None, overrides, **{"data": DATA, **tables})


def test_every_key_has_help_and_a_default_of_its_type() -> None:
    rows = options_table()
    assert len(rows) == 2 + sum(len(dataclasses.fields(kind)) for kind in TABLES.values())
    for row in rows:
        assert row.help and row.help == row.help.strip() and not row.help.endswith("."), row.key


def test_what_is_written_reads_back_equal(tmp_path: Path) -> None:
    config = read("training.steps=7", "model.positions=rotary", "data.shares=[0.5, 2]", "decoding.length_penalty=0.8")
    (tmp_path / "run.toml").write_text(to_toml(config), "utf-8")
    assert read_config(tmp_path / "run.toml") == config


@given(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1),
    st.floats(0, 1e9, allow_nan=False),
    st.integers(0, 2**60),
)
def test_any_text_and_number_survives_the_file(text: str, number: float, seed: int) -> None:
    import tomllib

    config = read(seed=seed, data={**DATA, "cache": text}, training={"minutes": number}, model={"note": text})
    read_back = tomllib.loads(to_toml(config))
    assert read_config(None, (), **read_back) == config


def test_later_words_win(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(
        '[data]\ntrain = "a"\nvalid = "v"\nsource = "zh"\ntarget = "en"\n[training]\nsteps = 1\naccumulate = 2\n'
    )
    config = read_config(path, ["training.steps=3"], training={"steps": 2, "keep": 4})
    assert (config.training.steps, config.training.accumulate, config.training.keep) == (3, 2, 4)
    assert config.data.train == ("a",), "one corpus needs no brackets"


def test_values_on_the_command_line_are_toml_or_bare_words() -> None:
    config = read("training.metric=loss", "data.joint=false", "model.norm.eps=1e-5", "model.note=a b", "model.n=[1, 2]")
    assert config.training.metric == "loss" and config.data.joint is False
    assert config.model == {"norm": {"eps": 1e-5}, "note": "a b", "n": [1, 2]}


@pytest.mark.parametrize("name", ["a,b", " a", "a ", "a.zh, b.en", "[a", "a=b", "[[", "data/a#1"])
def test_a_path_on_the_command_line_is_one_path_as_it_was_typed(name: str) -> None:
    config = read(f"data.train={name}", f"data.valid={name}")
    assert config.data.train == (name,) and config.data.valid == name
    import tomllib

    assert read_config(None, (), **tomllib.loads(to_toml(config))) == config


def test_two_files_of_a_corpus_are_a_list() -> None:
    config = read('data.train=[["a,b.zh", " c.en"], "prefix"]', 'data.valid=["v.zh", "v.en"]')
    assert config.data.train == (("a,b.zh", " c.en"), "prefix") and config.data.valid == ("v.zh", "v.en")
    import tomllib

    assert read_config(None, (), **tomllib.loads(to_toml(config))) == config
    for wrong in ('data.train=[["a", "b", "c"]]', 'data.valid=["a"]', "data.test={a = 1}", "data.train=[[1, 2]]"):
        with pytest.raises(RegardError, match=r'a prefix, one file, or a list of two files as \["a.zh", "b.en"\]'):
            read(wrong)


def test_an_option_of_a_part_keeps_the_part() -> None:
    config = read("model.positions=rotary", "model.positions.theta=5e5")
    assert config.model["positions"] == {"kind": "rotary", "theta": 5e5}


def test_tables_are_not_changed() -> None:
    table = {"steps": 5}
    read("training.steps=6", training=table)
    assert table == {"steps": 5}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.step=1", "did you mean 'training.steps'"),
        ("steps=1", "did you mean 'training.steps'"),
        ("decoding.batch_token=1", "did you mean 'decoding.batch_tokens'"),
        ("training=1", "unknown key 'training'"),
        ("training.steps", "KEY=VALUE"),
        ("=3", "KEY=VALUE"),
        ("training.steps=0", "expected at least 1"),
        ("training.steps=2.5", "training.steps = 2.5"),
        ("training.steps=abc", "training.steps = 'abc'"),
        ("training.minutes=nan", "finite"),
        ("training.beta2=1", "less than 1"),
        ("training.precision=fp8", "auto, fp32, bf16"),
        ("training.warmup_steps=0", "warm-up"),
        ("data.normalize=nfd", "did you mean 'nfc'"),
        ("data.shares=[1]", "1 numbers for 2 corpora"),
        ("data.shares=[1, 0]", "more than 0"),
        ("data.train=[]", "at least one corpus"),
        ("decoding.length_penalty=wu:1", "gnmt:0.6"),
        ("decoding.n_best=6", "at most decoding.beam = 5"),
        ("seed=-1", "seed = -1"),
    ],
)
def test_a_wrong_override(override: str, message: str) -> None:
    with pytest.raises(RegardError) as error:
        read(override)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps = 3", "unknown key 'steps' — did you mean 'training.steps'?"),
        ("[trainig]\nsteps = 3", "unknown key 'trainig' — did you mean 'training'?"),
        ("[training]\nbeam = 3", "unknown key 'training.beam' — did you mean 'decoding.beam'?"),
        ("[training]\nstep = 3", "unknown key 'training.step' — did you mean 'training.steps'?"),
        ("training = 3", "'training' must be a table: write [training]"),
        ("model = 3", "'model' must be a table"),
        ("[data]\ntrain = 3", "data.train"),
        ("[data", "not valid TOML"),
        ("a = 1\na = 2", "not valid TOML"),
        ("seed = 1", "'data.train' is missing"),
    ],
)
def test_a_wrong_file(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text, "utf-8")
    with pytest.raises(RegardError) as error:
        read_config(path)
    assert str(error.value).startswith(f"{path}: ") and message in str(error.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(RegardError, match=str(path)):
            read_config(path)
    (tmp_path / "gb.toml").write_bytes("[data]\ntrain = '中'".encode("gb18030"))
    with pytest.raises(RegardError, match="not UTF-8 at byte"):
        read_config(tmp_path / "gb.toml")
    (tmp_path / "bom.toml").write_bytes(b"\xef\xbb\xbfseed = 'x'")
    with pytest.raises(RegardError, match="seed = 'x'"):
        read_config(tmp_path / "bom.toml")


def test_nothing_can_be_changed_afterwards() -> None:
    config = read()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.training.steps = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        TrainingConfig(3)  # type: ignore[misc]
    with pytest.raises(RegardError):
        DataConfig(train=("a",), valid="v", source="zh", target="en", max_length=0)


def test_a_task_has_its_own_columns() -> None:
    text = {"train": "a.txt", "valid": "v.txt"}
    assert read(data=text, task="language_model").data.source == "", "no languages are asked for"
    assert read("task=classification", "data.label=1", data=text).data.label == "1", "a number needs no quotes"
    for task, key, expected in (
        ("translation", "text", "data.source_key and data.target_key"),
        ("language_model", "label", "data.text"),
        ("masked", "pair", "data.text"),
        ("classification", "source_key", "data.text and data.pair and data.label"),
    ):
        with pytest.raises(RegardError, match=rf"data\.{key} is not of task '{task}', whose columns are {expected}"):
            read(data={**DATA, key: "x"}, task=task)
    with pytest.raises(RegardError, match=r"'data.target' is missing \(language code of the target, such as en;"):
        read(data={**text, "source": "zh"})
    with pytest.raises(RegardError, match=r"task = 'mask': expected one of .* — did you mean 'masked'\?"):
        read(data=text, task="mask")
