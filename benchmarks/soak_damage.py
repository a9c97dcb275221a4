"""Inputs of commands, and how they are damaged: the kinds that `benchmarks.soak_inputs` goes through.

A kind is a file (or an option's value), a way to damage it, and a command that reads it. `prepare` makes a folder with
whole inputs: a model that was trained for a step, in three layouts, its tokenizer, its data, and questions to it.
"""

import contextlib
import gzip
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from llada.module import DiffusionLM

VALUES: list[Any] = [None, True, -1, 0, 1, 2**63, 1e308, "", "\x1b[2J", "x" * 5000, [], [[]], {}, {"a": 1}]
WORDS = [
    "-1", "0", "1", "1e308", "nan", "inf", str(2**63), "", "x", "\x1b[2J", "é", "[]", "{}", "null", "a,b", "x" * 5000,
]  # fmt: skip
PIECES = ["(", ")", "[", "]", "{3}", "{2,1}", "*", "+", "?", "|", "\\", "\\d", "^", "$", ".", "a", "(?=b)", "\\1", "é"]
JINJA = [
    "{{", "}}", "{%", "%}", " if ", "endfor", "message", ".x", "[-1]", "|upper", "*9**9", "'", "range(10**9)", "#}",
]  # fmt: skip
OPTIONS = ["num_samples", "num_new_tokens", "max_new_tokens", "batch_size", "seed", "temperature", "steps", "threshold"]
OPTIONS += [
    "block_length",
    "sampler",
    "length",
    "regex",
    "infill",
    "prompt",
    "bos",
    "dtype",
    "device",
    "mask",
    "config",
]
OPTIONS += [
    "backbone",
    "trust",
    "max_tokens",
    "page",
    "picture",
    "draft",
    "checkpoint",
    "tokenizer",
    "regex_max_states",
]

FIT = """
trainer:
  accelerator: cpu
  max_steps: 1
  logger: false
  enable_progress_bar: false
  enable_model_summary: false
  num_sanity_val_steps: 0
  limit_val_batches: 1
  callbacks: [{class_path: ModelCheckpoint, init_args: {dirpath: ., filename: model, enable_version_counter: false}}]
model:
  backbone: {class_path: BidirectionalTransformer, init_args: {width: 16, num_layers: 1, num_heads: 2}}
"""
TEXT = """
data:
  class_path: TextDataModule
  init_args:
    source: {class_path: TextFiles, init_args: {paths: story.txt, split_on_blank_lines: true}}
    tokenizer: {class_path: SentencePieceTraining, init_args: {vocab_size: 290}}
    max_length: 16
    batch_size: 4
    val_fraction: 0.2
    cache_folder: cache
"""
LORA = "{class_path: LoRA, init_args: {rank: 2, targets: [q_proj, v_proj]}}"
CHAT = """
data:
  class_path: InstructionDataModule
  init_args:
    source: {class_path: ChatMessages, init_args: {records: {class_path: JsonLines, init_args: {paths: chats.jsonl}}}}
    tokenizer: {class_path: load_tokenizer, init_args: {path: words}}
    template: {class_path: checkpoint_template, init_args: {folder: talk}}
    max_length: 64
    batch_size: 4
    val_fraction: 0.2
    cache_folder: chat_cache
"""
RECORDS = """
data:
  class_path: TextDataModule
  init_args:
    source: {class_path: %s, init_args: {paths: %s}}
    tokenizer: {class_path: load_tokenizer, init_args: {path: words}}
    max_length: 16
    batch_size: 4
    val_fraction: 0.2
    cache_folder: %s
"""
TEMPLATE = (
    "{% for message in messages %}[{{ message.role }}] {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


@dataclass(frozen=True)
class Kind:
    """One kind of input.

    Attributes:
        files: pattern of the files that are damaged, one at a time; empty: the input is made up.
        damage: the new content from the old one.
        command: the command line; ``VALUE`` in it stands for a made-up input.
        named: what the error may name instead of the file; words with commas between them.
    """

    files: str
    damage: Callable[[bytes], bytes]
    command: tuple[str, ...]
    named: str = ""


def bytes_of(content: bytes) -> bytes:
    """Cut it off, or empty, repeat, fill or replace a part."""
    first, second = sorted(random.randrange(len(content) + 1) for _ in range(2))
    part = content[first:second]
    new = random.choice([b"", bytes(len(part)), part * 2, random.randbytes(len(part)), random.randbytes(3)])
    return random.choice([content[:first], content[:first] + new + content[second:]])


def _elsewhere(document: Any) -> None:
    """Another value at a random place of a document, or a place less."""
    place: Any = document
    while True:
        key = random.choice(list(place) if isinstance(place, dict) else range(len(place)))
        if not isinstance(place[key], dict | list) or not place[key] or random.random() < 0.3:
            break
        place = place[key]
    if random.random() < 0.25:
        del place[key]
    else:
        place[key] = random.choice(VALUES)


def json_of(content: bytes) -> bytes:
    """A JSON document with another value, or a place less; now and then other bytes."""
    if random.random() < 0.2:
        return bytes_of(content)
    document = json.loads(content)
    _elsewhere(document)
    return json.dumps(document).encode()


def yaml_of(content: bytes) -> bytes:
    """A YAML document with another value, or a place less."""
    document = yaml.safe_load(content)
    _elsewhere(document)
    return yaml.safe_dump(document).encode()


def line_of(content: bytes) -> bytes:
    """One line of a JSON Lines file, as `json_of`."""
    lines = content.splitlines()
    number = random.randrange(len(lines))
    lines[number] = json_of(lines[number])
    return b"\n".join(lines)


def inside_gzip(content: bytes) -> bytes:
    """The compressed bytes, or a line of what was compressed."""
    return bytes_of(content) if random.random() < 0.5 else gzip.compress(line_of(gzip.decompress(content)))


def template(content: bytes) -> bytes:
    """A template with some words of the language where they don't belong."""
    text = content.decode()
    for _ in range(random.randint(1, 3)):
        place = random.randrange(len(text) + 1)
        text = text[:place] + random.choice(JINJA) + text[place + random.choice([0, 0, 1, 5, 30]) :]
    return text.encode()


def weights_or_json(content: bytes) -> bytes:
    """A JSON document as `json_of`, anything else as `bytes_of`."""
    return json_of(content) if content[:1] == b"{" else bytes_of(content)


def expression(_: bytes) -> bytes:
    """A regular expression, most often none."""
    return "".join(random.choices(PIECES, k=random.randint(1, 12))).encode()


def option(_: bytes) -> bytes:
    """An option with a value that it may not take."""
    return f"--{random.choice(OPTIONS)}={random.choice(WORDS)}".encode()


SAMPLE = ("sample", "--num_new_tokens=2")
FOLDER = (*SAMPLE, "--checkpoint=released", "--tokenizer=words")
CKPT = (*SAMPLE, "--checkpoint=model.ckpt")
KINDS = {
    "checkpoint": Kind("model.ckpt", bytes_of, CKPT),
    "config.json": Kind("released/config.json", json_of, FOLDER, "released"),
    "weights": Kind("released/*.safetensors", bytes_of, FOLDER, "released"),
    "tokenizer": Kind("words/*", bytes_of, FOLDER, "words"),
    "prompts": Kind("prompts.txt", bytes_of, (*CKPT, "--prompts_file=prompts.txt")),
    "configuration": Kind("config.yaml", bytes_of, ("fit", "--config=config.yaml", "--overwrite")),
    "token file": Kind("cache/*/*.tokens", bytes_of, ("fit", "--config=config.yaml", "--overwrite"), ".tokens"),
    "expression": Kind("", expression, (*CKPT, "--regex=VALUE"), "llada sample"),
    "setting": Kind(
        "config.yaml", yaml_of, ("fit", "--config=config.yaml", "--trainer.max_steps=1", "--overwrite"), "--"
    ),
    "resumed": Kind(
        "model.ckpt",
        bytes_of,
        ("fit", "--config=config.yaml", "--trainer.max_steps=2", "--ckpt_path=model.ckpt", "--overwrite"),
    ),
    "chats": Kind("chats.jsonl", line_of, ("fit", "--config=chat.yaml", "--overwrite")),
    "chat template": Kind("talk/*", template, ("fit", "--config=chat.yaml", "--overwrite"), "template"),
    "records": Kind("rows.jsonl.gz", inside_gzip, ("fit", "--config=rows.yaml", "--overwrite")),
    "columns": Kind("rows.parquet", bytes_of, ("fit", "--config=columns.yaml", "--overwrite")),
    "pairs": Kind("pairs.jsonl", line_of, ("score", "--checkpoint=model.ckpt", "--pairs=pairs.jsonl")),
    "adapter": Kind("lora/*", weights_or_json, (*FOLDER, "--adapter=lora"), "lora"),
    "converted": Kind("released/*", weights_or_json, ("convert", "released", "out", "--tokenizer=words"), "released"),
    "option": Kind("", option, (*CKPT, "VALUE"), "--,llada sample"),
}


def _write_inputs(folder: Path) -> None:
    """Texts, chats, questions and configurations."""
    said = [f"boat {n} is on the river" for n in range(120)]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in said)
    turns = [
        [{"role": "user", "content": f"is boat {n} on"}, {"role": "assistant", "content": "the river"}]
        for n in range(9)
    ]
    files: dict[str, str | bytes] = {
        "story.txt": "\n\n".join(said),
        "prompts.txt": "boat 1 is\nboat 12 is on\n",
        "config.yaml": FIT + TEXT,
        "tuned.yaml": (FIT + TEXT)
        .replace("dirpath: .,", "dirpath: tuned,")
        .replace("callbacks: [", f"callbacks: [{LORA}, "),
        "chat.yaml": FIT + CHAT,
        "rows.yaml": FIT + RECORDS % ("JsonLines", "rows.jsonl.gz", "rows_cache"),
        "columns.yaml": FIT + RECORDS % ("ParquetFiles", "rows.parquet", "columns_cache"),
        "chats.jsonl": "".join(json.dumps({"messages": messages}) + "\n" for messages in turns),
        "rows.jsonl.gz": gzip.compress(lines.encode()),
        "pairs.jsonl": "".join(
            json.dumps({"prompt": text[:6], "answers": [text[6:], "on"]}) + "\n" for text in said[:3]
        ),
        "talk/chat_template.jinja": TEMPLATE,
    }
    (folder / "talk").mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with contextlib.suppress(ImportError):  # without pyarrow the kind "columns" has an error that names the package
        from pyarrow import Table, parquet

        parquet.write_table(Table.from_pydict({"text": said}), folder / "rows.parquet")


def prepare(folder: Path, run: Callable[[list[str]], tuple[int, str]]) -> None:
    """Fill a folder with whole inputs of all kinds.

    Args:
        folder: an empty one.
        run: runs a command line in the working directory: its exit status, and what it said.
    """
    _write_inputs(folder)
    with contextlib.chdir(folder):
        for command in (
            ["fit", "--config=tuned.yaml"],
            ["convert", "tuned/model.ckpt", "lora", "--adapter_only"],
            ["fit", "--config=config.yaml"],
            ["tokenizer", "extract", "--checkpoint=model.ckpt", "--out=words"],
        ):
            status, said = run(command)
            assert status == 0, said
        DiffusionLM.load_from_checkpoint("model.ckpt").save_pretrained("released", layout="llada")
