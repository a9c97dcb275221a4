"""The Slurm example starts what it says, with a stand-in for srun."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from llada.cli.train_options import names

SCRIPT = Path(__file__).parents[2] / "examples" / "slurm" / "train.sbatch"


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("shard_size", [None, "4", ""])
def test_the_script_splits_by_nodes_and_hands_options_on(tmp_path: Path, shard_size: str | None) -> None:
    (tmp_path / "srun").write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    (tmp_path / "srun").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_NUM_NODES": "3"}
    environment |= {} if shard_size is None else {"SHARD_SIZE": shard_size}
    command = ["bash", str(SCRIPT), "mine.yaml", "--trainer.max_steps", "7"]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    words = run.stdout.splitlines()
    assert words[:5] == ["--kill-on-bad-exit=1", "llada", "fit", "--config", "mine.yaml"]
    options = dict(zip(words[3::2], words[4::2], strict=True))
    assert options["--trainer.strategy.data_parallel_size"] == "24"
    assert options["--trainer.num_nodes"] == "3"
    assert options["--compile"] == "blocks"
    assert options["--trainer.max_steps"] == "7"
    expected = {None: "8", "4": "4", "": None}[shard_size]
    assert options.get("--trainer.strategy.shard_size") == expected
    known = {f"--{name}" for name in (*names("fit"), "config")}
    assert {word.partition(".")[0] for word in options} <= known
    assert subprocess.run(["bash", str(SCRIPT)], capture_output=True, text=True, check=False).returncode != 0
