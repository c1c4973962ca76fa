from __future__ import annotations

from regard.data.checks import Duplicates, Overlap, Report, misaligned
from regard.data.corpus import Pair
from regard.text.normalize import normalizer


def test_the_report_counts_and_names_the_first() -> None:
    report = Report(examples=1000, left_out=3)
    report.note("empty", "a.zh:7")
    report.note("empty", "a.zh:9")
    report.note("duplicate", "a.zh:20", 5)
    report.note("overlap", "a.zh:3 = v.zh:1")
    report.overlap = {"valid": (1, "first: a.zh:3 = v.zh:1")}
    assert report.lines() == [
        "1,000 pairs read, 997 to train on",
        "2 pairs with an empty side: left out (first: a.zh:7)",
        "1 pair found in the validation or test data: kept (first: a.zh:3 = v.zh:1; data.remove_overlap = true leaves "
        "them out)",
        "5 pairs equal to an earlier pair: kept (first: a.zh:20)",
        "1 sentence of valid found in train (first: a.zh:3 = v.zh:1)",
    ]
    assert Report.from_dict(report.as_dict()) == report
    report.removed = (*report.removed, "overlap")
    assert report.lines()[2] == "1 pair found in the validation or test data: left out (first: a.zh:3 = v.zh:1)"
    assert report.lines()[4] == "1 sentence of valid found in train as it was read (first: a.zh:3 = v.zh:1)"


def test_overlap_is_exact_after_normalisation_on_either_side() -> None:
    overlap = Overlap(normalizer(["nfkc", "lower"]))
    overlap.expect("valid", [Pair("你好", "Hello", "v:1"), Pair("", "", "v:2"), Pair("再见", "Bye", "v:3")])
    overlap.expect("test", [Pair("你好", "Hi", "t:1")])
    assert overlap.meets(Pair(" 你好 ", "x", "a:1")) == "v:1"
    assert overlap.meets(Pair("x", "ＢＹＥ", "a:2")) == "v:3"
    assert overlap.meets(Pair("Bye", "你好", "a:3")) == ""  # the other language's side is another sentence
    assert overlap.meets(Pair("", " ", "a:4")) == ""
    assert overlap.meets(Pair("你好", "Hello", "a:5")) == "v:1"
    assert overlap.found() == {"valid": (2, "first: a:1 = v:1"), "test": (1, "first: a:1 = t:1")}


def test_duplicates() -> None:
    duplicates = Duplicates()
    assert duplicates.found() == (0, -1)
    for pair in [("a", "b"), ("ab", ""), ("a", "b"), ("b", "a"), ("ab", ""), ("a", "b")]:
        duplicates.add(*pair)
    assert duplicates.found() == (3, 2)


def test_misaligned() -> None:
    assert misaligned(40, 3, 9.0) and misaligned(3, 40, 9.0)
    assert not misaligned(9, 1, 9.0) and not misaligned(27, 3, 9.0)
    assert not misaligned(5, 0, 9.0)  # one word for five says nothing
