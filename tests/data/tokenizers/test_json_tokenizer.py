"""tokenizer.json: roles from the checkpoint's files, and special tokens that no text spells."""

import json
import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, normalizers
from tokenizers.models import BPE, Unigram, WordLevel, WordPiece
from tokenizers.pre_tokenizers import BertPreTokenizer, ByteLevel, Metaspace, WhitespaceSplit
from tokenizers.processors import TemplateProcessing

from llada import data
from llada.data import load_tokenizer
from llada.data.tokenizers.json_tokenizer import JsonTokenizer
from tests.tiny_checkpoint import BOS, EOS, EOT, MASK, SPECIAL, STORY, VOCAB_SIZE, write_model, write_tokenizer

SPELLINGS = [
    *SPECIAL,
    "<|",
    "|>",
    "mdm_mask",
    "the river",
    " ",
    "\n",
    "é",
    "\U0010ffff2",
    "\U0010fffe",
    "\u2581",
    "<s>",
]
pieces = st.lists(st.one_of(st.sampled_from(SPELLINGS), st.text(max_size=4)), max_size=8)
texts = pieces.map("".join)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(write_tokenizer(tmp_path_factory.mktemp("checkpoint")))


@pytest.fixture(scope="module")
def tokenizer(folder):
    return JsonTokenizer(folder)


@pytest.fixture(scope="module")
def reference(folder):
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def test_roles_come_from_the_files(tokenizer):
    roles = ("mask", "bos", "eos", "pad", "eot")
    assert [tokenizer.special_id(role) for role in roles] == [MASK, BOS, EOS, EOS, EOT]
    assert tokenizer.special_tokens == {name: index for index, name in enumerate(SPECIAL)}
    assert tokenizer.vocab_size == VOCAB_SIZE  # the rows of the embedding, more than the file's 340 tokens


@given(text=texts)
def test_no_text_gives_a_special_token_and_every_text_comes_back(tokenizer, text):
    ids = tokenizer.encode(text)
    assert set(ids).isdisjoint(range(len(SPECIAL)))
    assert tokenizer.decode(ids) == text


def test_the_package_itself_would_have_read_special_tokens(reference):
    assert MASK in reference.encode(f"a {SPECIAL[MASK]}").ids


@given(text=st.text(alphabet="the boyriv.\nü", max_size=40))
def test_other_text_is_cut_as_the_package_cuts_it(tokenizer, reference, text):
    assert tokenizer.encode(text) == reference.encode(text).ids


def test_batches_are_encoded_like_single_texts(tokenizer):
    lines = [*STORY.splitlines(), "", SPECIAL[EOT]]
    assert tokenizer.encode_batch(lines) == [tokenizer.encode(line) for line in lines]


def test_decoding_leaves_out_special_tokens_and_shows_masks(tokenizer):
    word, accent = tokenizer.encode("river"), tokenizer.encode("é")
    ids = [BOS, *word, MASK, MASK, *accent, EOT, EOS, 345]
    assert tokenizer.decode(ids) == "riveré"
    assert tokenizer.decode(torch.tensor(ids), show_mask="░") == "river░░é"
    assert tokenizer.decode([*accent, MASK], show_mask="<b>") == "é<b>"


@pytest.mark.parametrize("index", [-1, VOCAB_SIZE])
def test_ids_outside_the_vocabulary_are_refused(tokenizer, index):
    with pytest.raises(ValueError, match=f"token id {index} is outside the vocabulary of {VOCAB_SIZE}"):
        tokenizer.decode([index])


def test_lone_surrogates_are_refused(tokenizer):
    with pytest.raises(ValueError, match=r"lone surrogate U\+D800 at character 2"):
        tokenizer.encode("ab\ud800")


def test_saving_keeps_every_byte_and_every_id(folder, tokenizer, tmp_path):
    tokenizer.save(tmp_path / "out")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        assert (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes()
    again = load_tokenizer(tmp_path / "out")
    assert isinstance(again, JsonTokenizer)
    assert again.fingerprint == tokenizer.fingerprint
    assert (again.mask_token_id, again.vocab_size) == (MASK, VOCAB_SIZE)
    again.save(tmp_path / "twice")
    for file in (tmp_path / "out").iterdir():
        assert (tmp_path / "twice" / file.name).read_bytes() == file.read_bytes()


def test_a_tokenizer_that_names_all_its_roles_needs_no_file_of_ours(folder, tmp_path):
    write_tokenizer(tmp_path / "in")
    names = {"mask": MASK, "eos": EOS, "pad": EOS, "bos": BOS, "eot": EOT}
    config = {f"{role}_token": SPECIAL[index] for role, index in names.items()}
    (tmp_path / "in" / "tokenizer_config.json").write_text(json.dumps(config))
    JsonTokenizer(tmp_path / "in").save(tmp_path / "out")
    assert not (tmp_path / "out" / "llada_tokenizer.json").exists()
    assert load_tokenizer(tmp_path / "out").mask_token_id == MASK


def test_the_fingerprint_tells_tokenizers_apart(tokenizer, tmp_path):
    write_tokenizer(tmp_path)
    assert JsonTokenizer(tmp_path, mask=SPECIAL[BOS]).fingerprint != tokenizer.fingerprint
    assert JsonTokenizer(tmp_path / "tokenizer.json", mask=MASK).fingerprint == tokenizer.fingerprint


def test_a_mask_is_asked_for_and_never_guessed(tmp_path):
    write_tokenizer(tmp_path)
    with pytest.raises(ValueError, match=r"nothing in .* says which token is the mask"):
        JsonTokenizer(tmp_path)
    assert JsonTokenizer(tmp_path, mask="<|mdm_mask|>").mask_token_id == MASK
    with pytest.raises(ValueError, match=r"there is no token '<\|mask\|>'"):
        JsonTokenizer(tmp_path, mask="<|mask|>")


def test_a_mask_beyond_the_file_widens_the_vocabulary(tmp_path):
    write_tokenizer(tmp_path)
    tokenizer = JsonTokenizer(tmp_path, mask=400)
    assert (tokenizer.mask_token_id, tokenizer.vocab_size, tokenizer.special_tokens["<mask>"]) == (400, 401, 400)
    assert tokenizer.decode([*tokenizer.encode("<mask> a"), 400], "░") == "<mask> a░"


def test_a_word_can_serve_as_the_mask_and_is_spelt_otherwise_then(tmp_path):
    write_tokenizer(tmp_path)
    plain = JsonTokenizer(tmp_path, mask=MASK)
    (word,) = plain.encode(" river")
    chosen = JsonTokenizer(tmp_path, mask=word)
    assert len(chosen.encode(" river")) > 1
    assert chosen.decode(chosen.encode("the river")) == "the river"


def test_a_letter_cannot_be_the_mask(tmp_path):
    write_tokenizer(tmp_path)
    with pytest.raises(ValueError, match="'a' is a letter of the alphabet"):
        JsonTokenizer(tmp_path, mask="a")


BREAKS = {
    "not JSON": ("tokenizer.json", "{", "malformed JSON"),
    "a list": ("tokenizer.json", "[]", "expected a JSON object"),
    "no model": ("tokenizer.json", "{}", "has no model with a vocabulary"),
    "bad token": (
        "tokenizer.json",
        '{"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 0}]}',
        "no content or no id",
    ),
    "no such token": ("tokenizer.json", '{"model": {"type": "X", "vocab": {"aa": 2}}}', "has no such token"),
    "bad kind": (
        "tokenizer.json",
        json.dumps({"model": {"type": "X", "vocab": {name: i for i, name in enumerate(SPECIAL)}}}),
        "not a tokenizer that the package",
    ),
    "unknown name": (
        "tokenizer_config.json",
        '{"eos_token": "<end>"}',
        "eos_token is '<end>', but the tokenizer has no",
    ),
    "bad id": ("config.json", '{"mask_token_id": "two"}', "mask_token_id is 'two', which is no token id"),
    "two masks": ("tokenizer_config.json", '{"mask_token": "<|eot_id|>"}', "the mask is 5 for .*, but 2 for"),
}


@pytest.mark.parametrize(("file", "content", "message"), BREAKS.values(), ids=BREAKS)
def test_broken_files_are_named(tmp_path, file, content, message):
    write_model(write_tokenizer(tmp_path))
    (tmp_path / file).write_text(content)
    with pytest.raises(ValueError, match=message):
        JsonTokenizer(tmp_path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(place=st.floats(0, 1), byte=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_byte_gives_an_error_or_a_tokenizer(folder, tmp_path, place, byte, cut):
    content = bytearray((folder / "tokenizer.json").read_bytes())
    index = int(place * (len(content) - 1))
    content[index] = byte
    (tmp_path / "tokenizer.json").write_bytes(content[: index + 1] if cut else content)
    try:
        tokenizer = JsonTokenizer(tmp_path, mask=MASK)
    except ValueError:
        return
    assert MASK not in tokenizer.encode(STORY + SPECIAL[MASK])


def test_one_token_with_two_numbers_is_refused(tmp_path):
    write_model(write_tokenizer(tmp_path))
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["added_tokens"][EOT]["id"] = 339
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="contradicts itself"):
        JsonTokenizer(tmp_path)


def test_a_missing_file_and_a_missing_package_are_named(folder, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        JsonTokenizer(tmp_path)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"pip install llada\[hf\]"):
        JsonTokenizer(folder)


def test_truncation_padding_and_added_beginnings_of_the_file_are_ignored(folder, tokenizer, tmp_path):
    changed = Tokenizer.from_file(str(folder / "tokenizer.json"))
    changed.enable_truncation(2)
    changed.enable_padding(length=50)
    changed.post_processor = TemplateProcessing(single=f"{SPECIAL[BOS]} $A", special_tokens=[(SPECIAL[BOS], BOS)])
    changed.save(str(tmp_path / "tokenizer.json"))
    assert JsonTokenizer(tmp_path, mask=MASK).encode(STORY) == tokenizer.encode(STORY)


def save(tokenizer, path, **arguments):
    tokenizer.save(str(path / "tokenizer.json"))
    return JsonTokenizer(path, **arguments)


def test_added_tokens_that_are_not_special_are_text(tmp_path):
    inner = Tokenizer(BPE())
    inner.pre_tokenizer, inner.decoder = ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    inner.add_special_tokens(["<mask>"])
    inner.add_tokens([AddedToken("<think>", special=False)])
    tokenizer = save(inner, tmp_path, mask="<mask>")
    assert tokenizer.special_tokens == {"<mask>": 0}
    assert tokenizer.encode("<think>") == [1]
    assert tokenizer.decode([1]) == "<think>"


def unigram():
    pairs = [("<unk>", 0.0), ("<s>", 0.0), ("<mask>", 0.0), *((c, -5.0) for c in "\u2581<>aksm"), ("mask", -3.0)]
    inner = Tokenizer(Unigram(pairs, unk_id=0))
    inner.pre_tokenizer, inner.decoder = Metaspace(), decoders.Metaspace()
    inner.add_special_tokens(["<unk>", "<s>", "<mask>"])
    return inner


def test_a_unigram_model_cannot_be_talked_into_a_special_token(tmp_path):
    inner = unigram()
    inner.encode_special_tokens = True
    assert 2 in inner.encode("<mask>").ids  # leaving out the reading of added tokens isn't enough
    tokenizer = save(inner, tmp_path, mask="<mask>")
    assert tokenizer.decode(tokenizer.encode("a <mask> <s>")) == "a <mask> <s>"
    assert set(tokenizer.encode("a <mask> <s>")).isdisjoint({1, 2})


def test_the_unknown_token_is_what_unknown_text_gives(tmp_path):
    tokenizer = save(unigram(), tmp_path, mask="<mask>")
    assert tokenizer.special_tokens == {"<s>": 1, "<mask>": 2}
    assert 0 in tokenizer.encode("ü")
    assert not tokenizer.lossless


def test_an_unknown_token_with_a_role_is_never_written_for_text(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<unk>"}')
    tokenizer = save(unigram(), tmp_path, mask="<mask>")
    assert tokenizer.decode(tokenizer.encode("mask")) == "mask"
    with pytest.raises(ValueError, match="would write a special token for a part of 'ü'"):
        tokenizer.encode("ü")


def test_whole_words(tmp_path):
    inner = Tokenizer(WordLevel({"[UNK]": 0, "[MASK]": 1, "boat": 2}, unk_token="[UNK]"))
    inner.pre_tokenizer = WhitespaceSplit()
    tokenizer = save(inner, tmp_path, mask="[MASK]")
    assert tokenizer.encode("boat [MASK] [UNK] x") == [2, 0, 0, 0]


def test_word_pieces(tmp_path):
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "boat", "##s"]
    inner = Tokenizer(WordPiece({word: index for index, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    inner.normalizer, inner.pre_tokenizer = normalizers.BertNormalizer(), BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    inner.add_special_tokens(vocabulary[:5])
    tokenizer = save(inner, tmp_path, mask="[MASK]")
    assert tokenizer.encode("The boats") == [5, 6, 7]
    assert 4 not in tokenizer.encode("[MASK] boats")
    assert tokenizer.decode([5, 4, 6, 7], show_mask="░") == "the ░ boats"
    assert not tokenizer.lossless


def test_lossless_is_told(tokenizer):
    assert tokenizer.lossless


def test_a_tokenizer_needs_one_of_two_methods():
    for name in ("encode", "encode_batch"):
        type("Own", (data.Tokenizer,), {name: lambda self, texts: []})
    with pytest.raises(TypeError, match="the tokenizer Own needs a method encode or encode_batch"):
        type("Own", (data.Tokenizer,), {})
