import hashlib
import logging
import math
import os
import warnings
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from llada.data import SentencePieceTraining, Source, TextDataModule, TextFiles, TokenFile

for name in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(name).setLevel(logging.ERROR)


@dataclass(frozen=True)
class Lines(Source):
    """Documents at hand."""

    documents: tuple[str, ...]

    def __iter__(self):
        return iter(self.documents)


STORIES = Lines(tuple(f"the boy saw boat number {number} on the river\n" for number in range(200)))


def make(tokenizer, folder, source=STORIES, **settings):
    defaults = {"max_length": 16, "batch_size": 4, "val_fraction": 0.2, "cache_folder": str(folder)}
    return TextDataModule(source=source, tokenizer=tokenizer, **{**defaults, **settings})


def prepared(*args, **settings):
    data = make(*args, **settings)
    data.prepare_data()
    data.setup("fit")
    return data


def read(data, part):
    file = TokenFile(data.folder / f"{part}.tokens")
    return [file.document(index).tolist() for index in range(file.num_documents)]


def test_every_document_is_in_one_part_between_bos_and_eos(tokenizer, tmp_path):
    data = prepared(tokenizer, tmp_path, test_fraction=0.3)
    parts = {part: read(data, part) for part in ("train", "val", "test")}
    for documents in parts.values():
        assert all(document[0] == 2 and document[-1] == 3 for document in documents)
    texts = {part: [tokenizer.decode(document) for document in documents] for part, documents in parts.items()}
    assert sorted(chain.from_iterable(texts.values())) == sorted(STORIES)
    # 200 documents: a deviation of 5 standard deviations has probability below 1e-6, and the hash is fixed anyway.
    assert abs(len(texts["val"]) - 40) < 5 * math.sqrt(200 * 0.2 * 0.8)
    assert abs(len(texts["test"]) - 60) < 5 * math.sqrt(200 * 0.3 * 0.7)


def test_the_size_of_the_groups_that_are_encoded_changes_nothing(tokenizer, tmp_path, monkeypatch):
    whole = read(prepared(tokenizer, tmp_path / "a"), "train")
    monkeypatch.setattr("llada.data.text._BATCH_CHARACTERS", 100)
    assert read(prepared(tokenizer, tmp_path / "b"), "train") == whole


def test_copies_of_a_document_are_on_one_side(tokenizer, tmp_path):
    data = prepared(tokenizer, tmp_path, source=Lines(STORIES.documents * 2))
    train, val = ({tuple(document) for document in read(data, part)} for part in ("train", "val"))
    assert not train & val


def test_seeds_order_the_rows_and_leave_the_split(tokenizer, tmp_path):
    first, second = (prepared(tokenizer, tmp_path, seed=seed) for seed in (0, 1))
    assert first.folder == second.folder
    assert list(first.train_dataloader().sampler) != list(second.train_dataloader().sampler)


def test_the_split_of_a_document_does_not_depend_on_the_others(tokenizer, tmp_path):
    whole = prepared(tokenizer, tmp_path)
    half = prepared(tokenizer, tmp_path, source=Lines(STORIES.documents[::2]))
    assert read(half, "val") == [document for document in read(whole, "val") if document in read(half, "val")]
    assert not {tuple(d) for d in read(half, "train")} & {tuple(d) for d in read(whole, "val")}


def test_rows_are_the_concatenated_documents(tokenizer, tmp_path):
    data = prepared(tokenizer, tmp_path, add_bos=False, separate_documents=True)
    stream = list(chain.from_iterable(read(data, "val")))
    batches = list(data.val_dataloader())
    rows = torch.cat([batch["tokens"] for batch in batches])
    assert rows.flatten().tolist() == stream[: len(stream) // 16 * 16]
    ends = rows[:, :-1] == 3
    segments = torch.cat([batch["segment_ids"] for batch in batches])
    assert torch.equal(segments.diff(dim=1), ends.long())


def test_validation_text_of_its_own(tokenizer, tmp_path):
    other = Lines(("a red boat and a red river\n" * 4, "his mother called\n" * 4))
    data = prepared(tokenizer, tmp_path, val_source=other)
    assert [tokenizer.decode(document) for document in read(data, "val")] == list(other)
    assert len(read(data, "train")) == 200


def test_bytes_per_token_is_of_the_held_out_text(tokenizer, tmp_path):
    text = "the boat é 漢\n" * 8
    data = prepared(tokenizer, tmp_path, val_source=Lines((text,)))
    assert data.val_bytes_per_token == len(text.encode()) / (len(tokenizer.encode(text)) + 2)
    with pytest.raises(ValueError, match="there is no test data; set test_fraction above 0 or give test_source"):
        _ = data.test_bytes_per_token


def test_a_tokenizer_is_trained_on_the_training_text_alone(tmp_path):
    seen = []

    @dataclass(frozen=True)
    class Watching(SentencePieceTraining):
        def train(self, texts, folder):
            seen.extend(texts)
            return super().train(seen, folder)

    data = make(Watching(vocab_size=300), tmp_path)
    assert (data.vocab_size, data.mask_token_id) == (300, 4)
    with pytest.raises(ValueError, match=r"tokenizer isn't trained yet; call prepare_data\(\) first"):
        _ = data.tokenizer
    data.prepare_data()
    data.setup("fit")
    assert (data.tokenizer.vocab_size, data.tokenizer.mask_token_id) == (300, 4)
    assert seen == [data.tokenizer.decode(document) for document in read(data, "train")]


def test_a_finished_cache_is_used_again(tokenizer, tmp_path):
    first = prepared(tokenizer, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in first.folder.iterdir()}

    @dataclass(frozen=True)
    class Unreadable(Lines):
        def __iter__(self):
            raise AssertionError("read again")

        def fingerprint(self):
            return STORIES.fingerprint()

    again = prepared(tokenizer, tmp_path, source=Unreadable(()), max_length=8, batch_size=2)
    assert again.folder == first.folder
    assert {path: path.stat().st_mtime_ns for path in first.folder.iterdir()} == before


@pytest.mark.parametrize(
    "change", [{"val_fraction": 0.3}, {"add_eos": False}, {"source": Lines(STORIES.documents[1:])}]
)
def test_other_settings_have_another_cache(tokenizer, tmp_path, change):
    first = prepared(tokenizer, tmp_path)
    content = {path.name: path.read_bytes() for path in first.folder.iterdir()}
    other = prepared(tokenizer, tmp_path, **change)
    assert other.folder != first.folder
    assert {path.name: path.read_bytes() for path in first.folder.iterdir()} == content


def test_another_tokenizer_has_another_cache(tokenizer, plain_tokenizer, tmp_path):
    assert make(tokenizer, tmp_path).folder != make(plain_tokenizer, tmp_path).folder


def test_a_swapped_tokenizer_is_refused(tokenizer, plain_tokenizer, tmp_path):
    data = prepared(tokenizer, tmp_path)
    plain_tokenizer.save(data.folder)
    training = make(tokenizer, tmp_path)
    training._tokenizer = None  # as in a run that trains its tokenizer and reads it back
    with pytest.raises(ValueError, match=r"train\.tokens was made with another tokenizer"):
        training.setup("fit")


def test_a_checkpoint_of_another_tokenizer_is_refused(tokenizer, plain_tokenizer, tmp_path):
    state = prepared(tokenizer, tmp_path).state_dict()
    prepared(tokenizer, tmp_path).load_state_dict(state)
    with pytest.raises(ValueError, match="the checkpoint was made with another tokenizer"):
        prepared(plain_tokenizer, tmp_path).load_state_dict(state)


def test_a_damaged_cache_is_refused(tokenizer, tmp_path):
    data = prepared(tokenizer, tmp_path)
    path = data.folder / "val.tokens"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match=r"val\.tokens is truncated or damaged"):
        data.setup("fit")


def test_a_failed_run_leaves_nothing_behind(tokenizer, tmp_path):
    (tmp_path / "good.txt").write_text("the boat")
    (tmp_path / "bad.txt").write_bytes(b"caf\xe9")
    source = TextFiles([str(tmp_path / "good.txt"), str(tmp_path / "bad.txt")])
    with pytest.raises(ValueError, match=r"bad\.txt is not UTF-8 text"):
        make(tokenizer, tmp_path / "cache", source=source, val_fraction=0.0).prepare_data()
    assert os.listdir(tmp_path / "cache") == []


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"max_length": 100_000}, r"train\.tokens has \d+ tokens, less than one row of 100000"),
        ({"source": Lines(("the boat",))}, "no document fell to the (train|val) data"),
        ({"source": Lines(("",))}, "no document fell to the train data"),
        ({"max_length": 0}, "max_length must be 1 or more"),
        ({"batch_size": 0}, "batch_size must be 1 or more"),
        ({"val_fraction": 0.6, "test_fraction": 0.4}, "leave something for training"),
        ({"val_fraction": -0.1}, "must be 0 or more"),
    ],
)
def test_impossible_settings_say_why(tokenizer, tmp_path, settings, reason):
    with pytest.raises(ValueError, match=reason):
        prepared(tokenizer, tmp_path, **settings)


def test_less_than_a_batch_is_refused(tokenizer, tmp_path):
    data = prepared(tokenizer, tmp_path, batch_size=10_000)
    with pytest.raises(ValueError, match="less than one batch of 10000"):
        data.train_dataloader()


def test_setup_without_data_is_refused(tokenizer, tmp_path):
    with pytest.raises(ValueError, match=r"call prepare_data\(\) first"):
        make(tokenizer, tmp_path).setup("fit")
    with pytest.raises(ValueError, match=r"the data isn't open"):
        make(tokenizer, tmp_path).train_dataloader()


def test_no_validation_is_possible(tokenizer, tmp_path):
    assert prepared(tokenizer, tmp_path, val_fraction=0.0).val_dataloader() == []


class Recorder(LightningModule):
    """Notes what it is shown."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append(hashlib.sha256(np.ascontiguousarray(batch["tokens"].numpy())).hexdigest()[:8])
        return self.weight * 0.0

    def validation_step(self, batch, batch_idx):
        pass

    def predict_step(self, batch, batch_idx):
        return batch["tokens"]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def trainer(folder, **settings):
    return Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **settings,
    )


@pytest.mark.parametrize(
    ("num_workers", "limits", "steps"),
    [
        (0, {}, [1, 7, 8, 9, 15, 16, 20]),
        (2, {}, [3, 8]),
        (0, {"limit_train_batches": 3}, range(1, 8)),
        (2, {"limit_train_batches": 3}, [3]),
    ],
)
def test_a_trainer_resumes_the_exact_order(tokenizer, tmp_path, num_workers, limits, steps):
    """After any step, in the middle or at the end of an epoch, and with epochs cut short."""
    settings = {"num_workers": num_workers, "source": Lines(STORIES.documents[:21]), "batch_size": 3}
    whole = Recorder()
    keep = ModelCheckpoint(dirpath=tmp_path / "checkpoints", filename="{step}", every_n_train_steps=1, save_top_k=-1)
    warnings.simplefilter("ignore")  # Lightning recommends more worker processes
    trainer(tmp_path, max_epochs=3, callbacks=[keep], **limits).fit(whole, make(tokenizer, tmp_path, **settings))
    per_epoch = len(whole.seen) // 3
    assert per_epoch == limits.get("limit_train_batches", 8)
    assert len(set(whole.seen)) > per_epoch
    for step in steps:
        resumed = Recorder()
        checkpoint = str(tmp_path / "checkpoints" / f"step={step}.ckpt")
        trainer(tmp_path, max_epochs=3, enable_checkpointing=False, **limits).fit(
            resumed, make(tokenizer, tmp_path, **settings), ckpt_path=checkpoint, weights_only=True
        )
        assert resumed.seen == whole.seen[step:], f"after step {step}"


def test_predict_gets_canvases(tokenizer, tmp_path):
    warnings.simplefilter("ignore")
    data = make(tokenizer, tmp_path)
    canvases = torch.cat(trainer(tmp_path).predict(Recorder(), data))
    data.setup("fit")
    rows = torch.cat([batch["tokens"] for batch in data.val_dataloader()])
    assert torch.equal(canvases[:, :8], rows[:, :8])
    assert bool((canvases[:, 8:] == 4).all())


def test_documents_begin_as_the_tokenizer_says(tokenizer, tmp_path, monkeypatch):
    def first(folder, **settings):
        return {document[0] for document in read(prepared(tokenizer, tmp_path / folder, **settings), "val")}

    assert first("a") == {tokenizer.bos_token_id}
    monkeypatch.setattr(type(tokenizer), "adds_bos", False)
    assert tokenizer.bos_token_id not in first("b")
    assert first("c", add_bos=True) == {tokenizer.bos_token_id}
