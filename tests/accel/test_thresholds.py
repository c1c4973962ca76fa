"""Every number that chooses between ways names the result that shows it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from regard.accel import thresholds

ROOT = Path(__file__).resolve().parents[2]


def constants() -> dict[str, str]:
    """Name → the comment above it."""
    found = re.findall(r"((?:^#: .*\n)*)^([A-Z][A-Z0-9_]*) = ", Path(thresholds.__file__).read_text("utf-8"), re.M)
    return {name: re.sub(r"\n?#: ", " ", comment) for comment, name in found}


def test_there_are_as_many_comments_as_numbers() -> None:
    assert set(constants()) == {name for name in vars(thresholds) if name.isupper()} != set()


@pytest.mark.parametrize("name", list(constants()))
def test_a_number_names_its_result(name: str) -> None:
    comment = constants()[name]
    headings = re.findall(r"^#+ (.*)$", (ROOT / "docs/engineering.md").read_text("utf-8"), re.M)
    sections = [
        section for part in re.findall(r"\((\"[^)]*\")\)", comment) for section in re.findall(r'"([^"]+)"', part)
    ]
    folders = re.findall(r"results/([\w-]+)", comment)
    assert folders or sections or "nothing but the number is left" in comment
    assert set(sections) <= set(headings)
    assert all((ROOT / "results" / folder).is_dir() for folder in folders)
