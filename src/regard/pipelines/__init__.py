"""Pipelines, which ``regard.load`` returns: text in, text out, around a model that knows ids only."""

from regard.pipelines.results import TextScore, Translation
from regard.pipelines.translator import Translator
from regard.text.parts import Part, TooMuch

__all__ = ["Part", "TextScore", "TooMuch", "Translation", "Translator"]
