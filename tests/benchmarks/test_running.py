"""Every benchmark runs, at toy size; the equality that each asserts first is part of it."""

import logging
import sys
from pathlib import Path

import pytest

from benchmarks import (
    ancestral,
    attention,
    data_rate,
    gpu,
    likelihood,
    loop_overhead,
    mask_scaling,
    noise_head,
    packing,
    peers,
    startup,
    train_memory,
    train_step,
    two_copies,
)
from tests.processes import run_python

TOY = ["--width", "16", "--layers", "1", "--rounds", "1"]


def test_train_step(tmp_path):
    result = train_step.main([*TOY, "--vocab", "50", "60", "--rows", "2", "--length", "16", "--out", str(tmp_path)])
    assert [row["vocabulary"] for row in result.rows] == [50, 60]
    assert all(row["floor s"] > 0 for row in result.rows)
    assert (tmp_path / "train_step.md").read_text() == result.page()
    assert not (tmp_path / "train_step.svg").exists(), "one ratio needs no picture"


@pytest.mark.skipif(not train_memory.CLEAR.exists(), reason="needs Linux's /proc")
def test_train_memory(monkeypatch):
    arguments = [*TOY, "--vocab", "3000", "--rows", "32", "--length", "128"]
    found = {}
    for kind in ("plain", "ours"):  # each in a process of its own: a peak is that of the whole process
        run = run_python("-m", "benchmarks.train_memory", *arguments, "--child", kind, cwd=Path(__file__).parents[2])
        assert run.returncode == 0, run.output
        found[kind] = int(run.output)
    assert found["plain"] > 2 * 4 * 32 * 128 * 3000  # two cubes of logits at least
    assert found["ours"] < found["plain"]
    monkeypatch.setattr(train_memory, "measure", lambda kind, vocab, given, rows: {"plain": 80.0}.get(kind, 10.0))
    result = train_memory.main(["--vocab", "126464"])
    assert [goal.value for goal in result.goals] == [8.0, 1.0]


def test_noise_head(monkeypatch):
    monkeypatch.setattr(noise_head, "memory", lambda side, sizes: {"ours": 5.0, "plain": 50.0}[side])
    found = noise_head.main(["--rows", "40", "--vocab_size", "50", "--width", "8", "--rounds", "1"])
    assert {side: size for side, (_, size) in found.items()} == {"ours": 5.0, "plain": 50.0}


def test_mask_scaling():
    result = mask_scaling.main(
        [*TOY, "--vocab", "50", "--rows", "2", "--length", "16", "--shares", "0.1", "0.5", "0.9"]
    )
    assert [(row["side"], row["masked"]) for row in result.rows] == [
        (side, share) for side in ("ours", "plain") for share in (0.1, 0.5, 0.9)
    ]
    lines = [{"masked": share, "cpu s": 2 + 3 * share} for share in (0.1, 0.5, 0.9)]
    assert mask_scaling.affine(lines) == pytest.approx((2.0, 3.0, 0.0))


def test_packing():
    result = packing.main([*TOY, "--vocab", "50", "--conversations", "9", "--length", "24"])
    padded, left_out, packed = result.rows
    assert padded["real tokens"] == left_out["real tokens"] < packed["real tokens"] <= 1


def test_ancestral():
    result = ancestral.main([*TOY, "--vocab", "50", "--rows", "1", "--length", "8", "--steps", "8"])
    assert result.rows[0]["vocabulary rows per token"] == 1.0


def test_likelihood():
    small = ["--vocab", "50", "--prompt", "5", "--answer", "4", "--samples", "4", "--batch", "2"]
    assert likelihood.main([*TOY, *small]).rows[0]["difference, nats"] < 1e-4


def test_loop_overhead(monkeypatch):
    result = loop_overhead.main(["--rounds", "1", "--steps", "3"])
    assert [row["loop"] for row in result.rows] == list(loop_overhead.SIDES)
    assert result.rows[0]["added cpu ms"] == 0.0


def test_attention():
    result = attention.main(["--rounds", "1", "--rows", "2", "--length", "16", "--heads", "2", "--head-dim", "8"])
    names = [row["kernel and layout"] for row in result.rows]
    assert "sdpa, packed" in names
    assert result.rows[names.index("plain, dense")]["wall ratio"] == 1.0
    assert all((row["wall ratio"] == "") == (row["remark"] != "") for row in result.rows)


def test_data_rate():
    small = [
        "--rounds",
        "1",
        "--tokens",
        "3000",
        "--rows",
        "2",
        "--length",
        "32",
        "--batches",
        "10",
        "--document",
        "20",
    ]
    assert [row["million tokens per cpu s"] > 0 for row in data_rate.main(small).rows] == [True] * 3


def test_startup():
    result = startup.main(["--rounds", "1", "--what", startup.IMPORT])
    assert [row["what"] for row in result.rows] == [startup.IMPORT]
    assert result.rows[0]["cpu s"] > 0


def test_gpu_program_on_a_cpu():
    result = gpu.main(["--device", "cpu", "--tiny", "--rounds", "1"])
    assert {row["tokens per step"] for row in result.rows} == {1, 2, 4, 8}
    assert {row["a call"] for row in result.extra["Calls"]} == {
        "no cache",
        "prefix cache",
        "dual cache",
        "dual cache, graph",
    }
    assert len(result.extra["Training"]) == 5
    assert "Left out" not in result.extra
    assert result.goals == []


@pytest.fixture(autouse=True)
def _levels():
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    yield
    logger.setLevel(level)


def test_two_copies():
    result = two_copies.main([*TOY, "--vocab", "50", "--lengths", "16", "512", "--blocks", "4"])
    assert [(row["tokens and block"], row["auto"]) for row in result.rows] == [("16, 4", "sdpa"), ("512, 4", "union")]


LIKE_LLADA = {
    "LLaDA/generate.py": """
from benchmarks import naive
def generate(model, prompt, steps=128, gen_length=128, block_length=128, temperature=0.0, mask_id=0):
    def logits(x):
        return model(x).logits
    return naive.low_confidence(logits, prompt, gen_length, steps, block_length, temperature, mask_id)
""",
    "LLaDA/get_log_likelihood.py": """
import torch
def forward_process(batch, prompt_index, mask_id):
    masked = (torch.rand(batch.shape) < 0.5) & ~prompt_index
    return torch.where(masked, mask_id, batch), torch.full(batch.shape, 0.5)
def get_log_likelihood(model, prompt, answer, mc_num=128, batch_size=16, cfg_scale=0.0, mask_id=0):
    batch = torch.cat([prompt, answer]).expand(batch_size, -1)
    noisy, share = forward_process(batch, torch.arange(batch.shape[1]) < len(prompt), mask_id)
    right = model(noisy).logits.log_softmax(-1).gather(-1, batch[..., None])[..., 0]
    return float(((noisy == mask_id) * right / share).sum()) / batch_size
""",
    "dllm/dllm/core/trainers/mdlm.py": """
import torch
class LinearAlphaScheduler:
    def __call__(self, t):
        return 1.0 - t
    def weight(self, t):
        return 1.0 / t
class MDLMTrainer:
    def compute_loss(self, model, inputs):
        tokens, mask = inputs["input_ids"], self.processing_class.mask_token_id
        t = self.time_epsilon + (1 - self.time_epsilon) * torch.rand(len(tokens))[:, None]
        masked = torch.rand(tokens.shape) < t
        right = model(torch.where(masked, mask, tokens)).logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
        return -(masked * right / t).sum() / tokens.numel() * ERROR
""",
    "mdlm/noise_schedule.py": """
import torch
class LogLinearNoise(torch.nn.Module):
    def forward(self, t):
        kept = 1 - 0.999 * t
        return -kept.log(), 0.999 / kept
""",
    "mdlm/diffusion.py": """
from types import SimpleNamespace
import hydra.utils, dataloader, models, noise_schedule, utils
import torch
from lightning.pytorch import LightningModule
class Diffusion(LightningModule):
    def _sample_t(self, number, device):
        return self.sampling_eps + (1 - self.sampling_eps) * torch.rand(number, device=device)
    def q_xt(self, tokens, share):
        return torch.where(torch.rand(tokens.shape) < share, self.mask_index, tokens)
    def log_law(self, noisy):
        logits = self.backbone(noisy, None)
        logits[..., self.mask_index] += self.neg_infinity
        return logits.log_softmax(-1)
    def _loss(self, tokens, attention_mask):
        t = self._sample_t(len(tokens), tokens.device)
        sigma, slope = self.noise(t)
        noisy = self.q_xt(tokens, 1 - torch.exp(-sigma[:, None]))
        terms = (noisy == self.mask_index) * self.log_law(noisy).gather(-1, tokens[..., None])[..., 0]
        weighted = -terms * (slope / torch.expm1(sigma))[:, None]
        return SimpleNamespace(loss=weighted.sum() / attention_mask.sum() * ERROR)
    @torch.no_grad()
    def _sample(self):
        tokens = torch.full((self.config.loader.eval_batch_size, self.config.model.length), self.mask_index)
        for column in torch.randperm(tokens.shape[1]):
            law = self.log_law(tokens)[:, column].exp()
            tokens[:, column] = torch.multinomial(law, 1)[:, 0] * FAULT
        return tokens
""",
}  # fmt: skip


@pytest.fixture
def checkouts(tmp_path, monkeypatch):
    """Modules with the names and arguments of those that are published."""
    for name, text in LIKE_LLADA.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text.replace("ERROR", "1.0").replace("FAULT", "1"), "utf-8")
    monkeypatch.setenv("PEERS", str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "dllm"]:
        del sys.modules[name]


def test_peers(checkouts, monkeypatch):
    result = peers.main([*TOY, "--vocab", "50"])
    assert [row["what"] for row in result.rows] == [
        "LLaDA generate",
        "LLaDA get_log_likelihood",
        "MDLM _sample, 128 steps",
        "training step, LLaDA's published loss",
        "training step, dLLM compute_loss",
        "training step, MDLM _loss",
    ]
    laws = {"MDLM _sample, 128 steps": 4.0}
    assert all(row["difference"] < laws.get(row["what"], 1e-5) and row["cpu ratio"] > 0 for row in result.rows)
    wrong = checkouts / "dllm/dllm/core/trainers/mdlm.py"
    wrong.write_text(LIKE_LLADA["dllm/dllm/core/trainers/mdlm.py"].replace("ERROR", "1.01"), "utf-8")
    sys.modules.pop("dllm.core.trainers.mdlm")
    with pytest.raises(SystemExit, match=r"the loss differs by 0\.0"):
        peers.main([*TOY, "--vocab", "50"])
    wrong.write_text(LIKE_LLADA["dllm/dllm/core/trainers/mdlm.py"].replace("ERROR", "1.0"), "utf-8")
    sys.modules.pop("dllm.core.trainers.mdlm")
    wrong, text = checkouts / "mdlm/diffusion.py", LIKE_LLADA["mdlm/diffusion.py"]
    for error, fault, message in (("1.01", "1", "MDLM's loss differs by 0"), ("1.0", "0", "MDLM's law differs by")):
        wrong.write_text(text.replace("ERROR", error).replace("FAULT", fault), "utf-8")
        with pytest.raises(SystemExit, match=message):
            peers.main([*TOY, "--vocab", "50"])
    monkeypatch.setenv("PEERS", str(checkouts / "nowhere"))
    with pytest.raises(SystemExit, match="PEERS must name a folder"):
        peers.main([])
