"""Words for masks: their probabilities against the model called by hand, and the filled texts."""

from __future__ import annotations

import pytest
import torch

from regard.errors import RegardError
from regard.nn.sequences import Tokens
from regard.pipelines.filler import Filler
from regard.text.tokenizer import Tokenizer

from .conftest import Make


def by_hand(filler: Filler, ids: list[int], place: int) -> list[float]:
    """The probability of each token at a place."""
    with torch.inference_mode():
        hidden = filler.model(Tokens(torch.tensor([ids]), torch.tensor([len(ids)])), None).hidden
        return filler.model.logits(hidden[0, place]).softmax(-1).tolist()


def test_the_best_words_for_each_mask(make: Make) -> None:
    filler = Filler(make("masked"))
    texts = ["The capital of [MASK] is [MASK].", "[MASK]", "a b c [MASK] a b c"]
    found = filler.fill(texts, k=3)
    assert [len(one.masks) for one in found] == [2, 1, 1]
    ids = [2, *filler.tokenizer.encode("the capital of"), 4, *filler.tokenizer.encode("is"), 4]
    ids += [*filler.tokenizer.encode("."), 3]
    for place, words in zip((4, 6), found[0].masks, strict=True):
        scores = by_hand(filler, ids, place)
        best = sorted(range(len(scores)), key=lambda index: -scores[index])[:3]
        assert [word.id for word in words] == best
        assert [word.probability for word in words] == pytest.approx([scores[index] for index in best], abs=1e-5)
        assert [word.word for word in words] == filler.tokenizer.tokens(best)
    alone = filler.fill(texts[0], k=3)[0]
    assert [word.id for mask in alone.masks for word in mask] == [word.id for mask in found[0].masks for word in mask]
    assert len(filler.fill("[MASK]", k=10_000)[0].masks[0]) == filler.tokenizer.size


def test_a_filled_text_keeps_the_rest_as_it_was(make: Make) -> None:
    filler = Filler(make("masked"))
    joined = filler._joined
    assert joined("The Capital is ", "paris") == "The Capital is paris"
    assert joined("we walk ", "##ing") == joined("we walk", "##ing") == "we walking"
    assert joined("", "##") == "##"
    [found] = filler.fill("The  CAPITAL is [MASK], [MASK]!", k=2)
    for mask in found.masks:
        assert all(word.text.startswith("The  CAPITAL is") and word.text.endswith("!") for word in mask)
        assert all(word.text.count("[MASK]") == 1 for word in mask if word.word != "[MASK]")


def test_regards_own_subwords_stand_around_a_mask_as_in_a_text(make: Make, own: Tokenizer) -> None:
    filler = Filler(make("masked", own, length=64))
    assert filler.mask_token == "<unk>"
    for text in ("the capital is paris.", "paris, she walks", "我爱机器学习。", "a café is 100 years old."):
        ids = own.encode(text)
        for place, piece in enumerate(own.tokens(ids)):
            if not piece.startswith("▁") or piece == "▁":
                continue
            start = len(own.decode(ids[:place])) + (1 if place else 0)
            end = len(own.decode(ids[: place + 1]))
            for mask in ("[MASK]", "<unk>"):
                masked = f"{text[:start]}{mask}{text[end:]}"
                row = filler._row(0, filler._masks.split(masked), None).ids
                assert row == [2, *ids[:place], 1, *ids[place + 1 :], 3], (masked, own.tokens(row))
    assert filler._joined("she ", "▁walks") == filler._joined("she", "▁walks") == "she walks"
    assert filler._joined("she walk", "ing") == filler._joined("she walk ", "ing") == "she walking"
    assert filler._joined("我 ", "爱") == "我 爱" and filler._joined("x", ".") == "x."


def test_a_long_text_is_read_around_its_masks(make: Make) -> None:
    filler = Filler(make("masked"))
    said: list[str] = []
    text = "the " * 40 + "[MASK]" + " b" * 40
    [found] = filler.fill([text], k=2, warn=lambda number, what: said.append(f"{number} {what}"))
    assert said == ["0 has 81 subwords, and the model reads 14: those around the masks"]
    the, b = (filler.tokenizer.encode(word)[0] for word in ("the", "b"))
    ids = [2, *[the] * 7, 4, *[b] * 6, 3]
    assert found.masks[0][0].probability == pytest.approx(max(by_hand(filler, ids, 8)), abs=1e-5)
    assert found.text == text.replace("[MASK]", found.masks[0][0].word) or "##" in found.masks[0][0].word
    for at in (0, 80):
        [edge] = filler.fill([" ".join("[MASK]" if i == at else "a" for i in range(81))], k=1)
        assert len(edge.masks) == 1
    with pytest.raises(RegardError, match="text 2: its masks are 20 subwords apart, and the model reads 14"):
        filler.fill(["[MASK]", "[MASK]" + " a" * 19 + " [MASK]"])


@pytest.mark.parametrize("length", [3, 4, 5, 16])
def test_masks_as_far_apart_as_the_model_reads(make: Make, length: int) -> None:
    filler = Filler(make("masked", length=length))
    room = length - 2
    for between in range(room + 2):
        text = " ".join(["a", "[MASK]", *["a"] * between, "[MASK]", "a"])
        if between + 2 <= room:
            assert len(filler.fill(text)[0].masks) == 2
        else:
            with pytest.raises(RegardError, match=f"its masks are {between + 1} subwords apart"):
                filler.fill(text)
    assert len(filler.fill("a [MASK] a")[0].masks) == 1


def test_texts_without_masks_and_models_without_them(make: Make) -> None:
    filler = Filler(make("masked"))
    with pytest.raises(RegardError, match=r"text 2 has no mask: expected \[MASK\]"):
        filler.fill(["a [MASK]", "a [mask]"])
    with pytest.raises(RegardError, match="no mask token"):
        Filler(make("masked", mask=None))
    with pytest.raises(RegardError, match="does not fill in"):
        Filler(make("tagging"))
    with pytest.raises(RegardError):
        filler.fill("[MASK]", k=0)
    assert filler.fill([]) == []
    with pytest.raises(RegardError, match="text 2 is None: expected a text"):
        filler.fill(["[MASK]", None])  # type: ignore[list-item]
    with pytest.raises(RegardError, match="2 marks stand around a text, and the model has learnt 2 positions"):
        Filler(make("masked", length=2)).fill("[MASK]")
    for text in ("\0[MASK]\ud83d", "[MASK][MASK]", "x" * 50_000 + "[MASK]"):
        assert filler.fill(text)[0].masks
