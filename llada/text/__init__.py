"""Between text and tokens: a model with its tokenizer, prompts, gaps, where an answer ends, text piece by piece."""

from llada.text.gaps import encode_gaps
from llada.text.loading import load
from llada.text.stream import FinalText, stream_text
from llada.text.text_model import TextModel

__all__ = ["FinalText", "TextModel", "encode_gaps", "load", "stream_text"]
