"""How often the host waits for a device: budgets for a training step and for every preset of decoding.

They are counted on a device in name only (`tests/scripts/pretended_device.py`), which unlike a counter of questions
also sees what is sent to it.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from llada.samplers import PRESETS
from tests.processes import run_python

SCRIPT = Path(__file__).parent / "scripts" / "pretended_device.py"
STEPS, WINDOWS = 8, 2
OF_A_WINDOW, OF_A_CANVAS = 3, 8
"""Waits as windows are opened and left, and as the canvas is read; less than one more per step would add."""
PER_STEP = {
    # The number of tokens follows from numbers: none.
    **dict.fromkeys(
        ["low_confidence", "random_remasking", "left_to_right", "spread", "first_hitting", "pc_sampler"], 0
    ),
    **dict.fromkeys(["dream_entropy", "topk_margin", "maskgit_plus", "dkv_cache", "dllm_cache"], 0),
    # How many coins have chosen, or which columns lie near the written ones.
    **dict.fromkeys(["ancestral", "sedd_analytic", "tau_leaping", "dream_origin", "forward_backward", "vicinity"], 2),
    **dict.fromkeys(["remdm_cap", "remdm_rescale", "remdm_conf", "remdm_loop", "self_speculative"], 2),
}
"""By preset; 1 for the others, in which the model decides on the number of tokens."""
FEW = ["low_confidence", "fast_dllm_dual", "remdm_cap", "pc_sampler"]


def counted(*presets: str) -> Any:
    run = run_python(SCRIPT, *presets)
    assert run.returncode == 0, run.output
    return json.loads(run.output.splitlines()[-1])


def check_decoding(found: dict[str, Any]) -> None:
    for name, (calls, waits) in found.items():
        assert calls > 0, waits
        allowed = PER_STEP.get(name, 1) * max(calls, STEPS) + OF_A_WINDOW * WINDOWS + OF_A_CANVAS
        assert sum(waits.values()) <= allowed, (name, waits)


def test_a_training_step_waits_once_and_decoding_keeps_its_budget() -> None:
    found = counted(*FEW)
    for name, waits in found["training"].items():
        # Where tokens are masked. Padding and segments: where real tokens and segments are, and how many segments;
        # tolist is of the kernel for float32.
        others = {line: number for line, number in waits.items() if not line.startswith("tolist")}
        assert sum(others.values()) == {"dense": 1, "padded": 3, "packed": 3}[name.partition(",")[0]], (name, waits)
        assert sum("rows.py" in line for line in others) == 1
    assert found["decoding"].keys() == set(FEW)
    check_decoding(found["decoding"])


@pytest.mark.slow
def test_every_other_preset_keeps_its_budget() -> None:
    # Two are for block-causal models, and for those that were converted with a shift.
    names = [name for name in PRESETS if name not in ("block_diffusion", "tidar", *FEW)]
    found = counted(*names)["decoding"]
    assert found.keys() == set(names)
    check_decoding(found)
