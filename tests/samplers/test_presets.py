"""Published methods by name: they run with their defaults, and the command line finds them."""

import inspect
from typing import Any

import pytest
import torch

from llada import samplers
from llada.backbones import BidirectionalTransformer
from llada.cli.mistakes import OneSentence
from llada.process import MaskingProcess
from llada.samplers import PRESETS, Blocks, Quota, Sampler, UnmaskingSampler, canvas
from llada.samplers.stopping import TokenIds

PROCESS = MaskingProcess(mask_token_id=31)


MODELS = {"block_diffusion": {"block_length": 16}, "tidar": {"shift": True}}
"""What a method asks of its model."""


def model(**options: Any) -> BidirectionalTransformer:
    torch.manual_seed(0)
    return BidirectionalTransformer(32, width=16, num_layers=1, num_heads=2, **options).eval()


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_fills_a_canvas_with_its_defaults(name: str) -> None:
    tokens = canvas([[1, 2, 3], [4, 5, 6]], 20, mask_token_id=31, pad_token_id=0).tokens
    slow = inspect.signature(PRESETS[name]).parameters.get("steps")
    sampler = PRESETS[name](steps=40) if slow is not None and slow.default == 1024 else PRESETS[name]()
    sample = sampler(model(**MODELS.get(name, {})), tokens, PROCESS)
    assert not PROCESS.is_masked(sample.tokens).any()
    assert torch.equal(sample.tokens[:, :3], tokens[:, :3])


@pytest.mark.parametrize("name", PRESETS)
def test_the_command_line_finds_a_preset(name: str) -> None:
    assert getattr(samplers, name) is PRESETS[name]
    parser = OneSentence()
    parser.add_argument("--sampler", type=Sampler | None)
    parsed = parser.parse_args(["--sampler", name])
    assert parser.instantiate_classes(parsed).sampler == PRESETS[name]()


@pytest.mark.parametrize("name", PRESETS)
def test_every_argument_of_a_preset_has_an_effect(name: str) -> None:
    """Another value of an argument makes another sampler."""
    plain = PRESETS[name]()
    values = {
        int: 6,
        float: 0.123,
        int | None: 6,
        float | None: 0.123,
        tuple[int, ...]: (3,),
        tuple[float, ...]: (0.5,),
        TokenIds: 6,
    }
    for argument, parameter in inspect.signature(PRESETS[name]).parameters.items():
        options = {argument: values[parameter.annotation]}
        block_length = inspect.signature(PRESETS[name]).parameters.get("block_length")
        if argument == "stop_token_ids" and block_length is not None and block_length.default is None:
            options["block_length"] = 7
            plain = PRESETS[name](block_length=7)
        assert PRESETS[name](**options) != plain, argument


def test_an_early_stop_needs_blocks() -> None:
    with pytest.raises(ValueError, match="stop_token_ids needs block_length"):
        PRESETS["low_confidence"](stop_token_ids=2)
    stopping = PRESETS["low_confidence"](steps=8, block_length=4, stop_token_ids=2)
    assert stopping == UnmaskingSampler(Quota(8), window=Blocks(4, 2))
