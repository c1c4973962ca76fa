"""A model with several target languages: each is chosen on the command line and by a request."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from regard import directory
from regard.models.registry import options_from
from regard.text.settings import TextSettings
from regard.text.tokenizer import Tokenizer

from .conftest import Regard, refused
from .servers import serving

TEXTS = ["一二三", "四五", "六"]


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights from Chinese into French and English."""
    torch.manual_seed(0)
    tokenizer = Tokenizer.train(["一二三四五六", "one two three", "un deux trois"] * 9, vocabulary=300)
    small = {"width": 16, "heads": 2, "feedforward": 32, "encoder_layers": 1, "decoder_layers": 1}
    options = options_from({"architecture": "transformer", **small})
    model = options.build(tokenizer.size).eval()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)  # or the source would hardly matter
    settings = TextSettings(source="zh", languages={"fr": (280,), "en": (281,)}, suppressed=(0, 1, 2))
    return directory.save(tmp_path_factory.mktemp("several") / "model", model, options, settings, tokenizer)


def test_the_command_and_the_server_translate_into_the_wanted_language(several: Path, regard: Regard) -> None:
    def lines(language: str) -> list[str]:
        found = regard("translate", several, "--to", language, "--max-tokens", "9", input="\n".join(TEXTS).encode())
        assert found.returncode == 0, found.stderr
        return found.stdout.decode().split("\n")[: len(TEXTS)]

    french, english = lines("fr"), lines("en")
    assert french != english
    with serving(several, "--threads", 1) as server:
        status, found = server.ask(b"", path="/languages", method="GET")
        assert status == 200 and found[0] == {"code": "zh", "name": "Chinese", "targets": ["fr", "en"]}
        replies = {}
        for language in ("fr", "en"):
            status, found = server.ask({"q": TEXTS, "source": "zh", "target": language})
            assert status == 200
            replies[language] = found["translatedText"]
        assert replies["fr"] != replies["en"]
        status, found = server.ask({"q": TEXTS, "source": "zh", "target": "es"})
        assert status == 400 and "this server has zh → fr, zh → en" in found["error"]


def test_an_unknown_language_is_one_line_that_lists_the_known_ones(several: Path, regard: Regard) -> None:
    for given, said in (
        (["--to", "es"], "language 'es': this model translates into en, fr"),
        ([], "give one of en, fr"),
    ):
        assert said in refused(regard("translate", several, *given, input=b""))
