"""The published protocols: complete, consistent, and what LLaDA's files say where they were read."""

from dataclasses import replace

import pytest
import torch

from llada.evaluation import PROTOCOLS, EndRule
from llada.evaluation.protocols import EOS, EOT
from llada.metrics import StratifiedCounts
from llada.process import MaskingProcess


def test_the_papers_table_of_the_base_model() -> None:
    """arXiv 2502.09992, table 1, as EVAL.md repeats it."""
    table = {
        "mmlu": 65.9, "bbh": 49.7, "arc-challenge": 45.9, "hellaswag": 70.5, "truthfulqa": 46.1, "winogrande": 74.8,
        "piqa": 73.6, "gsm8k": 70.3, "math": 31.4, "gpqa": 25.2, "humaneval": 35.4, "mbpp": 40.0, "cmmlu": 69.9,
        "ceval": 70.5,
    }  # fmt: skip
    assert {name: PROTOCOLS[f"llada-8b-base/{name}"].score for name in table} == table
    assert not any(PROTOCOLS[f"llada-8b-base/{name}"].guidance for name in table)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_can_be_built(name: str) -> None:
    entry = PROTOCOLS[name]
    assert (entry.num_samples is None) != (entry.num_new_tokens is None)
    assert 0.0 < entry.score < 100.0
    assert entry.chat == (not name.startswith("llada-8b-base/")) == (not entry.same_harness)
    estimator = entry.estimator(rows_per_call=4)
    assert estimator.rows_per_call == 4
    assert isinstance(estimator.masks, StratifiedCounts)
    if entry.num_samples is not None:
        assert (estimator.num_samples, estimator.guidance.scale) == (entry.num_samples, entry.guidance)
        assert entry.sampler() is None


@pytest.mark.parametrize("name", [name for name, entry in PROTOCOLS.items() if entry.num_new_tokens])
def test_every_sampler_writes_one_token_per_call(name: str) -> None:
    entry = PROTOCOLS[name]
    ends = EndRule(suppress_tokens=(3,) * len(entry.ends.suppress_tokens), last=(2,) * len(entry.ends.last))
    short = replace(entry, num_new_tokens=16, block_length=entry.block_length and 4, ends=ends)
    sampler, mask = short.sampler(), 4
    assert sampler is not None
    logits = torch.tensor([0.0, 1.0, 2.0, 3.0, 9.0])
    sample = sampler(lambda tokens: logits.expand(*tokens.shape, 5), torch.full((1, 16), mask), MaskingProcess(mask))
    assert sample.calls.tolist() == [16]
    assert set(sample.tokens[0].tolist()) == {2 if ends.suppress_tokens else 3}


def test_end_rules_of_the_instruct_models() -> None:
    never, last = PROTOCOLS["llada-8b-instruct/humaneval"].sampler(), PROTOCOLS["llada-8b-instruct/gsm8k"].sampler()
    blocks = PROTOCOLS["llada-8b-instruct/gsm8k-blocks"].sampler()
    assert never.proposal.suppress_tokens == (EOS,)
    assert never.order.without == ()
    assert last.order.without == (EOS, EOT)
    assert last.proposal.suppress_tokens == ()
    assert (blocks.window.block_length, blocks.order.without, blocks.proposal.suppress_tokens) == (8, (), ())
