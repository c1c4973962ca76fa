"""LibreTranslate's clients, unchanged: its Python package, forms as browsers and curl send them, codes as they vary."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode

import pytest
from libretranslatepy import LibreTranslateAPI

from regard.serve.languages import matching, ranked

from .conftest import Regard, pairs
from .servers import Server, serving

TEXTS = [source for source, _ in pairs(5, seed=7)]
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
MULTIPART = {"Content-Type": "multipart/form-data; boundary=abc"}


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Server]:
    with serving(model, "--threads", 1) as server:
        yield server


@pytest.fixture(scope="module")
def expected(regard: Regard, model: Path) -> list[str]:
    return regard("translate", model, input="\n".join(TEXTS).encode()).stdout.decode().splitlines()


def multipart(**fields: str) -> bytes:
    head = "--abc\r\nContent-Disposition: form-data; name="
    return "".join([*(f'{head}"{name}"\r\n\r\n{text}\r\n' for name, text in fields.items()), "--abc--\r\n"]).encode()


@pytest.mark.parametrize("key", [None, "", "00000000-0000"])
def test_libretranslatepy_works_unchanged(server: Server, expected: list[str], key: str | None) -> None:
    client = LibreTranslateAPI(f"http://127.0.0.1:{server.port}", key)
    assert [client.translate(text, "zh", "en") for text in TEXTS] == expected
    assert client.translate(TEXTS[0], "auto", "en") == expected[0]
    assert [row["code"] for row in client.languages()] == ["zh", "en"]
    assert client.detect("I love machine learning, and so do you.") == [{"confidence": 100, "language": "en"}]
    first = client.detect("我爱机器学习")[0]
    assert first["language"] == "zh" and 90 < first["confidence"] <= 100
    with pytest.raises(HTTPError, match="400"):
        client.translate(TEXTS[0], "zh", "es")


def test_a_form_of_either_kind_is_answered_as_json_is(server: Server, expected: list[str]) -> None:
    fields = {"q": TEXTS[1], "source": "zh", "target": "en", "format": "text", "api_key": "", "alternatives": "1"}
    as_json = server.ask({**fields, "alternatives": 1})
    assert as_json[0] == 200 and as_json[1]["translatedText"] == expected[1] and len(as_json[1]["alternatives"]) == 1
    assert server.ask(urlencode(fields).encode(), **FORM) == as_json
    assert server.ask("&".join(f"{name}={text}" for name, text in fields.items()).encode(), **FORM) == as_json
    assert server.ask(multipart(**fields), **MULTIPART) == as_json
    quoted = {"Content-Type": 'multipart/form-data; charset=utf-7; boundary="abc"'}
    assert server.ask(multipart(**fields), **quoted) == as_json
    assert server.ask(multipart(q="你好"), path="/detect", **MULTIPART)[1][0]["language"] == "zh"


@pytest.mark.parametrize("origin", ["https://elsewhere.example", "null", "http://127.0.0.1:1", "http://[", ""])
def test_a_form_that_a_browser_sends_from_another_site_is_refused(server: Server, origin: str) -> None:
    fields = {"q": TEXTS[1], "target": "en"}
    for path in ("/translate", "/detect"):
        for body, kind in ((urlencode(fields).encode(), FORM), (multipart(**fields), MULTIPART)):
            status, found = server.ask(body, path=path, **kind, Origin=origin)
            assert status == 403 and "other sites" in found["error"]
            assert server.ask(body, path=path, **kind, Origin=f"http://127.0.0.1:{server.port}")[0] == 200
    assert server.ask(b'{"q": "1", "target": "en"}', **{"Content-Type": "text/plain"}, Origin=origin)[0] == 415


def part(headers: str, text: bytes = b"x") -> bytes:
    return f"--abc\r\n{headers}\r\n\r\n".encode() + text + b"\r\n"


END = b"--abc--\r\n"
Q = 'Content-Disposition: form-data; name="q"'


@pytest.mark.parametrize(
    "body, said",
    [
        (part(Q), "before its last boundary"),
        (part(Q)[:-4], "before its last boundary"),
        (b"", "before its last boundary"),
        (b"nothing of it", "Invalid form"),
        (part("X: y") + END, "Field name not found"),
        (part(Q + '; filename="a.txt"') + END, "files are not translated here"),
        (part(Q, b"\xff") + END, "not UTF-8"),
        (part(Q) + part(Q) + END, "q: given twice"),
        (part(Q + "\r\nContent-Transfer-Encoding: zip") + END, "Content-Transfer-Encoding"),
        (part(Q + "\r\nX: y" * 100) + END, "Invalid form"),
        (part(Q + "\r\nX: " + "y" * 10_000) + END, "Invalid form"),
        (b"".join(part(f'Content-Disposition: form-data; name="{n}"') for n in range(65)) + END, "more than 64 fields"),
        (part(Q) + END, "missing target parameter"),
    ],
)
def test_forms_that_are_damaged_or_endless_are_refused_in_one_line(server: Server, body: bytes, said: str) -> None:
    status, found = server.ask(body, **MULTIPART)
    assert status == 400 and said in found["error"] and "\n" not in found["error"], found
    assert server.ask(body, **{"Content-Type": "multipart/form-data"})[0] == 400


@pytest.mark.parametrize(
    "body, status, said",
    [
        (b"q=%FF&target=en", 400, "not UTF-8"),
        (b"q=\xff&target=en", 400, "not UTF-8"),
        (b"q=1&q=2&target=en", 400, "q: given twice"),
        (b"&".join(b"x%d=1" % n for n in range(65)), 400, "fields"),
        (b"q=1", 400, "missing target parameter"),
        (b"q=1&target=en&alternatives=many", 400, "alternatives: Input should be a valid integer"),
        (b"q=" + b"%E4%B8%80" * 50_001 + b"&target=en", 413, "50,000 characters"),
        (b"q=" + b"1" * (1 << 20) + b"&target=en", 413, "1,048,576 bytes"),
    ],
)
def test_forms_are_held_to_the_same_limits(server: Server, body: bytes, status: int, said: str) -> None:
    found = server.ask(body, **FORM)
    assert found[0] == status and said in found[1]["error"], found


def test_a_form_of_a_megabyte_of_parts_takes_no_time(server: Server) -> None:
    began = time.monotonic()
    for body, kind in ((b"--abc\r\n" * 140_000, MULTIPART), (b"&" * 1_000_000, FORM), (b"[" * 1_000_000, {})):
        assert server.ask(body, **kind)[0] == 400
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("source", ["zh", "ZH", "zh-Hans", "zh-CN", "zh_CN", "zh-Hant", "zh-TW", "zt", "auto", "AUTO"])
@pytest.mark.parametrize("target", ["en", "EN", "en-US", "en_GB"])
def test_codes_are_understood_as_clients_write_them(
    server: Server, expected: list[str], source: str, target: str
) -> None:
    status, found = server.ask({"q": TEXTS[0], "source": source, "target": target, "api_key": None, "secret": "x"})
    assert status == 200 and found["translatedText"] == expected[0]
    assert ("detectedLanguage" in found) == (source.lower() == "auto")


def test_null_is_as_if_it_were_not_there(server: Server, expected: list[str]) -> None:
    body = {"q": TEXTS[0], "source": "zh", "target": "en", "format": None, "alternatives": None, "api_key": None}
    assert server.ask(body) == (200, {"translatedText": expected[0]})
    assert server.ask({**body, "q": None})[1] == {"error": "Invalid request: missing q parameter"}


def test_the_language_is_detected_for_auto_and_said(server: Server, expected: list[str]) -> None:
    one = server.ask({"q": "我爱机器学习", "source": "auto", "target": "en"})[1]["detectedLanguage"]
    assert one["language"] == "zh" and 90 < one["confidence"] <= 100
    found = server.ask({"q": TEXTS, "source": "auto", "target": "en"})[1]
    assert found["translatedText"] == expected and [row["language"] for row in found["detectedLanguage"]] == ["zh"] * 5
    for nothing in ("", "123", "😀"):
        assert server.ask({"q": nothing}, path="/detect") == (200, [{"confidence": 0, "language": "zh"}])
    assert server.ask({"q": ["我爱你", "你好"]}, path="/detect")[1][0]["language"] == "zh"
    assert server.ask(b"", path="/detect", method="GET")[0] == 405
    assert server.ask({}, path="/detect") == (400, {"error": "Invalid request: missing q parameter"})
    assert server.ask({"q": 5}, path="/detect")[0] == 400


def test_a_frontend_is_told_what_there_is(server: Server) -> None:
    status, found = server.ask(b"", path="/frontend/settings", method="GET")
    assert status == 200 and found["charLimit"] == 50_000 and not found["keyRequired"]
    assert found["language"]["source"] == {"code": "zh", "name": "Chinese"}
    assert found["language"]["target"] == {"code": "en", "name": "English"}


def test_alternatives_are_distinct_and_none_is_the_translation() -> None:
    with serving("zh-en", "--threads", 1) as server:
        texts = ["谢谢。", "你好", "我爱你。", "早上好！", "今天天气很好。我们去公园吧。"]
        status, found = server.ask({"q": texts, "source": "zh", "target": "en", "alternatives": 4})
        assert status == 200
        for text, others in zip(found["translatedText"], found["alternatives"], strict=True):
            assert text not in others and len(set(others)) == len(others) and all(others)
        one = server.ask({"q": texts[0], "source": "zh", "target": "en", "alternatives": 4})[1]
        assert one == {key: value[0] for key, value in found.items()}


@pytest.mark.parametrize(
    "code, written, found",
    [
        ("zh-CN", True, ["zh"]), ("zh-Hant", True, []), ("zh-Hant", False, ["zh"]), ("pt-BR", False, ["pt"]),
        ("english", False, []), ("", False, []), ("z", False, []), ("zh-hans-cn", True, ["zh"]),
    ],
)  # fmt: skip
def test_codes_mean_what_is_there(code: str, written: bool, found: list[str]) -> None:
    assert matching(code, ["zh", "en", "pt"], written=written) == found


def test_traditional_and_simplified_models_are_told_apart() -> None:
    known = ["zh", "zh-Hant"]
    assert matching("zh-TW", known)[0] == "zh-Hant" and matching("zh-TW", known, written=True) == ["zh-Hant"]
    assert matching("zh-CN", known)[0] == "zh" and matching("zh-hant", known) == ["zh-Hant"]


def test_detection_is_right_for_short_texts() -> None:
    texts = [(text, code) for code, lines in SHORT.items() for text in lines]
    wrong = [(text, found) for text, code in texts if (found := ranked([text], list(SHORT))[0]["language"]) != code]
    assert not wrong


SHORT: dict[str, list[str]] = {
    "zh": ["我爱你", "早上好！", "你好", "繁體中文"],
    "en": ["Good morning!", "I love machine learning.", "Where is the station?", "Hello"],
    "de": ["Guten Morgen!", "Ich liebe dich.", "Wo ist der Bahnhof?"],
    "fr": ["Bonjour tout le monde", "Je t'aime.", "Où est la gare ?"],
    "ja": ["おはようございます", "駅はどこですか。"],
}


def test_fields_that_nobody_knows_are_left_aside(server: Server, expected: list[str]) -> None:
    body: dict[str, Any] = {"q": TEXTS[2], "source": "zh", "target": "en", "beam": 5, "secret": {"a": [None, 1e300]}}
    assert server.ask(json.dumps(body).encode()) == (200, {"translatedText": expected[2]})


def test_a_text_in_the_target_language_comes_back_as_it_is(server: Server) -> None:
    text = "Hello, how are you today? This is an English text."
    status, found = server.ask({"q": [text], "source": "auto", "target": "en", "alternatives": 1})
    assert status == 200 and found["translatedText"] == [text] and found["alternatives"] == [[]]
    assert found["detectedLanguage"][0]["language"] == "en"


def test_json_without_its_content_type_is_told_what_is_missing(server: Server) -> None:
    status, found = server.ask(b'{"q": "a", "target": "en"}', **FORM)
    assert status == 400 and "content-type: application/json" in found["error"]
