"""``llada samplers`` reads the registry, and the short options reach the sampler that they name."""

import inspect
import json
from dataclasses import dataclass

import pytest
import yaml

from llada.checkpoints.describe import build
from llada.cli.boundary import Misunderstood
from llada.cli.changes import NAMES, SamplerChanges, having, into_preset
from llada.cli.samplers import entry, explained, likelihood_of
from llada.samplers import (
    PRESETS,
    Blocks,
    Confidence,
    Quota,
    Sampler,
    Threshold,
    UnmaskingSampler,
    fast_dllm,
    low_confidence,
    random_remasking,
    spread,
)
from tests.cli.conftest import Command


def test_the_list_is_the_registry(llada: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    run = llada("samplers")
    assert run.code == 0, run.err
    listed = [line.split()[0] for line in run.out.splitlines() if line and line.split()[0] in PRESETS]
    assert listed == list(PRESETS)
    assert "threshold=0.9" in run.out
    drawn = [line.split()[0] for line in run.out.splitlines() if "exact if drawn" in line]
    assert drawn == ["margin_threshold", "eb_sampler", "left_to_right"]
    assert "arXiv 2502.09992, algorithm 5." in run.out
    assert "Also, where a method can have them: block_length, temperature, " in run.out
    run = llada("samplers", "--jsonl")
    assert [json.loads(line)["name"] for line in run.out.splitlines()] == list(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_an_entry_says_what_the_code_knows(name: str) -> None:
    known = entry(name)
    default = PRESETS[name]()
    assert (known["likelihood"] == "none") == (default.likelihood_gap is not None)
    assert known["likelihood_gap"] == default.likelihood_gap
    takes = "temperature" in known["arguments"]
    assert known["likelihood_drawn"] == likelihood_of(PRESETS[name](temperature=1.0) if takes else default)
    assert (known["source"] is None) == (name in {"left_to_right", "spread", "comb"})  # these are nobody's
    assert list(known["arguments"]) == list(inspect.signature(PRESETS[name]).parameters)
    assert known["summary"]
    assert known["summary"].endswith((".", ":"))


def test_likelihoods_have_their_names() -> None:
    assert likelihood_of(spread()) == "exact"
    assert likelihood_of(random_remasking()) == "bound"
    assert likelihood_of(low_confidence()) == "none"


@pytest.mark.parametrize("name", ["low_confidence", "llada21", "self_speculative", "first_hitting"])
def test_what_is_explained_can_be_copied(llada: Command, name: str) -> None:
    text = explained(name)
    assert inspect.getdoc(PRESETS[name]) in text
    _, preset, parts = text.split("  sampler:\n")
    written = yaml.safe_load("sampler:\n" + preset.partition("\n\n")[0])["sampler"]
    assert written["class_path"] == f"llada.samplers.{name}"
    arguments = {key: tuple(x) if isinstance(x, list) else x for key, x in written["init_args"].items()}
    assert PRESETS[name](**arguments) == PRESETS[name]()
    assert build(yaml.safe_load("sampler:\n" + parts)["sampler"], Sampler, "sampler", Sampler) == PRESETS[name]()


def test_one_is_explained_by_the_command(llada: Command) -> None:
    run = llada("samplers", "comb")
    assert run.code == 0, run.err
    assert run.out.startswith("comb(\n    stride: int = 8,\n")
    assert "With its defaults a text has an exact likelihood under it" in run.out
    greedy = explained("eb_sampler")
    assert "at temperature 0 it writes one text" in greedy
    assert "At temperature 1 it has an exact one." in greedy
    assert "At temperature 1" not in explained("low_confidence")


@pytest.mark.parametrize("name", NAMES)
def test_a_short_option_is_the_argument_of_the_preset(name: str) -> None:
    for preset, function in PRESETS.items():
        words = ["m.ckpt", "--sampler", preset, f"--{name}", "3", "--jsonl"]
        if name in inspect.signature(function).parameters:
            assert into_preset(words) == ["m.ckpt", "--sampler", preset, "--jsonl", f"--sampler.{name}", "3"]
            assert into_preset([f"--{name}=3", f"--sampler=llada.samplers.{preset}"])[1:] == [f"--sampler.{name}", "3"]
        else:
            with pytest.raises(Misunderstood, match=f"the preset {preset} has no {name}; these have it: ") as caught:
                into_preset(words)
            assert all(other in str(caught.value) for other in having(name))


def test_without_a_preset_the_models_own_sampler_is_changed() -> None:
    assert into_preset(["--steps", "3"]) == ["--steps", "3"]
    assert SamplerChanges(steps=3, temperature=0.5)(low_confidence()) == low_confidence(3, temperature=0.5)
    assert SamplerChanges(threshold=0.5, block_length=8)(fast_dllm()) == fast_dllm(0.5, block_length=8)
    own = UnmaskingSampler(Threshold(0.9), Confidence(), window=Blocks(4))
    assert SamplerChanges(block_length=8)(own).window == Blocks(8)
    assert SamplerChanges()(own) is own
    assert not SamplerChanges()


def test_what_the_models_own_sampler_lacks_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"the block_length of .* can't be changed: UnmaskingSampler has no block_length; name a"
    ):
        SamplerChanges(block_length=8)(low_confidence())
    with pytest.raises(ValueError, match=r"the threshold .* has no threshold; .*fast_dllm"):
        SamplerChanges(threshold=0.5)(low_confidence())

    @dataclass(frozen=True)
    class Twice:
        amount: Quota
        second: Quota

    with pytest.raises(ValueError, match="has 2 parts with a steps"):
        SamplerChanges(steps=3)(Twice(Quota(1), Quota(2)))  # type: ignore[arg-type]
    assert SamplerChanges(steps=3, threshold=0.5).given == "--steps and --threshold"
