"""Against the code of others, as they publish it.

Needs a folder with checkouts, `PEERS=FOLDER python -m benchmarks.peers`: `LLaDA` (github.com/ML-GSAI/LLaDA), `dllm`
(github.com/ZHZisZZ/dllm) and `mdlm` (github.com/kuleshov-group/mdlm); one that isn't there is left out. Their functions
are loaded from their files and called unchanged, on this library's network, so the ratios say what the work around the
network costs: `generate` and `get_log_likelihood` of LLaDA; `compute_loss` of dLLM's `MDLMTrainer`, without its Trainer
and meter; `_loss` and `_sample` (with its cache, 128 steps, 2 x 128 tokens, vocabularies of up to 64,000) of MDLM's
`Diffusion`. "LLaDA's published loss" is the formula of its guidelines, which takes the masked rows of all logits before
the cross-entropy. Before anything is timed, tokens must be equal, losses and likelihoods of the same masks to 1e-5 of
their size, and the laws of 2,000 sampled texts of 3 tokens within 4 standard deviations of chi-square, which then are
the "difference".
Width 256, 6 layers, float32, unless the command says otherwise; a training step is that of the page on training steps.
"""

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import peers_mdlm
from benchmarks.peers_loading import Pair, loaded
from benchmarks.results import Plot, Result, Row, finish, must_equal, options, parse
from benchmarks.timing import interleave
from benchmarks.train_step import Problem, stepper
from llada.denoiser import as_denoiser
from llada.metrics import ConditionalLikelihood
from llada.metrics.masks import StratifiedCounts
from llada.process import MaskingProcess
from llada.samplers import Blocks, Quota, UnmaskingSampler

PROMPT, NEW, BLOCK, ANSWER, SAMPLES, EPSILON = 192, 64, 32, 32, 16, 1e-3
TRAINING = "training step"
MOST_WORDS = 64_000
"""Of the vocabularies at which MDLM's sampling is timed, which takes minutes for one text otherwise."""


class Answering(nn.Module):
    """A network as Hugging Face's are called: the answer has ``logits``.

    Args:
        network: tokens (B, L) -> logits (B, L, V).
    """

    device = torch.device("cpu")

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
        """Logits of all positions."""
        return SimpleNamespace(logits=self.network(input_ids, attention_mask))


def dllm_trainer(checkout: Path) -> Any:
    """The module of dLLM's trainer; the other parts, which need more packages, aren't imported."""
    for name in ("dllm", "dllm.core", "dllm.core.trainers", "dllm.utils"):
        package = ModuleType(name)
        package.__path__ = [str(checkout.joinpath(*name.split(".")))]
        sys.modules[name] = package
    return importlib.import_module("dllm.core.trainers.mdlm")


def problem_of(vocab_size: int, width: int, num_layers: int) -> Problem:
    """A model whose favourite is never the mask, which the others don't suppress, and a batch."""
    problem = Problem(vocab_size, 8, 256, width, num_layers)
    with torch.no_grad():
        problem.model.head.weight.mul_(8.0)[-1] = 0.0
    return problem


def published_loss(problem: Problem) -> Pair:
    """LLaDA's own loss, as its guidelines print it."""
    model, tokens, mask = Answering(problem.model), problem.tokens, problem.model.vocab_size - 1

    def noised() -> tuple[Tensor, Tensor, Tensor]:
        share = (1 - EPSILON) * torch.rand(len(tokens))[:, None].expand_as(tokens) + EPSILON
        masked = torch.rand(tokens.shape) < share
        return torch.where(masked, mask, tokens), masked, share

    def theirs() -> Tensor:
        noisy, masked, share = noised()
        logits = model(noisy).logits
        terms = F.cross_entropy(logits[masked], tokens[masked], reduction="none") / share[masked]
        return terms.sum() / tokens.numel()

    return theirs, problem.ours, _difference(problem, theirs, noised)


def dllm_loss(checkout: Path, problem: Problem) -> Pair:
    """The loss of dLLM."""
    module, mask = dllm_trainer(checkout), problem.model.vocab_size - 1
    trainer = object.__new__(module.MDLMTrainer)
    scheduler = module.LinearAlphaScheduler()
    tokenizer = SimpleNamespace(padding_side="right", mask_token_id=mask)
    meter = SimpleNamespace(update=lambda **_: None)
    vars(trainer).update(
        scheduler=scheduler, time_epsilon=EPSILON, loss_weight_type="scheduler", loss_norm_type="token",
        right_shift_logits=False, processing_class=tokenizer, meter=meter,
    )  # fmt: skip
    model, inputs = Answering(problem.model), {"input_ids": problem.tokens, "labels": problem.tokens}

    def noised() -> tuple[Tensor, Tensor, Tensor]:
        t = EPSILON + (1 - EPSILON) * torch.rand(len(problem.tokens))
        masked = torch.rand(problem.tokens.shape) < (1.0 - scheduler(t))[:, None]
        weight = scheduler.weight(t)  # 1 / t, but that it adds 1e-6 to t
        return torch.where(masked, mask, problem.tokens), masked, (1.0 / weight)[:, None].expand_as(problem.tokens)

    def theirs() -> Tensor:
        loss: Tensor = trainer.compute_loss(model, inputs)
        return loss

    return theirs, problem.ours, _difference(problem, theirs, noised)


def _difference(
    problem: Problem, theirs: Callable[[], Tensor], noised: Callable[[], tuple[Tensor, Tensor, Tensor]]
) -> float:
    """Relative difference of the losses of the same noise, which both draw from the same seed."""
    with torch.no_grad():
        torch.manual_seed(3)
        loss = float(theirs())
        torch.manual_seed(3)
        noisy, masked, share = noised()
        denoiser = as_denoiser(problem.model)
        ours, _ = denoiser.weighted_nll(noisy, problem.tokens, masked, 1.0 / share[masked])
    return must_equal("the loss", abs(float(ours) / problem.tokens.numel() - loss) / loss, 1e-5)


def decoding(checkout: Path, problem: Problem) -> Pair:
    """LLaDA's ``generate``, greedy, one token per step."""
    model, mask = problem.model.eval(), problem.model.vocab_size - 1
    generate, prompt = loaded(checkout / "generate.py").generate, problem.tokens[:1, :PROMPT]
    canvas = torch.cat([prompt, torch.full((1, NEW), mask)], 1)
    sampler, process = UnmaskingSampler(Quota(NEW), window=Blocks(BLOCK)), MaskingProcess(mask)

    def theirs() -> Tensor:
        tokens: Tensor = generate(
            Answering(model), prompt, steps=NEW, gen_length=NEW, block_length=BLOCK, temperature=0.0, mask_id=mask
        )
        return tokens

    def ours() -> Tensor:
        return sampler(model, canvas, process).tokens

    return theirs, ours, must_equal("the text", float((theirs() != ours()).sum()), 0.0)


def likelihood(checkout: Path, problem: Problem) -> Pair:
    """LLaDA's ``get_log_likelihood``."""
    module, mask = loaded(checkout / "get_log_likelihood.py"), problem.model.vocab_size - 1
    model, process = problem.model.eval(), MaskingProcess(mask)
    prompt, answer = problem.tokens[0, : 256 - ANSWER], problem.tokens[0, 256 - ANSWER :]
    estimator = ConditionalLikelihood(SAMPLES, SAMPLES, masks=StratifiedCounts(), rows_per_call=SAMPLES)

    def theirs() -> float:
        return float(module.get_log_likelihood(Answering(model), prompt, answer, SAMPLES, SAMPLES, mask_id=mask))

    torch.manual_seed(3)
    found = theirs()
    torch.manual_seed(3)
    tokens = problem.tokens[:1].expand(SAMPLES, -1)
    noisy, share = module.forward_process(tokens, torch.arange(256) < len(prompt), mask)
    masked = noisy == mask
    with torch.no_grad():
        same, _ = as_denoiser(model).weighted_nll(noisy, tokens, masked, 1.0 / share[masked])
    difference = must_equal("the log-likelihood", abs(float(same) / SAMPLES + found) / abs(found), 1e-5)
    return theirs, lambda: float(estimator(model, process, [prompt], [answer]).log_likelihood), difference


def makers(peers: Path, problem: Problem) -> dict[str, Callable[[], Pair]]:
    """What makes the two sides of each line, by its name; a line begins with a training step's name if it is one."""
    lines: dict[str, Callable[[], Pair]] = {}
    if (peers / "LLaDA").is_dir():
        lines["LLaDA generate"] = lambda: decoding(peers / "LLaDA", problem)
        lines["LLaDA get_log_likelihood"] = lambda: likelihood(peers / "LLaDA", problem)
    if (peers / "mdlm").is_dir() and problem.model.vocab_size <= MOST_WORDS:
        lines["MDLM _sample, 128 steps"] = lambda: peers_mdlm.sampling(peers / "mdlm", problem)
    lines[f"{TRAINING}, LLaDA's published loss"] = lambda: published_loss(problem)
    if (peers / "dllm").is_dir():
        lines[f"{TRAINING}, dLLM compute_loss"] = lambda: dllm_loss(peers / "dllm", problem)
    if (peers / "mdlm").is_dir():
        lines[f"{TRAINING}, MDLM _loss"] = lambda: peers_mdlm.loss(peers / "mdlm", problem)
    return lines


def measure(peers: Path, vocab_size: int, given: Any) -> list[Row]:
    """The lines of one vocabulary."""
    problem, rows = problem_of(vocab_size, given.width, given.layers), []
    for name, make in makers(peers, problem).items():
        if given.only and not any(word in name for word in given.only):
            continue
        theirs, ours, difference = make()
        if name.startswith(TRAINING):
            theirs, ours = stepper(problem, theirs), stepper(problem, ours)
        problem.model.train(name.startswith(TRAINING))
        times = interleave({"theirs": theirs, "ours": ours}, given.rounds)
        ratio = times["theirs"][0] / times["ours"][0]
        seconds = {"cpu s": times["ours"][0], "their cpu s": times["theirs"][0], "cpu ratio": ratio}
        rows.append({"vocabulary": vocab_size, "what": name, **seconds, "difference": difference})
    return rows


def commits(peers: Path) -> str:
    """Which state of their code was run."""
    found = []
    for name in ("LLaDA", "dllm", "mdlm"):
        if (peers / name).is_dir():
            line = ["git", "-C", str(peers / name), "log", "-1", "--format=%h of %as"]
            found.append(f"{name} {subprocess.run(line, capture_output=True, text=True, check=False).stdout.strip()}")
    return "; ".join(found)


def main(arguments: Sequence[str] | None = None) -> Result:
    """Measure, print, and write.

    Raises:
        SystemExit: if there is no folder with checkouts, or something differs.
    """
    parser = options(__doc__)
    parser.add_argument("--vocab", type=int, nargs="+", default=[32_000, 126_464])
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--only", nargs="+", help="lines with one of these in their names; default: all")
    given: Any = parse(parser, arguments)
    folder = os.environ.get("PEERS")
    if not folder or not Path(folder).is_dir():
        raise SystemExit(f"PEERS must name a folder with checkouts of LLaDA, dllm and mdlm; it is {folder!r}")
    rows = [row for vocab in given.vocab for row in measure(Path(folder), vocab, given)]
    plot = Plot("what", "cpu ratio", title="Theirs / ours")
    note = " ".join(filter(None, [f"{commits(Path(folder))}.", given.note]))
    return finish(Result("peers", __doc__ or "", rows, plot, note=note), given.out)


if __name__ == "__main__":
    main()
