"""``regard classify``, ``tag`` and ``fill``: filters over lines, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

from .encoders import LABELS, Run, refused_here


def test_classify_is_a_filter(run: Run) -> None:
    lines = "the capital\n\n我爱 a b\n   \nparis !".encode()
    code, out, err = run("classify", "classification", input=lines)
    assert code == 0 and not err
    labels = out.split("\n")
    assert len(labels) == 6 and labels[1] == labels[3] == labels[5] == ""
    assert {labels[0], labels[2], labels[4]} <= {*LABELS}
    scores = run("classify", "classification", "--scores", input=lines)[1].split("\n")
    assert [line.split("\t")[0] for line in scores] == labels and len(scores[0].split("\t")) == 6
    described = [json.loads(line) for line in run("classify", "classification", "--json", input=lines)[1].splitlines()]
    assert [one["label"] or "" for one in described] == labels[:5]
    assert described[1] == {"label": None, "probability": None, "labels": []}
    assert described[0]["labels"][0] == {"label": described[0]["label"], "probability": described[0]["probability"]}
    assert run("classify", "classification", "--text", "the capital")[1] == labels[0] + "\n"


def test_pairs_by_flag_and_by_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "one").write_text("the capital\na b\n\n", "utf-8")
    (tmp_path / "two").write_text("of france\nc\n\n", "utf-8")
    code, out, _ = run("classify", "classification", "one", "--pair", "two", "--scores")
    assert code == 0 and out.count("\n") == 3 and out.endswith("\n\n")
    alone = run("classify", "classification", "--text", "the capital", "--pair", "of france", "--scores")
    assert alone[1] == out.split("\n")[0] + "\n"
    assert alone[1] != run("classify", "classification", "--text", "the capital", "--scores")[1]
    (tmp_path / "two").write_text("of france\n", "utf-8")
    assert "one has 3 lines and two has 1" in refused_here(run("classify", "classification", "one", "--pair", "two"))
    assert "both are standard input" in refused_here(run("classify", "classification", "--pair", "-"))


def test_long_lines_are_remarked_by_number(run: Run) -> None:
    lines = b"a\n\n" + b"the capital of france is paris " * 400
    code, out, err = run("classify", "classification", input=lines)
    assert code == 0 and out.count("\n") == 3
    assert err == "regard: line 3 has 2,400 subwords, and the model reads 10: the rest is left out\n"
    assert "regard: line 3 has 2,400 subwords" in run("tag", "tagging", input=lines)[2]


def test_tag_writes_a_word_a_line(run: Run) -> None:
    lines = "The capitals, 我爱\n\nparis\n".encode()
    code, out, err = run("tag", "tagging", input=lines)
    assert code == 0 and not err
    blocks = [[line.split("\t") for line in block.split("\n")] for block in out.split("\n\n")]
    assert [word for word, _ in blocks[0]] == ["The", "capitals", ",", "我", "爱"]
    assert {tag for word, tag in blocks[0]} <= {"O", "B-PER", "I-PER"}
    assert out.split("\n").count("") == 4 and out.endswith("\n\n")  # of three lines, and the end of the output
    given = run("tag", "tagging", "--words", input=lines)[1]
    assert [line.split("\t")[0] for line in given.split("\n")] == ["The", "capitals,", "我爱", "", "", "paris", "", ""]
    described = [json.loads(line) for line in run("tag", "tagging", "--json", input=lines)[1].splitlines()]
    assert [word["tag"] for word in described[0]["words"]] == [tag for _, tag in blocks[0]]
    assert described[1] == {"words": [], "entities": []}
    assert {"word", "tag", "probability", "start", "end"} == set(described[0]["words"][0])
    assert run("tag", "tagging", "--text", "paris")[1] == "\t".join(blocks[1][-1]) + "\n"


def test_fill_lists_words_and_texts(run: Run) -> None:
    code, out, err = run("fill", "masked", "--text", "The capital of France is [MASK].", "-k", 3)
    assert code == 0 and not err
    rows = [line.split("\t") for line in out.splitlines()]
    assert len(rows) == 3 and all(len(row) == 3 for row in rows)
    assert [float(row[0]) for row in rows] == sorted((float(row[0]) for row in rows), reverse=True)
    assert all(text.startswith("The capital of France is") and text.endswith(".") for _, _, text in rows)
    lines = b"a [MASK]\n\n[MASK] b [MASK]\n"
    of_file = run("fill", "masked", "-k", 2, input=lines)[1].split("\n")
    assert [bool(line) for line in of_file] == [True, True, False, False, *[True] * 4, False, False]
    described = [json.loads(line) for line in run("fill", "masked", "--json", input=lines)[1].splitlines()]
    assert [len(one["masks"]) for one in described] == [1, 0, 2]
    assert described[2]["masks"][0][0]["probability"] > 0 and " b " in described[2]["text"]


def test_what_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"a [MASK]\nno mask here\n")
    message = refused_here(run("fill", "masked", "text"))
    assert message == "text:2: no mask in it: expected [MASK] in place of the word to fill in"
    assert message.startswith("text:2") and "--text: no mask" in refused_here(run("fill", "masked", "--text", "a"))
    assert "it is run by: regard tag" in refused_here(run("classify", "tagging", "--text", "a"))
    assert "it is run by: regard fill" in refused_here(run("tag", "masked", "--text", "a"))
    assert "it is run by: regard classify" in refused_here(run("fill", "classification", "--text", "[MASK]"))
    assert "it is run by: regard fill" in refused_here(run("generate", "masked", "--prompt", "a"))
    assert "it is run by: regard classify" in refused_here(run("generate", "classification", "text"))
    for verb, task in (("classify", "classification"), ("tag", "tagging"), ("fill", "masked")):
        assert "none: no such file" in refused_here(run(verb, task, "none"))
        assert "expected one of them" in refused_here(run(verb, task, "text", "--text", "a"))
        assert "--text is empty" in refused_here(run(verb, task, "--text", " "))
        assert "NUL" in refused_here(run(verb, task, input=b"a\0 [MASK]\n"))
        assert "not UTF-8" in refused_here(run(verb, task, input=b"a \xff\xfe[MASK]\n"))
        assert "--dtype int8" in refused_here(run(verb, task, "--dtype", "int8", "--text", "a"))
        assert "no such directory" in refused_here(run(verb, "nosuch", "--text", "a"))
        assert run(verb, task, input=b"") == (0, "", "")
        assert run(verb, task, "--dtype", "bf16", "--text", "a [MASK]", "--threads", 1)[0] == 0
