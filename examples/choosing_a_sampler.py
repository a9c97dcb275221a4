"""What each way of decoding costs and gives, as a table and a picture (docs/choosing-a-sampler.md).

    python examples/demo.py --folder demo
    python examples/choosing_a_sampler.py --checkpoint demo/model.ckpt

Beside every measure of quality stand the exact nats of the language, or of held-out text, under the very sampler, where
it has a likelihood (docs/duel.md): a method that writes fluent texts may still be far from the distribution of texts.

Four measures of quality:
- on a toy language whose every probability is known, with its optimal denoiser as the model: the total-variation
  distance between the samples and the language, next to the distance of as many samples of the language itself;
- on the demo's model: bits per token of its texts under a bigram model of the training text, and beside it the entropy
  of the tokens of a text, because repeating oneself is a way to few bits;
- the same at a low temperature, where single texts are wanted and not the distribution; that is a table of its own;
- for the caches (choosing_a_cache.py): on a longer chain that a network without convolution has learned, the distance
  of the frequencies of neighbouring pairs from their probabilities, against the positions that the network computed.
"""

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl

mpl.use("Agg")
import choosing_a_cache
import matplotlib.pyplot as plt
import torch
from choosing_a_cache import Line
from demo import build_data
from PIL import Image
from torch import Tensor

from llada.data.toy import ToyLanguage
from llada.metrics.ngram import NGramBaseline
from llada.process import MaskingProcess, Process
from llada.samplers import PRESETS, Sample
from llada.text import load

LENGTH = 64


class Setting(NamedTuple):
    """A preset with arguments, and the colour group it is drawn in."""

    group: str
    name: str
    arguments: dict[str, Any]

    @property
    def label(self) -> str:
        """As one would write it in Python."""
        shown = ", ".join(f"{name}={value}" for name, value in self.arguments.items() if name != "temperature")
        return f"{self.name}({shown})"


class Measured(NamedTuple):
    """A line of a table."""

    setting: Setting
    quality: float
    entropy: float
    calls: float
    tokens_per_call: float
    seconds: float
    nats: str = ""


def settings(masks: int, block: int) -> list[Setting]:
    """Presets at temperature 1, where an exact method samples from the model, with a few budgets each."""
    few, some, all_ = max(masks // 4, masks // block), masks // 2, masks
    budgets = [{"steps": steps} for steps in (few, some, all_)]
    chosen: list[tuple[str, str, list[dict[str, Any]]]] = [
        ("one by one", "first_hitting", [{}]),
        ("one by one", "left_to_right", [{}]),
        ("random order", "random_remasking", budgets),
        ("random order", "ancestral", [*budgets, {"steps": 4 * masks}]),
        ("random order", "tau_leaping", [{"steps": some}]),
        ("by confidence", "low_confidence", [*budgets, *({**budget, "block_length": block} for budget in budgets)]),
        ("by confidence", "maskgit", [{"steps": some}]),
        ("by confidence", "dream_entropy", [{**budget, "top_p": None} for budget in budgets]),
        ("by confidence", "pc_sampler", [{"steps": some}]),
        ("by confidence", "topk_margin", [{"steps": some, "top_p": None}]),
        ("parallel", "fast_dllm", [{"threshold": bar, "block_length": block} for bar in (0.9, 0.6, 0.3)]),
        ("parallel", "fast_dllm_factor", [{"factor": 1.0, "block_length": block}]),
        ("parallel", "margin_threshold", [{"threshold": bar, "block_length": block} for bar in (0.9, 0.3)]),
        ("parallel", "local_leap", [{"threshold": 0.6, "relaxed_threshold": 0.3, "block_length": block}]),
        ("parallel", "eb_sampler", [{"gamma": gamma} for gamma in (0.1, 1.0, 4.0)]),
        ("parallel", "klass", [{"threshold": 0.6, "max_divergence": 0.1, "history": 1}]),
        ("parallel", "llada2", [{"steps_per_block": (block + 1) // 2, "threshold": 0.6, "block_length": block}]),
        ("parallel", "hierarchy", [{"threshold": 0.9, "low_threshold": 0.4, "block_length": block}]),
        ("parallel", "credit", [{"threshold": 0.9, "block_length": block}]),
        ("taking back", "llada21", [{"threshold": 0.6, "edit_threshold": 0.5, "block_length": block}]),
        ("taking back", "p2", [{"steps": some}, {"steps": all_}]),
        ("taking back", "remdm_cap", [{"steps": 2 * masks, "eta": 0.02, "top_p": None}]),
        ("taking back", "remdm_conf", [{"steps": 2 * masks, "top_p": None}]),
        ("taking back", "remdm_loop", [{"steps": 2 * masks, "top_p": None}]),
        ("taking back", "forward_backward", [{"steps": 2 * masks, "top_p": None}]),
    ]
    made = [Setting(group, name, {**a, "temperature": 1.0}) for group, name, many in chosen for a in many]
    greedy = {"steps": all_, "temperature": 0.0}
    return [*made, Setting("greedy", "low_confidence", greedy), Setting("greedy", "self_speculative", {"guesses": 4})]


def low_settings(masks: int, block: int) -> list[Setting]:
    """Presets at temperature 0.5, for single texts."""
    half = {"temperature": 0.5}
    chosen: list[tuple[str, dict[str, Any]]] = [
        ("left_to_right", {}),
        ("random_remasking", {"steps": masks}),
        ("random_remasking", {"steps": masks // 4}),
        ("low_confidence", {"steps": masks, "block_length": block}),
        ("low_confidence", {"steps": masks // 4, "block_length": block}),
        ("comb", {"stride": 8}),
        ("margin_threshold", {"threshold": 0.3, "block_length": block}),
        ("fast_dllm", {"threshold": 0.6, "block_length": block}),
        ("saber", {}),
        ("wino", {"block_length": masks + 1}),
    ]
    return [Setting("low temperature", name, {**arguments, **half}) for name, arguments in chosen]


@torch.no_grad()
def nats_per_token(setting: Setting, model: Any, rows: Tensor, process: Process, weights: Tensor | None = None) -> str:
    """Exact nats per token of rows (R, L) under a sampler; "at most" where positions are drawn; "none" elsewhere.

    Args:
        setting: names the sampler.
        model: what it decodes.
        rows: texts, all tokens but the first of which are scored if ``weights`` is None.
        process: masked diffusion.
        weights: (R,) probabilities of the rows, whose entropy is then taken off, all tokens being scored.
    """
    sampler = PRESETS[setting.name](**setting.arguments)
    if sampler.likelihood_gap is not None:
        return "none"
    given = torch.zeros_like(rows, dtype=torch.bool)
    given[:, 0] = weights is None
    found = sampler.likelihood(model, rows, process, given=given)
    nats = -found.log_likelihood / (rows.shape[1] - int(weights is None))
    if weights is None:
        number = f"{float(nats.mean()):.3f} ± {float(nats.std()) / len(nats) ** 0.5:.3f}"
    else:  # a sum over all rows, without an error
        number = f"{float((weights * (nats + weights.log() / rows.shape[1])).sum()):.3f}"
    return f"{'' if found.is_exact else 'at most '}{number}"


def run(setting: Setting, sample: Callable[..., Sample]) -> tuple[Sample, float]:
    """The samples and the seconds they took."""
    begin = time.perf_counter()
    return sample(PRESETS[setting.name](**setting.arguments)), time.perf_counter() - begin


def measure_toy(num_samples: int, nats_only: bool = False) -> tuple[list[Measured], float]:
    """Distances to a random language of 3^6 rows, and what chance alone makes of it."""
    language = ToyLanguage.markov(vocab_size=3, length=6, concentration=0.5, seed=1)
    mask, law = language.mask_token_id, language.probabilities.flatten()
    canvases = torch.cartesian_prod(*[torch.arange(mask + 1)] * language.length)
    possible = _possible(language, canvases)
    table = torch.zeros(len(canvases), language.length, mask + 1, dtype=torch.float64)
    table[possible] = language.oracle(canvases[possible])
    powers = (mask + 1) ** torch.arange(language.length - 1, -1, -1)

    def oracle(tokens: Tensor) -> Tensor:
        return table[(tokens * powers).sum(1)]

    def distance(rows: Tensor) -> float:
        counts = language.index(rows).bincount(minlength=len(law)).double()
        return float((counts / counts.sum() - law).abs().sum() / 2)

    tokens, likely = torch.full((num_samples, language.length), mask), language.rows[law > 0]
    lines = []
    for setting in settings(masks=6, block=3):
        if setting.group == "greedy":  # a single row, which is no law
            continue
        nats = nats_per_token(setting, oracle, likely, MaskingProcess(mask), law[law > 0])
        if nats_only:
            print(f"toy | `{setting.label}` | {nats}", flush=True)
            continue
        made, seconds = run(setting, lambda sampler: sampler(oracle, tokens, MaskingProcess(mask), seed=1))
        lines.append(_line(setting, made, distance(made.tokens), math.nan, seconds, nats))
    return lines, distance(language.sample(num_samples, torch.Generator().manual_seed(0)))


def _possible(language: ToyLanguage, canvases: Tensor) -> Tensor:
    """Which canvases show tokens that may stand together."""
    support = language.rows[language.probabilities.flatten() > 0]
    agrees = (support[None] == canvases[:, None]) | (canvases == language.mask_token_id)[:, None]
    return agrees.all(2).any(1)


def measure_text(
    checkpoint: Path, num_samples: int, chosen: list[Setting], nats_only: bool = False
) -> tuple[list[Measured], tuple[float, float]]:
    """Bits and entropy of texts, and those of held-out text."""
    data = build_data(checkpoint.parent)  # its tokens, or made again
    data.prepare_data()
    data.setup("fit")
    loaded = load(str(checkpoint), device="cpu")
    model, tokenizer = loaded.model, loaded.tokenizer
    judge = NGramBaseline(data.rows("train").file.tokens, data.vocab_size)
    tokens = torch.full((num_samples, LENGTH), model.process.mask_token_id)
    tokens[:, 0] = tokenizer.special_id("bos")
    held_out = torch.as_tensor(data.rows("val").file.tokens.astype("int64"))
    rows = held_out[: len(held_out) // LENGTH * LENGTH].view(-1, LENGTH)
    scored = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:16]]
    lines = []
    for setting in chosen:
        nats = nats_per_token(setting, model.backbone, scored, model.process)
        if nats_only:
            print(f"text | `{setting.label}` | {nats}", flush=True)
            continue
        made, seconds = run(setting, lambda sampler: model.generate(tokens, sampler=sampler, seed=1))
        bits, entropy = _judge(judge, made.tokens)
        lines.append(_line(setting, made, bits, entropy, seconds, nats))
        print(f"{setting.label:70} {bits:6.2f} {entropy:6.2f} {lines[-1].calls:6.1f} {seconds:6.1f} s", flush=True)
    return lines, _judge(judge, rows)


def _judge(judge: NGramBaseline, rows: Tensor) -> tuple[float, float]:
    """Bits per token under the bigram model, and entropy of a row's tokens in bits; means over rows."""
    bits = [judge.bigram_nll(row.numpy()) / math.log(2.0) for row in rows]
    counts = [row.unique(return_counts=True)[1] / len(row) for row in rows]
    entropies = [-float((share * share.log2()).sum()) for share in counts]
    return sum(bits) / len(bits), sum(entropies) / len(entropies)


def _line(setting: Setting, made: Sample, quality: float, entropy: float, seconds: float, nats: str) -> Measured:
    calls, per_call = float(made.calls.float().mean()), float(made.tokens_per_call.mean())
    return Measured(setting, quality, entropy, calls, per_call, seconds, nats)


def markdown(toy: list[Measured], floor: float) -> str:
    """The table of the toy language."""
    lines = ["| preset | distance | exact nats too many | calls | tokens per call |", "|---|---:|---:|---:|---:|"]
    lines += [f"| *as many rows of the language itself* | {floor:.3f} | 0 | | |"]
    lines += [
        f"| `{m.setting.label}` | {m.quality:.3f} | {m.nats} | {m.calls:.1f} | {m.tokens_per_call:.1f} |" for m in toy
    ]
    return "\n".join(lines) + "\n"


def text_markdown(text: list[Measured], held_out: tuple[float, float]) -> str:
    """A table of texts."""
    lines = [
        "| preset | bits per token | entropy | exact nats per token of held-out text | calls | tokens per call |",
        "|---|---:|---:|---:|---:|---:|",
        f"| *held-out text* | {held_out[0]:.2f} | {held_out[1]:.2f} | | | |",
    ]
    for m in text:
        greedy = " greedy" if m.setting.group == "greedy" else ""
        numbers = f"{m.quality:.2f} | {m.entropy:.2f} | {m.nats} | {m.calls:.1f} | {m.tokens_per_call:.1f}"
        lines.append(f"| `{m.setting.label}`{greedy} | {numbers} |")
    return "\n".join(lines) + "\n"


def draw(
    toy: list[Measured],
    floor: float,
    text: list[Measured],
    held_out: tuple[float, float],
    caches: tuple[list[Line], tuple[float, float]],
    path: Path,
) -> None:
    """Quality against calls, one panel for each measure, and that of the caches against positions."""
    figure, ((first, second), (third, fourth)) = plt.subplots(2, 2, figsize=(12, 10), layout="constrained")
    views = (
        (first, toy, "quality", floor, "total-variation distance (toy language)"),
        (second, text, "quality", held_out[0], "bits per token under a bigram model (text)"),
        (third, text, "entropy", held_out[1], "entropy of a text's tokens, bits"),
    )
    groups = list(dict.fromkeys(m.setting.group for m in text))
    for axes, lines, field, reference, label in views:
        for number, group in enumerate(groups):
            members = [m for m in lines if m.setting.group == group]
            heights = [getattr(m, field) for m in members]
            axes.scatter([m.calls for m in members], heights, color=f"C{number}", label=group, s=25)
        axes.axhline(reference, color="0.5", linestyle="--", linewidth=1)
        axes.set(xlabel="model calls per text", ylabel=label)
        _name(axes, [(m.setting.name, m.calls, getattr(m, field)) for m in lines])
        axes.grid(alpha=0.3)
    second.legend(fontsize=8, loc="upper right")
    _draw_caches(fourth, *caches)
    figure.savefig(path, dpi=85)
    plt.close(figure)
    Image.open(path).convert("RGB").quantize(200).save(path, optimize=True)  # half the bytes


def _draw_caches(axes: plt.Axes, lines: list[Line], truth: tuple[float, float]) -> None:
    for number, (window, title) in enumerate((("blocks", "blocks of eight"), ("whole", "whole canvas"))):
        members = [line for line in lines if line.window == window]
        heights = [line.distance for line in members]
        axes.scatter([line.positions for line in members], heights, color=f"C{number}", label=title, s=25)
    axes.axhline(truth[0], color="0.5", linestyle="--", linewidth=1)
    axes.set(xlabel="positions computed per row", ylabel="total-variation distance of pairs (longer chain)")
    axes.set_ylim(bottom=0.0)
    _name(axes, [(line.cache, line.positions, line.distance) for line in lines])
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def _name(axes: plt.Axes, points: list[tuple[str, float, float]]) -> None:
    """Names beside the points, where there is room for them."""
    left, right = axes.get_xlim()
    bottom, top = axes.get_ylim()
    axes.set_xlim(left, right + 0.2 * (right - left))
    taken: list[tuple[float, float]] = []
    for name, x, y in points:
        place = ((x - left) / (right - left), (y - bottom) / (top - bottom))
        if all(abs(place[0] - a) > 0.22 or abs(place[1] - b) > 0.022 for a, b in taken):
            axes.annotate(name, (x, y), fontsize=7, xytext=(4, -2), textcoords="offset points")
            taken.append(place)


def main(checkpoint: Path, out: Path, num_samples: int, num_toy: int, num_steps: int, only: str | None = None) -> None:
    """Measure, write, draw; or one part of it, which is printed."""
    high, low = settings(masks=LENGTH - 1, block=8), low_settings(masks=LENGTH - 1, block=8)
    if only == "nats":
        measure_toy(num_toy, nats_only=True)
        measure_text(checkpoint, num_samples, high, nats_only=True)
        return
    if only == "low":
        print(text_markdown(*measure_text(checkpoint, num_samples, low)))
        return
    out.mkdir(parents=True, exist_ok=True)
    toy, floor = measure_toy(num_toy)
    text, held_out = measure_text(checkpoint, num_samples, high)
    single, _ = measure_text(checkpoint, num_samples, low)
    caches = choosing_a_cache.measure(num_steps, num_rows=num_toy // 50)
    tables = markdown(toy, floor), text_markdown(text, held_out), text_markdown(single, held_out)
    table = "\n".join([*tables, choosing_a_cache.markdown(*caches)])
    (out / "samplers.md").write_text(table, encoding="utf-8")
    draw(toy, floor, text, held_out, caches, out / "samplers.png")
    print(f"\n{table}\n{out / 'samplers.md'}\n{out / 'samplers.png'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", type=Path, default=Path("demo/model.ckpt"), help="of examples/demo.py")
    parser.add_argument("--out", type=Path, default=Path("choosing"), help="where table and picture go")
    parser.add_argument("--num-samples", type=int, default=32, help="texts per setting")
    parser.add_argument("--num-toy", type=int, default=50_000, help="rows of the toy language per setting")
    parser.add_argument("--num-steps", type=int, default=1000, help="of training the network for the caches")
    parser.add_argument("--only", choices=("nats", "low"), help="the exact nats, or the table at a low temperature")
    given = parser.parse_args()
    main(given.checkpoint, given.out, given.num_samples, given.num_toy, given.num_steps, given.only)
