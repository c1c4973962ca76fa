"""Translation: the loss and BLEU of a validation, what is left out of them, and how a validation stops."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from regard.config import Config
from regard.data.batch import collate
from regard.data.prepare import Prepared, prepare
from regard.directory import Loaded
from regard.errors import RegardError
from regard.models import registry
from regard.tasks.measuring import Abandoned, score_of
from regard.tasks.translation import Translation, Translations
from regard.training.average import swapped
from regard.training.loop import train


def validation_of(
    config: Config, folder: Path, stop: Callable[[], bool] = lambda: False, **options: Any
) -> tuple[Translations, Prepared]:
    """The validation of a fresh model, as a session makes it."""
    task = Translation()
    prepared = prepare(config, folder, task.columns(config.data), **options)
    torch.manual_seed(1)
    architecture = registry.options_from(config.model)
    model = architecture.build(prepared.tokenizer.size).train()
    loaded = Loaded(
        model, architecture, task.settings(config, prepared), prepared.tokenizer, prepared.target_tokenizer, "",
        Path("nowhere"),
    )  # fmt: skip
    return task.validation(config, prepared.valid, loaded, stop), prepared


def test_loss_perplexity_and_samples(tiny: Callable[..., Config], tmp_path: Path) -> None:
    config = tiny(**{"training.samples": 2})
    validation, prepared = validation_of(config, tmp_path / "data")
    model = validation.model
    values = validation.measure()

    model.eval()
    total, tokens = 0.0, 0
    for index in range(12):
        source, target = prepared.valid.ids(0, index), prepared.valid.ids(1, index)
        batch = collate([source], [target], validation.loaded.settings)
        logits = model.logits(model(batch.target, model.encode(batch.source)).hidden)[0]
        total += F.cross_entropy(logits, batch.labels[0], reduction="sum").item()
        tokens += len(target) + 1
    assert values["loss"] == pytest.approx(total / tokens, rel=1e-5)
    assert values["perplexity"] == pytest.approx(math.exp(total / tokens), rel=1e-4)
    assert values["bleu"] >= 0 and "tok:13a" in values["bleu_signature"]
    lines = (tmp_path / "corpus" / "valid.de").read_text().splitlines()
    assert [sample["source"] for sample in values["samples"]] == [lines[3], lines[9]]


def test_training_goes_on_as_it_was(tiny: Callable[..., Config], tmp_path: Path) -> None:
    config = tiny(**{"training.metric": "loss", "training.validate_sentences": 5})
    validation, _ = validation_of(config, tmp_path / "data")
    model = validation.model
    state = torch.get_rng_state()
    values = validation.measure()
    assert model.training and torch.equal(torch.get_rng_state(), state)
    assert "bleu" not in values and score_of("loss", values) == -values["loss"]
    assert len(validation.references) == 5
    assert score_of("loss", {"loss": math.nan}) == -math.inf
    assert validation.measure() == values
    assert validation.measure(config.decoding)["bleu"] >= 0


def test_a_validation_that_is_told_to_stop_leaves_no_trace(tiny: Callable[..., Config], tmp_path: Path) -> None:
    config = tiny()
    asked = iter([False, True])
    validation, _ = validation_of(config, tmp_path / "data", lambda: next(asked))
    model = validation.model
    with pytest.raises(Abandoned):
        validation.measure()
    assert model.training


def test_swapped_weights_come_back() -> None:
    layer = torch.nn.Linear(2, 2)
    own = layer.weight.data
    with swapped(layer, {"weight": torch.ones(2, 2)}):
        assert layer.weight.sum() == 4
    assert layer.weight.data.data_ptr() == own.data_ptr()


def test_pairs_that_do_not_fit_the_model_are_named_before_the_first_step(
    tiny: Callable[..., Config], tmp_path: Path
) -> None:
    config = tiny(**{"model.positions": {"kind": "learned", "length": 9}})
    with pytest.raises(RegardError, match=r"longest examples do not fit the model: .* 9 were learned; lower data.max"):
        train(config, tmp_path / "run")


def _with_lines(folder: Path, changes: dict[int, tuple[str, str]]) -> None:
    """Change pairs of the validation corpus, by their number from 0."""
    for side, language in enumerate(("de", "en")):
        path = folder / "corpus" / f"valid.{language}"
        lines = path.read_text("utf-8").split("\n")
        for number, pair in changes.items():
            lines[number] = pair[side]
        path.write_text("\n".join(lines), "utf-8")


def test_pairs_without_text_are_counted_and_have_no_part_in_the_scores(
    tiny: Callable[..., Config], tmp_path: Path
) -> None:
    config = tiny(**{"training.samples": 0})
    _with_lines(tmp_path, {2: ("", "x"), 5: ("x", " \u3000"), 11: ("\u200b", "y")})
    validation, prepared = validation_of(config, tmp_path / "data")
    places = [prepared.valid.where(index) for index in range(12)]
    assert (
        validation.remark == f"3 pairs of the validation corpus without text on a side: not scored (first: {places[2]})"
    )
    assert len(validation.references) == len(validation.sources) == 9 and validation.held_out.chosen.tolist() == [
        0, 1, 3, 4, 6, 7, 8, 9, 10,
    ]  # fmt: skip
    values = validation.measure()
    lines = {side: (tmp_path / "corpus" / f"valid.{side}").read_text("utf-8").split("\n")[:12] for side in ("de", "en")}
    for side, kept in lines.items():
        text = "".join(line + "\n" for number, line in enumerate(kept) if number not in (2, 5, 11))
        (tmp_path / "corpus" / f"valid.{side}").write_text(text, "utf-8")
    pair = prepared.tokenizer, prepared.target_tokenizer
    other, _ = validation_of(config, tmp_path / "other", tokenizers=pair)
    assert other.measure() == values and other.remark == ""


def test_validation_on_nothing_is_an_error_before_training(tiny: Callable[..., Config], tmp_path: Path) -> None:
    """BLEU would be 0.00 for ever, and each update the best."""
    config = tiny()
    blank = ("\u200b\ufeff", "x")
    _with_lines(tmp_path, {0: blank, 1: ("x", "\x1f"), 2: ("", "")})
    with pytest.raises(RegardError, match=r"data\.valid: none of its first 3 pairs has text on both sides"):
        train(tiny(**{"training.validate_sentences": 3}), tmp_path / "run")
    _with_lines(tmp_path, dict.fromkeys(range(12), blank))
    with pytest.raises(RegardError, match=r"data\.valid: none of its 12 pairs has text on both sides"):
        train(config, tmp_path / "other")
    _with_lines(tmp_path, dict.fromkeys(range(12), ("x " * 200, "x " * 200)))
    with pytest.raises(RegardError, match=r"none of its 12 pairs is short enough to have a loss: at most 20 subwords"):
        train(tiny(**{"data.max_length": 20}), tmp_path / "third")
    assert not list(tmp_path.glob("*/checkpoints"))
