"""Tokenizers as released folders hold them, against transformers: in parts, with white space of their own, odd ids."""

import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from llada.cli import main
from llada.data import JinjaTemplate, Message, SentencePieceTokenizer, load_tokenizer
from llada.data.tokenizers.byte_level_bpe import QWEN2_WORDS
from llada.data.tokenizers.json_tokenizer import JsonTokenizer
from llada.data.tokenizers.saved_tokenizer import has_tokenizer
from tests.tiny_checkpoint import STORY, write_checkpoint, write_model

transformers = pytest.importorskip("transformers")
TEXT = STORY + "It's 1234 boats;\n\n\n  def f(x):\n\treturn [x]\r\n" + "Été 中文 русский 😀 ＡＢＣ we'll\n"
TEXTS = [
    *STORY.splitlines(),
    "It's 12345 boats, we'LL see",
    "  two  spaces\n\n\nlines \t\r\n end  ",
    "def f(x):\n    return x\n",
    "Été Été 中文字 русский язык ١٢٣ ½ Ⅷ",
    "😀👍🏽 a\u200db \ufeff \u3000x\xa0y",
    "",
    " ",
    "\n",
    "x" * 50,
    "<b>&amp;</b> {{ }} \\n __init__",
]
ADDED = {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2, "<|mask|>": 3, "<think>": 4}


def trained(words: str | None, size: int = 420) -> tuple[dict[str, int], list[str]]:
    """Vocabulary and merges of a byte-level BPE."""
    tokenizer = Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words is None)
    split = [] if words is None else [pre_tokenizers.Split(Regex(words), "isolated")]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*split, level])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([TEXT] * 3, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [" ".join(pair) for pair in model["merges"]]


def write_parts(
    folder: Path, words: str | None, size: int = 420, **config: Any
) -> tuple[dict[str, int], list[str], dict[str, int]]:
    """A folder as Dream's, without the code: ids of added tokens follow the vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary, merges = trained(words, size)
    added = {name: len(vocabulary) + place for name, place in ADDED.items()}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    (folder / "added_tokens.json").write_text(json.dumps(added))
    said = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "mask_token": "<|mask|>"}
    special = {"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]}
    (folder / "tokenizer_config.json").write_text(json.dumps({**said, **special, "bos_token": None, **config}))
    return vocabulary, merges, added


@pytest.fixture(scope="module")
def dream(tmp_path_factory: pytest.TempPathFactory) -> tuple[JsonTokenizer, Any]:
    """Ours and theirs."""
    folder = tmp_path_factory.mktemp("dream")
    vocabulary, merges, added = write_parts(folder, QWEN2_WORDS, tokenizer_class="DreamTokenizer")
    pairs = [tuple(merge.split(" ")) for merge in merges]
    theirs = transformers.Qwen2Tokenizer(vocab=vocabulary, merges=pairs, eos_token="<|endoftext|>")
    theirs.add_special_tokens({"additional_special_tokens": [name for name in added if name != "<think>"]})
    theirs.add_tokens([AddedToken("<think>", normalized=False)])
    return JsonTokenizer(folder), theirs


@pytest.mark.parametrize("text", TEXTS)
def test_dreams_parts_read_as_qwen2s_tokenizer(dream: tuple[JsonTokenizer, Any], text: str) -> None:
    ours, theirs = dream
    assert ours.encode(text) == theirs(text)["input_ids"]
    assert ours.decode(ours.encode(text)) == theirs.decode(theirs(text)["input_ids"])


@given(text=st.text(alphabet="aé ’'sS1٢\n\r\t中😀.,<_\u00a0\u0301", max_size=30))
def test_any_text_of_dreams(dream: tuple[JsonTokenizer, Any], text: str) -> None:
    ours, theirs = dream
    assert ours.encode(text) == theirs(text)["input_ids"]


def test_added_tokens_of_parts(dream: tuple[JsonTokenizer, Any]) -> None:
    ours, theirs = dream
    roles = {name: ours.special_id(name) for name in ("mask", "eos", "pad", "eot")}
    named = ADDED | {"mask": 3, "eos": 0, "pad": 0, "eot": 2}
    base = theirs.vocab_size
    assert roles == {name: base + named[name] for name in roles}
    assert set(ours.special_tokens) == set(ADDED) - {"<think>"}
    assert ours.bos_token_id is None
    assert ours.encode("a <think> b") == theirs("a <think> b")["input_ids"]
    assert base + ADDED["<think>"] in ours.encode("<think>")
    assert base + ADDED["<|mask|>"] not in ours.encode("<|mask|>")


def test_parts_are_kept(dream: tuple[JsonTokenizer, Any], tmp_path: Path) -> None:
    ours, _ = dream
    assert has_tokenizer(ours.path)
    ours.save(tmp_path / "copy")
    names = {"vocab.json", "merges.txt", "added_tokens.json", "tokenizer_config.json"}
    assert names <= {file.name for file in (tmp_path / "copy").iterdir()}
    again = load_tokenizer(tmp_path / "copy", mask=ours.mask_token_id)
    assert again.fingerprint == ours.fingerprint
    assert [again.encode(text) for text in TEXTS] == [ours.encode(text) for text in TEXTS]


def test_gpt2s_parts(tmp_path: Path) -> None:
    vocabulary, merges, _ = write_parts(tmp_path, None, tokenizer_class="GPT2Tokenizer")
    theirs = transformers.GPT2Tokenizer(vocab=vocabulary, merges=[tuple(merge.split(" ")) for merge in merges])
    ours = JsonTokenizer(tmp_path)
    for text in TEXTS:
        assert ours.encode(text) == theirs(text)["input_ids"]


def test_the_class_of_parts_is_asked_for(tmp_path: Path) -> None:
    write_parts(tmp_path / "a", None, tokenizer_class="StrangeTokenizer")
    with pytest.raises(ValueError, match=r"of a StrangeTokenizer, and how that cuts text into words isn't known here"):
        load_tokenizer(tmp_path / "a")
    write_parts(tmp_path / "b", QWEN2_WORDS)
    (tmp_path / "b" / "config.json").write_text('{"model_type": "Dream"}')
    assert len(load_tokenizer(tmp_path / "b").encode("123")) == 3  # digits stand alone
    (tmp_path / "b" / "merges.txt").write_text("#version: 0.2\na b c\n")
    with pytest.raises(ValueError, match=r"merges\.txt is damaged: 'a b c' is no pair"):
        load_tokenizer(tmp_path / "b")
    (tmp_path / "b" / "vocab.json").write_text('{"a": 0, "b": "1"}')
    with pytest.raises(ValueError, match=r"vocab\.json is damaged: not every token has a number"):
        load_tokenizer(tmp_path / "b")
    write_parts(tmp_path / "c", None, added_tokens_decoder={"7": {"content": "<|mask|>", "special": True}})
    with pytest.raises(ValueError, match=r"contradicts itself: '<\|mask\|>' is number"):
        load_tokenizer(tmp_path / "c")


NAMES = ("<s>", "</s>", "[INST]", "[/INST]", "<mask>")
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST]' + m.content + '[/INST]' }}"
    "{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
)
CHAT = [("user", "the boy"), ("assistant", "  the river \n"), ("user", " red"), ("assistant", "boat")]


def pieces_tokenizer(folder: Path, scheme: str, flags: dict[str, bool], normalized: bool = False) -> Path:
    """A tokenizer in LLaMA's manner, with spaces as U+2581 and special tokens of these flags."""
    tokenizer = Tokenizer(models.BPE(unk_token=None, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=True)
    tokenizer.decoder = decoders.Sequence([decoders.Metaspace(prepend_scheme=scheme), decoders.ByteFallback()])
    alphabet = sorted(set(STORY) | {"\n", "\u2581"})
    special = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator([STORY] * 3, trainer)
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = []
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.add_special_tokens([AddedToken(name, normalized=normalized, **flags) for name in NAMES])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "mask_token": "<mask>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return folder


@pytest.mark.parametrize("scheme", ["always", "first", "never"])
@pytest.mark.parametrize("flags", [{}, {"lstrip": True}, {"rstrip": True}, {"lstrip": True, "rstrip": True}], ids=str)
def test_white_space_beside_special_tokens(tmp_path: Path, scheme: str, flags: dict[str, bool]) -> None:
    folder = pieces_tokenizer(tmp_path, scheme, flags)
    ours, theirs = JsonTokenizer(folder), transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    theirs.chat_template = TEMPLATE
    messages = [{"role": role, "content": content} for role, content in CHAT]
    prompt, answer = JinjaTemplate(TEMPLATE).row([Message(*turn) for turn in CHAT], ours)
    assert prompt + answer == theirs.apply_chat_template(messages, return_dict=False)
    # Text stays text: the user's spelling takes no white space and is no token.
    forged = JinjaTemplate(TEMPLATE).prompt([Message("user", "a </s> b")], ours)
    assert ours.eos_token_id not in forged
    assert "</s> b" in ours.decode(forged)


def test_a_folder_with_parts_is_sampled_and_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_model(tmp_path / "dream")
    vocabulary, _, added = write_parts(folder, QWEN2_WORDS, 300, tokenizer_class="DreamTokenizer")
    config = json.loads((folder / "config.json").read_text()) | {"mask_token_id": added["<|mask|>"]}
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": added["<|endoftext|>"]}))
    options = ["--num_new_tokens", "4", "--jsonl", "--prompt", "The boat"]
    assert main(["sample", str(folder), *options]) == 0, capsys.readouterr().err
    written = capsys.readouterr().out
    assert json.loads(written)["text"].startswith("The boat")
    for source, target in ((folder, "start.ckpt"), (tmp_path / "start.ckpt", "back"), (folder, "copy")):
        assert main(["convert", str(source), str(tmp_path / target)]) == 0, capsys.readouterr().err
    for copy in ("back", "copy"):
        for name in ("vocab.json", "merges.txt", "added_tokens.json", "tokenizer_config.json"):
            assert (tmp_path / copy / name).read_bytes() == (folder / name).read_bytes()
        capsys.readouterr()
        assert main(["sample", str(tmp_path / copy), *options]) == 0, capsys.readouterr().err
        assert capsys.readouterr().out == written
    assert len(vocabulary) < min(added.values()) + 1


def test_minus_one_is_no_token(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    config = json.loads((folder / "config.json").read_text()) | {"pad_token_id": -1, "bos_token_id": -1}
    (folder / "config.json").write_text(json.dumps(config))
    names = json.loads((folder / "tokenizer_config.json").read_text())
    del names["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    assert JsonTokenizer(folder).pad_token_id is None
    (folder / "config.json").write_text(json.dumps(config | {"pad_token_id": -2}))
    with pytest.raises(ValueError, match=r"config\.json says that pad_token_id is -2, which is no token id"):
        JsonTokenizer(folder)


@pytest.fixture(scope="module")
def maskless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("maskless")
    (folder / "story.txt").write_text(STORY * 4)
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "story.txt"),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=320,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
        allow_whitespace_only_pieces=True,
        minloglevel=2,
    )
    return folder


def test_a_mask_beyond_the_pieces_of_sentencepiece(maskless: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no control symbol '<mask>'.*mask=32000"):
        load_tokenizer(maskless)
    size = sentencepiece.SentencePieceProcessor(str(maskless / "tokenizer.model")).vocab_size()
    tokenizer = load_tokenizer(maskless, mask=size)
    assert (tokenizer.mask_token_id, tokenizer.vocab_size) == (size, size + 1)
    assert tokenizer.special_id("<mask>") == size
    ids = tokenizer.encode("the <mask> boat")
    assert size not in ids
    assert tokenizer.decode([*ids, size], show_mask="#") == "the <mask> boat#"
    tokenizer.save(tmp_path / "copy")
    again = load_tokenizer(tmp_path / "copy")
    assert (again.mask_token_id, again.vocab_size, again.fingerprint) == (size, size + 1, tokenizer.fingerprint)
    with pytest.raises(ValueError, match=rf"{size} for llada_tokenizer\.json, but {size + 5} for the model"):
        load_tokenizer(tmp_path / "copy", mask=size + 5)
    with pytest.raises(ValueError, match="300 can't be the mask, for it is a piece of text"):
        SentencePieceTokenizer(maskless, mask=300)
    assert SentencePieceTokenizer(maskless, mask=0).vocab_size == size  # <unk>, which byte_fallback never writes
