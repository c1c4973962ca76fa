"""The meaning of column names: a side, a language, or something beside the pair; "" for ordinary text.

Names that translate each other mean the same, so that the first pair of a dictionary (``中文``, ``Chinese``) is not a
line of names, while ``中文`` and ``English`` are.
"""

from __future__ import annotations

import re

SOURCE, TARGET, TEXT, EXTRA = "source", "target", "text", "extra"

_SIDES = {
    SOURCE: "source src original input sentence1 text1 sentence_a text_a 原文 源 源文 源语言 源語言",
    TARGET: "target tgt trg translation translated output sentence2 text2 sentence_b text_b 译文 譯文 翻译 翻譯 "
    "目标 目標 目标语言 目標語言",
    TEXT: "text sentence segment string language lang 文本 句子 语言 語言",
    EXTRA: "id idx index no no. number line score label license url domain split 序号 序號 编号 編號 标签 標籤",
}
# ISO 639: the code of two letters, then those of three, then names.
_LANGUAGES = """
zh zho chi cmn chinese mandarin 中文 汉语 漢語 华语 華語 国语 國語 普通话 简体中文 繁体中文 繁體中文 chinesisch
en eng english 英文 英语 英語 englisch anglais
de deu ger german deutsch allemand 德文 德语 德語
fr fra fre french français französisch 法文 法语 法語
ja jpn japanese 日本語 日文 日语 日語
ko kor korean 한국어 韩文 韩语 韓文 韓語
es spa spanish español spanisch 西班牙文 西班牙语 西班牙語
ru rus russian русский russisch 俄文 俄语 俄語
it ita italian italiano italienisch 意大利文 意大利语 義大利語
pt por portuguese português 葡萄牙文 葡萄牙语 葡萄牙語
ar ara arabic العربية 阿拉伯文 阿拉伯语 阿拉伯語
vi vie vietnamese 越南文 越南语 越南語
th tha thai ไทย 泰文 泰语 泰語
id ind indonesian 印尼文 印尼语 印尼語
hi hin hindi 印地语
tr tur turkish türkçe 土耳其语
nl nld dut dutch nederlands 荷兰语
pl pol polish polski 波兰语
uk ukr ukrainian українська 乌克兰语
cs ces cze czech čeština 捷克语
sv swe swedish svenska 瑞典语
fi fin finnish suomi 芬兰语
"""
_CODES = {
    word: line.split()[0]
    for line in _LANGUAGES.strip().splitlines()
    for word in line.split()
    if word.isascii() and len(word) < 4
}
_NAMES = {word: line.split()[0] for line in _LANGUAGES.strip().splitlines() for word in line.split()[1:]}
_KNOWN = {**_NAMES, **{word: side for side, words in _SIDES.items() for word in words.split()}}


def language(name: str) -> str:
    """The two-letter code for a language's code or name (``zh-Hans``, ``cmn``, ``English``); "" for others.

    >>> language("zh_CN"), language("Deutsch"), language("hello")
    ('zh', 'de', '')
    """
    name = name.strip().casefold()
    base = re.fullmatch(r"([a-z]{2,3})([-_][a-z]{2,4})*", name)
    return _CODES.get(base[1] if base else name) or _NAMES.get(name, "")


def meaning(name: str, languages: tuple[str, str]) -> str:
    """``source``, ``target``, ``text``, ``extra`` or a language's code; ``languages`` are those of the run.

    The codes of the run's languages come first. Codes of other languages (``it``, ``no``) may be ordinary words;
    ``tables._are_names`` does not rely on them alone.

    >>> [meaning(name, ("zh", "en")) for name in ("ZH", "English text", "src", "id", "it", "Hello")]
    ['zh', 'en', 'source', 'extra', 'it', '']
    """
    name = re.sub(r'^"(.*)"$', r"\1", name.strip()).lstrip("#").casefold()
    own = {code.casefold(): language(code) or code.casefold() for code in languages}
    if name in own:
        return own[name]
    if name in _KNOWN:
        return _KNOWN[name]
    if code := language(name):
        return code
    words = [word for word in re.split(r"[\s_\-.:/()（）]+", name) if word]
    meanings = [own.get(word) or _KNOWN.get(word) or _CODES.get(word, "") for word in words]
    if not meanings or not all(meanings):
        return ""
    # "English translation" is the column of English, "source text" that of the source.
    for some in (lambda one: one not in _SIDES, lambda one: one in (SOURCE, TARGET), lambda one: one == EXTRA):
        found = {one for one in meanings if some(one)}
        if found:
            return found.pop() if len(found) == 1 else ""
    return TEXT
