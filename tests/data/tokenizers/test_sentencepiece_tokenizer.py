import io
import os
import signal
import threading

import pytest
import sentencepiece
from hypothesis import example, given
from hypothesis import strategies as st

from llada.data import SentencePieceTokenizer, SentencePieceTraining, check_fingerprint, load_tokenizer

STORY = "the boy saw a boat on the river and the boat was red\n" * 20
SPECIAL_NAMES = ["<mask>", "<s>", "</s>", "<pad>", "<unk>", "<|eot_id|>", "<|start_header_id|>", "<0x41>"]
# Unicode of every kind, with the strings that could trip a tokenizer up much more often than chance would have it.
awkward = st.sampled_from(
    [*SPECIAL_NAMES, " ", "  ", "\n", "\n\n", "\r\n", "\t", "\u2581", "\u2585", "\0", "\ufeff", "é"]
)
texts = st.lists(st.text(max_size=8) | awkward | st.just("the boat"), max_size=10).map("".join)


@given(text=texts)
@example(text="Hello,\n\n  World\tcafe 漢字 ")
@example(text="\u2581a\u2581\u2581 b\u2581")
@example(text="")
def test_text_comes_back_exactly(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(text=texts)
@example(text="".join(SPECIAL_NAMES))
def test_text_never_gives_a_special_token(tokenizer, text):
    assert not set(tokenizer.encode(text)) & set(tokenizer.special_tokens.values())


@given(first=texts, second=texts)
def test_decoding_is_concatenation(tokenizer, first, second):
    a, b = tokenizer.encode(first), tokenizer.encode(second)
    assert tokenizer.decode(a + b) == first + second


@given(batch=st.lists(texts, max_size=4))
def test_a_batch_is_encoded_like_its_texts(tokenizer, batch):
    assert tokenizer.encode_batch(batch) == [tokenizer.encode(text) for text in batch]


def test_a_newline_is_a_piece_of_its_own(tokenizer):
    newline = tokenizer.encode("\n")
    assert len(newline) == 1
    assert tokenizer.encode("boat\n\nboat") == tokenizer.encode("boat") + newline * 2 + tokenizer.encode("boat")


def test_special_tokens_have_their_roles(tokenizer):
    assert tokenizer.vocab_size == 330
    ids = [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.mask_token_id]
    assert ids == [1, 2, 3, 4]
    assert tokenizer.special_tokens["<mask>"] == tokenizer.special_id("mask") == 4
    assert tokenizer.eot_token_id == tokenizer.special_id("<|eot_id|>") == tokenizer.special_id("eot")
    assert len(tokenizer.special_tokens) == 8


def test_a_missing_special_token_is_named(plain_tokenizer):
    assert plain_tokenizer.eot_token_id is None
    with pytest.raises(ValueError, match=r"no special token 'eot'; it has <unk>, <pad>"):
        plain_tokenizer.special_id("eot")


def test_masks_are_shown_when_asked_for(tokenizer):
    ids = [2, *tokenizer.encode("boat"), 4, 4, *tokenizer.encode("red"), 3]
    assert tokenizer.decode(ids) == "boatred"
    assert tokenizer.decode(ids, show_mask="░") == "boat░░red"


@pytest.mark.parametrize("index", [-1, 330])
def test_an_id_outside_the_vocabulary_is_refused(tokenizer, index):
    with pytest.raises(ValueError, match=f"token id {index} is outside the vocabulary of 330"):
        tokenizer.decode([5, index])


def test_a_lone_surrogate_is_refused(tokenizer):
    with pytest.raises(ValueError, match=r"lone surrogate U\+D800 at character 1"):
        tokenizer.encode("a\ud800b")
    with pytest.raises(ValueError, match="isn't UTF-8: it holds the byte 0xE9 at character 3"):
        tokenizer.encode(b"caf\xe9".decode(errors="surrogateescape"))


def test_saving_and_loading_keeps_everything(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "new" / "folder")
    loaded = load_tokenizer(tmp_path / "new" / "folder")
    assert isinstance(loaded, SentencePieceTokenizer)
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.encode("the boat was red") == tokenizer.encode("the boat was red")
    assert loaded.special_tokens == tokenizer.special_tokens


def test_training_repeats_itself_and_knows_the_ids_beforehand(tmp_path):
    training = SentencePieceTraining(vocab_size=290)
    first, second = training.train([STORY], tmp_path / "a"), training.train([STORY], tmp_path / "b")
    assert first.fingerprint == second.fingerprint
    assert (first.vocab_size, first.mask_token_id) == (training.vocab_size, training.mask_token_id)


def test_unigram_models_are_exact_too(tmp_path):
    story = "the boy saw a boat on the river\nhis mother called him home and the boy ran up the hill\n" * 20
    unigram = SentencePieceTraining(vocab_size=290, model_type="unigram").train([story], tmp_path)
    text = "  <mask> boats,\n\n naïve \u2581漢 "
    assert unigram.decode(unigram.encode(text)) == text
    assert unigram.mask_token_id not in unigram.encode(text)


def test_long_lines_are_learnt_from(tmp_path):
    # SentencePiece itself leaves out lines of more than 4192 bytes, and would find no text here.
    trained = SentencePieceTraining(vocab_size=290).train(["the boy saw a boat on the river " * 300], tmp_path)
    assert len(trained.encode("the boat")) < len("the boat")


def test_training_reads_no_more_than_it_was_told(tmp_path):
    read = []

    def documents():
        for number in range(1000):
            read.append(number)
            yield STORY

    SentencePieceTraining(vocab_size=290, max_characters=3 * len(STORY)).train(documents(), tmp_path)
    assert len(read) == 3


@pytest.mark.parametrize(
    ("vocab_size", "texts", "reason"),
    [
        (100, [STORY], r"vocab_size=100: .* the characters of the text are \d+; give more"),
        (5000, [STORY], "vocab_size=5000: Vocabulary size too high"),
        (300, [], "the text to train a tokenizer on is empty"),
        (300, ["", "\n"], "the text to train a tokenizer on is empty"),
    ],
)
def test_impossible_training_says_why(tmp_path, vocab_size, texts, reason):
    with pytest.raises(ValueError, match=reason):
        SentencePieceTraining(vocab_size=vocab_size).train(texts, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_bad_training_settings_are_refused():
    with pytest.raises(ValueError, match="model_type must be 'bpe' or 'unigram'; got 'bpd'"):
        SentencePieceTraining(vocab_size=300, model_type="bpd")
    with pytest.raises(ValueError, match="'<mask>' stands twice"):
        SentencePieceTraining(vocab_size=300, control_symbols=("<mask>",))


def train_directly(path, **settings):
    """A SentencePiece model with somebody else's settings."""
    model = io.BytesIO()
    exact = {
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "add_dummy_prefix": False,
        "byte_fallback": True,
        "user_defined_symbols": ["\n"],
        "control_symbols": ["<mask>"],
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([STORY.replace("\n", " ")[:1000]]),
        model_writer=model,
        model_type="bpe",
        minloglevel=2,
        **{"vocab_size": 290, **exact, **settings},
    )
    path.write_bytes(model.getvalue())
    return path


def test_a_suitable_foreign_model_is_taken(tmp_path):
    foreign = SentencePieceTokenizer(train_directly(tmp_path / "foreign.model"))
    assert foreign.decode(foreign.encode(" a\n")) == " a\n"
    assert foreign.pad_token_id is None
    with pytest.raises(ValueError, match="no special token 'pad'"):
        foreign.special_id("pad")


@pytest.mark.parametrize(
    "settings",
    [
        {"normalization_rule_name": "nmt_nfkc"},
        {"remove_extra_whitespaces": True},
        {"add_dummy_prefix": True},
        {"byte_fallback": False, "vocab_size": 36},
    ],
)
def test_a_foreign_model_that_changes_text_is_refused(tmp_path, settings):
    with pytest.raises(ValueError, match=r"foreign\.model changes text"):
        SentencePieceTokenizer(train_directly(tmp_path / "foreign.model", **settings))


def test_a_mask_that_text_can_forge_is_refused(tmp_path):
    path = train_directly(tmp_path / "foreign.model", control_symbols=[], user_defined_symbols=["\n", "<mask>"])
    with pytest.raises(ValueError, match="no control symbol '<mask>': text could forge a mask"):
        SentencePieceTokenizer(path)


def test_a_missing_or_damaged_model_is_refused(tokenizer, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no SentencePiece model .*nowhere"):
        SentencePieceTokenizer(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no tokenizer in .*: expected a file tokenizer\.model"):
        load_tokenizer(tmp_path)
    tokenizer.save(tmp_path)
    path = tmp_path / "tokenizer.model"
    whole = path.read_bytes()
    for damaged in (whole[:100], whole.replace(b"<unk>", b"<u\xf8k>", 1)):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"tokenizer\.model is not a SentencePiece model, or is damaged"):
            load_tokenizer(tmp_path)


def test_fingerprints_tell_tokenizers_apart(tokenizer, plain_tokenizer):
    check_fingerprint(tokenizer, tokenizer.fingerprint, "corpus.tokens")
    with pytest.raises(ValueError, match=r"corpus\.tokens was made with another tokenizer"):
        check_fingerprint(plain_tokenizer, tokenizer.fingerprint, "corpus.tokens")


def test_ctrl_c_is_heard_while_a_tokenizer_is_trained(tmp_path, monkeypatch):
    """SentencePiece computes for minutes without looking for signals."""
    ended = threading.Event()

    def train(**_):
        try:
            os.kill(os.getpid(), signal.SIGINT)  # as a terminal does: to the process, not to this thread
            ended.wait(60)
        except KeyboardInterrupt:
            pass  # what happens in the main thread, where native code would go on

    monkeypatch.setattr(sentencepiece.SentencePieceTrainer, "train", train)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            SentencePieceTraining(vocab_size=290).train([STORY], tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
        ended.set()
    assert list(tmp_path.iterdir()) == []
