from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from regard.errors import RegardError
from regard.text.settings import TextSettings


def test_written_and_read_is_equal(tmp_path: Path) -> None:
    settings = TextSettings(
        forced_prefix=(7, 8), suppressed=(0,), source="zh", target="en", normalize=("nfkc", "lower")
    )
    settings.write(tmp_path / "text.json")
    assert TextSettings.read(tmp_path / "text.json") == settings
    assert json.loads((tmp_path / "text.json").read_text())["forced_prefix"] == [7, 8]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"eoss": 3}, "unknown key 'eoss' — did you mean 'eos'"),
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
