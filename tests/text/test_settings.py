from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from regard.errors import RegardError
from regard.text.settings import TextSettings


def test_written_and_read_is_equal(tmp_path: Path) -> None:
    settings = TextSettings(
        start=(2, 7), ends=(3, 9), suppressed=(0,), source="zh", target="en", normalize=("nfkc", "lower"),
        languages={"fr": (12,), "de": (13, 14)}, language_in="target", mask=4, segments=True,
    )  # fmt: skip
    settings.write(tmp_path / "text.json")
    assert TextSettings.read(tmp_path / "text.json") == settings
    assert json.loads((tmp_path / "text.json").read_text())["start"] == [2, 7]


def test_format_1_says_the_same(tmp_path: Path) -> None:
    old = {"pad": 1, "unk": 0, "bos": 5, "eos": 6, "start": 1, "forced_prefix": [7, 8], "suppressed": [1]}
    (tmp_path / "text.json").write_text(json.dumps({**old, "source": "zh", "max_length": 17, "template": ""}))
    found = TextSettings.read(tmp_path / "text.json")
    assert found == TextSettings(
        pad=1, unk=0, start=(1, 7, 8), ends=(6,), source_after=(6,), suppressed=(1,), source="zh", max_length=17
    )
    found.write(tmp_path / "text.json")
    assert TextSettings.read(tmp_path / "text.json") == found


def test_a_model_may_have_no_end_and_no_marks(tmp_path: Path) -> None:
    settings = TextSettings(start=(), ends=(), source_after=())
    settings.write(tmp_path / "text.json")
    assert TextSettings.read(tmp_path / "text.json") == settings


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"start": [2], "endss": [3]}, "unknown key 'endss' — did you mean 'ends'"),
        ({"start": [2], "eos": 3}, "unknown key 'eos'"),
        ({"start": 2, "eoss": 3}, "unknown key 'eoss' — did you mean 'eos'"),
        ({"start": 2, "ends": [3]}, "unknown key 'ends'"),
        ({"start": "2"}, "start = '2': expected a whole number"),
        ({"start": [2], "ends": [3, -1]}, "ends = (3, -1): expected a list of ids"),
        ({"ends": 3}, "ends = 3: expected a list of ids"),
        ({"mask": -1}, "mask = -1: expected a whole number, 0 or more, or null"),
        ({"segments": 1}, "segments = 1: expected true or false"),
        ({"languages": [1]}, "languages = (1,): expected ids by language"),
        ({"languages": {"fr": 7}}, "languages.fr = 7: expected a list of ids"),
        ({"language_in": "both"}, 'language_in = \'both\': expected "source" or "target"'),
        ({"source_before": [1] * 2000}, "source_before has 2,000 ids: expected at most 1,024"),
        ({"eos": -1}, "eos = -1: expected a whole number"),
        ({"eos": "3"}, "eos = '3': expected a whole number"),
        ({"pad": True}, "pad = True: expected a whole number"),
        ({"suppressed": [1, "a"]}, "suppressed"),
        ({"suppressed": 1}, "suppressed = 1: expected a list of ids"),
        ({"normalize": ["nfd"]}, "normalize = 'nfd': expected some of"),
        ({"normalize": "nfc"}, "normalize = 'nfc': expected a list"),
        ({"source": 1}, "source = 1: expected a text"),
        ({"max_length": 0}, "max_length = 0: expected 1 to 16384"),
        ({"max_length": 10**12}, "max_length = 1000000000000: expected 1 to 16384"),
    ],
)
def test_a_wrong_value_names_the_file_and_the_key(values: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "text.json"
    path.write_text(json.dumps(values))
    with pytest.raises(RegardError) as error:
        TextSettings.read(path)
    assert str(error.value).startswith(f"{path}: ") and message in str(error.value)
