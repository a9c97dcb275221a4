"""Between text and tokens: a model with its tokenizer, prompts, gaps, where an answer ends, text piece by piece."""

from llada.text.gaps import encode_gaps
from llada.text.loading import load
from llada.text.ranks import Ranks, launched
from llada.text.stream import FinalText, stream_text
from llada.text.text_model import TextModel

__all__ = ["FinalText", "Ranks", "TextModel", "encode_gaps", "launched", "load", "stream_text"]
