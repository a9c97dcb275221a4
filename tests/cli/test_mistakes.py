"""Whatever is misspelt on the command line or in a configuration: one sentence with the cause, and status 2."""

import re
from pathlib import Path

import pytest

from llada.cli.boundary import Misunderstood
from llada.cli.commands import COMMANDS, SUBCOMMANDS, TRAINERS
from llada.cli.mistakes import leaves
from llada.cli.nearest import no_such
from llada.cli.preflight import check
from llada.cli.signature import Signature, read
from llada.cli.train import LLaDACLI, TrainParser, run
from llada.cli.train_front import answered
from tests.cli.conftest import TINY, Command

TITLES = [
    *(name for name, (module, _) in COMMANDS.items() if name not in SUBCOMMANDS and module not in TRAINERS),
    *(f"{name} {word}" for name, words in SUBCOMMANDS.items() for word in words),
]


def signature(title: str) -> Signature:
    return read(COMMANDS[title.split()[0]][0], title.split()[-1], title)


def refused(title: str, *words: str) -> str:
    with pytest.raises(Misunderstood) as caught:
        check(signature(title), words)
    return str(caught.value)


@pytest.mark.parametrize("title", TITLES)
def test_every_option_of_every_command_misspelt(title: str) -> None:
    options = signature(title).options
    names = {option.name for option in options}
    for option in options:
        typo = option.name[:-2] + option.name[-1] + option.name[-2]
        if typo in names or len(option.name) < 4:
            continue
        said = refused(title, f"--{typo}", "1")
        assert said.startswith(f"there is no option '--{typo}'; did you mean --{option.name}? There are --")
        assert all(f"--{name}" in said for name in names)
        if option.is_flag:
            assert refused(title, f"--{option.name}=1") == f"--{option.name} takes no value; got '1'"
            continue
        if f"{option.name}_only" in names:
            continue
        assert refused(title, f"--{option.name}") == f"--{option.name} needs a value"
        assert refused(title, f"--{option.name}", "--help_all").endswith("needs a value")
        kinds = {"int": "a whole number", "float": "a number", "bool": "true or false"}
        kind = option.kind.removesuffix(" | None")
        if kind in kinds:
            given = [f"--{o.name}=x" for o in options if o.default is None]
            said = refused(title, *given, f"--{option.name}=many")
            assert said == f"--{option.name} must be {kinds[kind]}; got 'many'"


def test_what_must_be_given_and_what_stands_alone() -> None:
    assert refused("generate", ".") == "--input and --output must be given; `llada generate --help` says more"
    assert refused("sample", ".", "b") == "'b' belongs to no option; CHECKPOINT may stand in front"
    assert refused("score", "--seed", "1", "x").startswith("'x' belongs to no option")
    check(signature("convert"), [".", "new", "--adapter"])  # alone it is a flag


def test_the_nearest_name() -> None:
    assert (
        no_such("preset", "cmb", ["comb", "klass"])
        == "there is no preset 'cmb'; did you mean comb? There are comb, klass"
    )
    assert no_such("preset", "zzz", ["comb", "klass"]) == "there is no preset 'zzz'; there are comb, klass"
    assert no_such("preset", "comb", []) == "there is no preset 'comb'"


# What is on the command line of a fit -> the beginning of the sentence.
OPTIONS = {
    "--trainer.max_step=3": "there is no option '--trainer.max_step'; did you mean --trainer.max_steps? There are ",
    "--modle.seed=3": "there is no option '--modle'; did you mean --model? There are --trainer, --model, ",
    "--model.sead=3": "there is no option '--model.sead'; did you mean --model.seed? There are ",
    "--overwrit=true": "there is no option '--overwrit'; did you mean --overwrite?",
    "--model.backbone=Nosuch": "model.backbone: there is no class or preset 'Nosuch'; there are "
    "BidirectionalTransformer, Body, DiffusionTransformer, GraphedBackbone",
    "--model.backbone=BidirectionalTransformer --model.backbone.widht=3": "model.backbone: there is no argument 'widht'"
    " of llada.BidirectionalTransformer; did you mean width? There are vocab_size, width, ",
    "--model.objective=llada.objectives.MaskdNELBO": "model.objective: there is no class or preset 'llada.objectives."
    "MaskdNELBO'; did you mean NELBO?",
    "--model.objective=NELB": "model.objective: there is no class or preset 'NELB'; did you mean NELBO?",
    "--model.objective=llada.objetives.NELBO": "model.objective: there is no class or preset 'llada.objetives.NELBO'",
    "--model.objective=llada.noise.LinearSchedule": "model.objective: llada.noise.LinearSchedule is no Objective",
    "--model.sampler=llada.samplers.low_confidnce": "model.sampler: there is no class or preset 'llada.samplers."
    "low_confidnce'; did you mean low_confidence?",
    "--model.optimizer=AdamWW": "model.optimizer: there is no class or preset 'AdamWW'; did you mean AdamW?",
    "--model.optimizer=torch.optim.AdamW --model.optimizer.lrr=3": (
        "model.optimizer: there is no argument 'lrr' of torch.optim."
    ),
    "--model.optimizer=torch.optim.AdamW --model.optimizer.lr=fast": "model.optimizer.lr must be a number; got 'fast'",
    "--data=TextDataModul": "data: there is no class or preset 'TextDataModul'; did you mean TextDataModule?",
    "--data=TextDataModule --data.max_length=word": "data.max_length must be a whole number; got 'word'",
    "--data=TextDataModule --data.source=TextFile": "data.source: there is no class or preset 'TextFile'; did you mean "
    "TextFiles?",
    "--trainer.max_steps=many": "trainer.max_steps must be a whole number; got 'many'",
    "--trainer.precision=17": "trainer.precision must be 64 or 32 or 16 or ",
    "--trainer.callbacks+=LoRE": "trainer.callbacks: there is no class or preset 'LoRE'; did you mean LoRA?",
    "--trainer.logger=CSVLoger": "trainer.logger: there is no class or preset 'CSVLoger'; did you mean CSVLogger?",
    "--changed_parts=maybe": "changed_parts must be refuse or configuration or checkpoint; got 'maybe'",
    "--share_folder=perhaps": "share_folder must be true or false; got 'perhaps'",
    "--data=x --config": "--config needs a value",
    "--trainer.max_steps=3 extra": "'extra' belongs to no option",
}  # fmt: skip
# What a line of the configuration becomes -> the beginning of the sentence.
KEYS = {
    ("trainer:", "traner:"): "FILE: there is no key 'traner'; did you mean trainer? There are trainer, model, data, ",
    ("  backbone:", "  bakbone:"): "there is no option '--model.bakbone'; did you mean --model.backbone?",
    ("width: 32", "widht: 32"): "model.backbone: there is no argument 'widht' of llada.backbones.",
    ("width: 32", "width: wide"): "model.backbone.width must be a whole number; got 'wide'",
    ("width: 32", "width: [32"): "FILE: line 15: this is no YAML: ",
    ("max_length: 16", "max_lenght: 16"): "data: there is no argument 'max_lenght' of llada.data.TextDataModule; did y",
    ("vocab_size: 290", "vocab_sise: 290"): "data.tokenizer: there is no argument 'vocab_sise' of llada.data.Sentence",
    ("llada.data.TextFiles", "llada.data.TextFile"): "data.source: there is no class or preset 'llada.data.TextFile'",
    ("class_path: llada.data.TextDataModule", "clas_path: llada.data.TextDataModule"): "data: there is no key 'clas_"
    "path'; did you mean class_path?",
    ("filename: model", "filname: model"): "trainer.callbacks: there is no argument 'filname' of lightning.pytorch.cal",
    ("max_epochs: 12", "max_epoch: 12"): "there is no option '--trainer.max_epoch'; did you mean --trainer.max_epochs?",
    ("logger: false", "logger: [a, b]"): "trainer.logger",
    ("schedule: llada.noise.LinearSchedule", "schedule: llada.noise.LinaerSchedule"): "model.process.schedule: there i",
}  # fmt: skip


@pytest.fixture(scope="module")
def parser() -> TrainParser:
    """That of training, made once."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(LLaDACLI, "parse_arguments", lambda cli, parser, arguments: made.append(parser))
        monkeypatch.setattr(LLaDACLI, "_parse_ckpt_path", stop)
        made: list[TrainParser] = []
        with pytest.raises(Made):
            run("fit", ["fit"])
    return made[0]


class Made(Exception):
    """The parser is there."""


def stop(cli: LLaDACLI) -> None:
    raise Made


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration of a training, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.yaml"
    path.write_text(TINY, encoding="utf-8")
    return path


def sentence(parser: TrainParser, *words: object) -> str:
    """What the front or the parser says of the words of a fit."""
    given = [str(word) for word in words]
    try:
        answered("llada.cli.train", "fit", [*given, "--data=x"])
        parser.parse_args(["fit", *given])
    except Misunderstood as error:
        return str(error)
    pytest.fail("nothing was refused")


DUMP = re.compile(r"Traceback|Union|<class|NestedArg|usage:|Given value|class_path'|\n")


def is_sentence(said: str, beginning: str) -> None:
    assert said.startswith(beginning), said
    assert not DUMP.search(said), said


def one_sentence(run: tuple[int, str, str], command: str, beginning: str) -> None:
    code, out, err = run
    assert (code, out) == (2, ""), err
    is_sentence(err.removesuffix("\n"), f"llada {command}: {beginning}")


@pytest.mark.parametrize("option", OPTIONS)
def test_options_of_training(parser: TrainParser, option: str) -> None:
    is_sentence(sentence(parser, *option.split()), OPTIONS[option])


@pytest.mark.parametrize("change", KEYS, ids=lambda change: change[1])
def test_keys_and_values_of_a_configuration(parser: TrainParser, config: Path, change: tuple[str, str]) -> None:
    assert change[0] in TINY
    config.write_text(TINY.replace(*change, 1), encoding="utf-8")
    is_sentence(sentence(parser, "--config", "mine.yaml"), KEYS[change].replace("FILE", "mine.yaml"))


def test_the_command_says_it_alone(llada: Command, config: Path) -> None:
    run = llada("fit", "--config", config, "--model.optimizer.lrr=3")
    one_sentence(run, "fit", "model.optimizer: there is no argument 'lrr' of torch.optim.AdamW; did you mean lr?")


@pytest.mark.parametrize(
    ("line", "beginning"),
    [
        ("sample M --sampler low_confidnce", "sampler: there is no class or preset 'low_confidnce'; did you mean low_"),
        ("sample M --sampler low_confidence --sampler.stps 3", "sampler: there is no argument 'stps' of llada.sampler"),
        ("sample M --sampler low_confidence --sampler.steps x", "sampler.steps must be a whole number or null"),
        ("chat M --template llada.data.plain_templat", "template: there is no class or preset 'llada.data.plain_templat"
         "'; did you mean plain_template?"),
        ("chat M --variables {a", "variables must be a mapping or null; got '{a'"),
        ("score M --text t --max_length 8 --estimator.num_sample 3", "estimator: there is no argument 'num_sample'"),
        ("sample M --sampler low_confidence --sampler.temperature null", "sampler.temperature can't be null; leave it"),
        ("sample M --sampler UnmaskingSampler --sampler.amount PerStep --sampler.order null", "sampler.order can't be"),
        ("sample M --sampler comb --sampler.temperature .nan", "sampler.temperature must be a number; got nan"),
        ("evaluate M --tasks t --estimator Condit", "estimator: there is no class or preset 'Condit'; there are Cond"),
        ("tokenizer train --source TextFiles --source.pth x --out y", "source: there is no argument 'pth' of llada.da"),
        ("tokenizer trian", "there is no command 'tokenizer trian'; did you mean tokenizer train?"),
        ("samplers cmb", "there is no preset 'cmb'; did you mean comb?"),
    ],
)  # fmt: skip
def test_parts_of_the_other_commands(llada: Command, line: str, beginning: str) -> None:
    words = line.split()
    Path("M").touch()
    Path("t").touch()
    one_sentence(llada(*words), words[0], beginning)


def test_a_configuration_of_another_command(llada: Command) -> None:
    Path("M").touch()
    Path("mine.yaml").write_text("num_sampels: 3\n", encoding="utf-8")
    run = llada("sample", "M", "--config", "mine.yaml")
    one_sentence(run, "sample", "there is no option '--num_sampels'; did you mean --num_samples?")
    Path("mine.yaml").write_text("num_samples: many\n", encoding="utf-8")
    run = llada("sample", "M", "--config", "mine.yaml")
    one_sentence(run, "sample", "num_samples must be a whole number; got 'many'")
    run = llada("sample", "M", "--config", "nowhere.yaml")
    assert (run.code, run.err) == (1, "llada sample: there is no file nowhere.yaml\n")


def test_the_tree_of_an_account() -> None:
    account = """Parser key "data":
  Does not validate against any of the Union subtypes
  Errors:
    - Problem with given class_path 'llada.data.TextDataModule':
        Parser key "max_length":
          Expected a <class 'int'>. Got value: word
    - Expected a <class 'NoneType'>
  Given value: word"""
    said = [(leaf.key, leaf.classes, leaf.text) for leaf in leaves(account)]
    assert said == [
        ("data.max_length", ("llada.data.TextDataModule",), "Expected a <class 'int'>. Got value: word"),
        ("data", (), "Expected a <class 'NoneType'>"),
    ]


def test_a_key_with_nothing_in_it_is_named(llada: Command, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("\ndata:\n")
    run = llada("fit", "--config", "c.yaml")
    assert (run.code, run.err) == (
        2,
        "llada fit: data has nothing in it; write it out, or leave its key away (read: c.yaml)\n",
    )


WHOLE = {
    "model.backbone": "model: {backbone: {class_path: BidirectionalTransformer, init_args: {width: 16}}}",
    "data": "data: {class_path: TextDataModule, init_args: {max_length: 8, batch_size: 2, "
    "source: {class_path: TextFiles, init_args: {paths: x.txt}}, "
    "tokenizer: {class_path: SentencePieceTraining, init_args: {vocab_size: 64}}}}",
}


@pytest.mark.parametrize(("part", "text"), [("model.backbone", "model: {backbone: {}}"), ("data", "data: {}")])
def test_a_part_of_which_nothing_is_said_is_no_base_class(llada: Command, tmp_path: Path, part: str, text: str) -> None:
    empty = tmp_path / "empty.yaml"
    empty.write_text("\n".join({**WHOLE, part: text}.values()), encoding="utf-8")
    one_sentence(llada("fit", "--config", empty), "fit", f"--{part} names no class")


@pytest.mark.parametrize(
    ("text", "words", "told"),
    [
        ("data: {class_path: {}}", [], "c.yaml: data.class_path must be the name of a class; got {}"),
        ("data: {class_path: }", [], "c.yaml: data.class_path must be the name of a class; got nothing"),
        ("data: {class_path: A, init_args: 5}", [], "c.yaml: data.init_args must be a mapping of arguments; got 5"),
        (
            "trainer: {callbacks: [{class_path: [B]}]}", [],
            "c.yaml: trainer.callbacks.0.class_path must be the name of a class; got ['B']",
        ),
        ("data: {class_path: A, with: 5}", [], "c.yaml: data: there is no key 'with'; there are class_path, init_args"),
        ("trainer: 5", [], "c.yaml: trainer must be a mapping of its options; got 5"),
        ("model: true", [], "c.yaml: model must be a mapping of its options; got True"),
        ("model: nowhere.yaml", [], "c.yaml: model must be a mapping of its options; got 'nowhere.yaml'"),
        ("data: {class_path: A}", ["--data.class_path={}"], "--data.class_path must be the name of a class; got '{}'"),
        ("data: {class_path: A}", ["--data.class_path", ""], "--data.class_path must be the name of a class; got ''"),
    ],
)  # fmt: skip
def test_a_class_is_named_by_a_name(llada: Command, tmp_path: Path, text: str, words: list[str], told: str) -> None:
    (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
    one_sentence(llada("fit", "--config", "c.yaml", *words), "fit", told)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("width: 16", "width: null"), "model.backbone.width can't be null; leave it away for 256"),
        (("width: 16", "width: .nan"), "model.backbone.width must be a whole number; got 'nan'"),
        (("width: 16", "norm_eps: .nan"), "model.backbone.norm_eps must be a number; got nan"),
        (("batch_size: 2", f"batch_size: {2**62}"), f"data.batch_size must be less than 2^62; got {2**62}"),
        (("batch_size: 2", "batch_size: null"), "--data.batch_size must be given"),
        (("batch_size: 2", "batch_size: 2, num_workers: null"), "data.num_workers can't be null; leave it away for 0"),
        (("paths: x.txt", "paths: null"), "--data.source.paths must be given"),
        (("{class_path: TextFiles, init_args: {paths: x.txt}}", "7"), "data.source: this must name a class, Source, by "
         "class_path; got 7"),
        (("{class_path: TextFiles, init_args: {paths: x.txt}}", "{a: 1}"), "data.source: this must name a class, Source"
         ", by class_path; got {'a': 1}"),
        (("{class_path: TextFiles, init_args: {paths: x.txt}}", "''"), "data.source: there is no class or preset ''"),
        (("model: {", "trainer: {max_steps: null}\nmodel: {"), "trainer.max_steps can't be null; leave it away for -1"),
        (("model: {", "trainer: {limit_val_batches: .nan}\nmodel: {"), "trainer.limit_val_batches must be a number"),
        (("model: {", "seed_everything: -1\nmodel: {"), "--seed_everything must be from 0 to 4294967295; got -1"),
    ],
)  # fmt: skip
def test_what_no_argument_can_be(llada: Command, change: tuple[str, str], told: str) -> None:
    text = "\n".join(WHOLE.values())
    assert change[0] in text
    Path("c.yaml").write_text(text.replace(*change), encoding="utf-8")
    one_sentence(llada("fit", "--config", "c.yaml"), "fit", told)


def test_a_file_is_named_where_the_command_line_has_the_option_too(llada: Command) -> None:
    Path("c.yaml").write_text("trainer: {max_steps: many}\n" + "\n".join(WHOLE.values()), encoding="utf-8")
    run = llada("fit", "--config", "c.yaml", "--trainer.max_steps=3")
    assert run.err == "llada fit: trainer.max_steps must be a whole number; got 'many' (read: c.yaml)\n"


def test_what_may_be_nothing_stays_so(llada: Command) -> None:
    Path("c.yaml").write_text("\n".join(WHOLE.values()), encoding="utf-8")
    run = llada("fit", "--config", "c.yaml", "--model.backbone.head_dim=null", "--trainer.logger=null")
    assert run.err == "llada fit: there is no file x.txt (read: c.yaml)\n"
