"""Every preset against its method's published rule, written out plainly: the canvas after each call, token for token.

The rules below are for one row and share nothing with the library but the random numbers, which have to be the same
ones. They follow the papers and the released code; where a preset differs from that on purpose, its docstring says so
and the rule here has the same difference, marked by "here".

Nothing is left to chance: the model, the row and the seed are fixed, and no two numbers that are compared are so close
that rounding could decide.
"""

import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from llada.backbones import BidirectionalTransformer
from llada.process import MaskingProcess
from llada.random import RowRandom
from llada.samplers import (
    PRESETS,
    Confidence,
    Factor,
    LocalLeap,
    Proposal,
    Stability,
    Stochastic,
    ThresholdOrQuota,
    VicinityCache,
)
from tests.samplers import test_cache_oracle as by_hand

LENGTH, VOCAB, SEED = 14, 8, 5
MASK = VOCAB - 1
PROMPT = [2, 5, 0, 3, 1]
ORDER, DRAW, REMASK = 0, 1, 2  # what a step draws random numbers for
Canvases = Iterator[list[int]]
Law = list[list[float]]
Choice = Callable[[dict[int, float], Law, int], list[int]]
"""From the masks' confidences, all laws and the step of the block to the positions that are written."""
TABLE = 0.75 * torch.randn(LENGTH, VOCAB, LENGTH, VOCAB, generator=torch.Generator().manual_seed(0)).double()
TABLE[..., MASK] = -1e4


def model(tokens: Tensor) -> Tensor:
    """Every token has a say in the logits of every position."""
    return TABLE[torch.arange(tokens.shape[1]), tokens].sum(1)


def start() -> list[int]:
    return PROMPT + [MASK] * (LENGTH - len(PROMPT))


def law(row: list[int], temperature: float = 1.0) -> Law:
    """Probabilities of the tokens without the mask, at each position."""
    logits = model(torch.tensor([row]))[0, :, :MASK] / temperature
    return [one for one in logits.softmax(-1).tolist()]


def masks(row: list[int], begin: int = 0, end: int = LENGTH) -> list[int]:
    return [i for i in range(begin, end) if row[i] == MASK]


def numbers(window: int, step: int, *what: int) -> list[float]:
    """The random numbers of the row's positions; windows are counted from the last, which is 1."""
    return RowRandom.from_seed(SEED, 1).fold_in(window).fold_in(step).fold_in(*what).uniform(LENGTH)[0].tolist()


def top(p: list[float]) -> int:
    return p.index(max(p))


def draw(p: list[float], u: float) -> int:
    reached, total = 0.0, sum(p)
    for token, chance in enumerate(p):
        reached += chance / total
        if u < reached:
            return token
    raise AssertionError


def surest(scores: dict[int, float]) -> list[int]:
    return sorted(scores, key=lambda i: -scores[i])


def nucleus(p: list[float], top_p: float, crossing: bool) -> list[float]:
    """With the token that crosses top_p (Dream), or without (ReMDM); the best one always."""
    kept, reached = set(), 0.0
    for rank, token in enumerate(sorted(range(len(p)), key=lambda v: -p[v])):
        if rank and (reached >= top_p if crossing else reached + p[token] > top_p):
            break
        reached += p[token]
        kept.add(token)
    return [chance / reached if token in kept else 0.0 for token, chance in enumerate(p)]


def entropy(p: list[float]) -> float:
    return -sum(q * math.log(q) for q in p if q > 0)


def gumbel(u: float) -> float:
    return -math.log(-math.log(u))


def blocks(size: int | None, from_start: bool = False) -> list[tuple[int, int]]:
    """The blocks that hold something of the answer; LLaDA counts them behind the prompt, here from the end."""
    if size is None:
        return [(len(PROMPT), LENGTH)]
    edges = range(0, LENGTH, size) if from_start else range(LENGTH % size - size, LENGTH, size)
    return [(max(edge, 0), min(edge + size, LENGTH)) for edge in edges if edge + size > len(PROMPT)]


def equal_shares(number: int, steps: int) -> list[int]:
    return [number // steps + (k < number % steps) for k in range(steps)]


def greedy(choose: Choice, size: int | None, from_start: bool = False) -> Canvases:
    """Blocks, each until it is full; what is chosen of the masks' confidences gets the best token."""
    row = start()
    for begin, end in blocks(size, from_start):
        step = 0
        while where := masks(row, begin, end):
            p = law(row)
            for i in choose({i: max(p[i]) for i in where}, p, step):
                row[i] = top(p[i])
            step += 1
            yield row


def llada(steps: int | None, size: int | None) -> Canvases:
    """Low-confidence remasking: equal quotas within a block."""
    row = start()
    for begin, end in blocks(size):
        number = len(masks(row, begin, end))
        for quota in [1] * number if steps is None else equal_shares(number, steps):
            p = law(row)
            for i in surest({i: max(p[i]) for i in masks(row, begin, end)})[:quota]:
                row[i] = top(p[i])
            yield row


def in_random_order(counts: list[int]) -> Canvases:
    row = start()
    for k, count in enumerate(counts):
        p, lot, u = law(row), numbers(1, k, ORDER), numbers(1, k, DRAW)
        for i in surest({i: lot[i] for i in masks(row)})[:count]:
            row[i] = draw(p[i], u[i])
        yield row


def left_to_right() -> Canvases:
    row = start()
    while where := masks(row):
        row[where[0]] = top(law(row)[where[0]])
        yield row


def maskgit(steps: int, temperature: float) -> Canvases:
    row = start()
    unknown = len(masks(row))
    for k in range(steps):
        ratio, p = (k + 1) / steps, law(row)
        u, noise = numbers(1, k, DRAW), numbers(1, k, ORDER, 1)
        sampled = {i: draw(p[i], u[i]) for i in masks(row)}
        confidence = {i: math.log(p[i][v]) + temperature * (1 - ratio) * gumbel(noise[i]) for i, v in sampled.items()}
        left = max(1, min(len(sampled) - 1, math.floor(unknown * math.cos(math.pi / 2 * ratio))))
        left = 0 if k == steps - 1 else left
        for i in surest(confidence)[: len(sampled) - left]:
            row[i] = sampled[i]
        yield row


def dream(steps: int, score: Callable[[list[float], int], float], temperature: float, top_p: float) -> Canvases:
    row, times = start(), torch.linspace(1, 1e-3, steps + 1)
    for k in range(steps):
        number = len(masks(row))
        count = number if k == steps - 1 else int(torch.tensor(float(number)) * (1 - times[k + 1] / times[k]))
        u, p = numbers(1, k, DRAW), [nucleus(one, top_p, crossing=True) for one in law(row, temperature)]
        sampled = {i: draw(p[i], u[i]) for i in masks(row)}
        for i in surest({i: score(p[i], v) for i, v in sampled.items()})[:count]:
            row[i] = sampled[i]
        yield row


def coins(steps: int, alphas: list[float], sigma: Callable[[float, float, list[int]], Any], top_p: float) -> Canvases:
    """The reverse process on a grid of clean shares; ``sigma`` says how likely each written token is masked again.

    Every mask has a coin; here, as masks are alike to the coins, the number of heads goes to random positions. Here,
    too, the last step draws what is left.
    """
    row, confidence = start(), [math.inf] * LENGTH
    for k in range(steps):
        alpha_t, alpha_s = alphas[k], alphas[k + 1]
        written = [i for i in range(len(PROMPT), LENGTH) if row[i] != MASK]
        where = masks(row)
        doubt, mean = sigma(alpha_t, alpha_s, written)(confidence)
        chance = 1.0 if k == steps - 1 else (alpha_s - (1 - mean) * alpha_t) / (1 - alpha_t)
        lot, again, u = numbers(1, k, ORDER), numbers(1, k, REMASK), numbers(1, k, DRAW)
        heads = sum(coin < chance for coin in numbers(1, k, ORDER, 1)[: len(where)])
        p = [nucleus(one, top_p, crossing=False) if top_p < 1 else one for one in law(row)]
        for i in written:
            if again[i] < doubt[i]:
                row[i] = MASK
        for i in surest({i: lot[i] for i in where})[:heads]:
            row[i] = draw(p[i], u[i])
            confidence[i] = p[i][row[i]]
        yield row


def uniform_grid(steps: int) -> list[float]:
    """Alpha of the linear schedule."""
    return [k / steps for k in range(steps + 1)]


def sigma_max(alpha_t: float, alpha_s: float) -> float:
    return min(1.0, (1 - alpha_s) / alpha_t) if alpha_t > 0 else 1.0


def same_for_all(sigma: Callable[[float, float], float]) -> Any:
    def rule(alpha_t: float, alpha_s: float, written: list[int]) -> Any:
        value = sigma(alpha_t, alpha_s)
        return lambda confidence: ([value] * LENGTH, value)

    return rule


def by_confidence(alpha_t: float, alpha_s: float, written: list[int]) -> Any:
    """ReMDM-conf: a softmax of minus the confidences; masks are uncovered as if sigma were 0."""

    def rule(confidence: list[float]) -> tuple[list[float], float]:
        weights = [math.exp(-confidence[i]) if i in written else 0.0 for i in range(LENGTH)]
        return [sigma_max(alpha_t, alpha_s) * w / (sum(weights) or 1.0) for w in weights], 0.0

    return rule


def loop_grid(steps: int, t_on: float = 0.55, t_off: float = 0.05, alpha_on: float = 0.9) -> list[float]:
    """ReMDM-loop; here, a step that crosses t_on or t_off stops at the loop's share."""
    alphas = []
    for t in (1 - k / steps for k in range(steps + 1)):
        if t > t_on:
            alphas.append((1 - t) * alpha_on / (1 - t_on))
        else:
            alphas.append(alpha_on if t > t_off else 1 - t * (1 - alpha_on) / t_off)
    return alphas


def loop_sigma(alpha_t: float, alpha_s: float) -> float:
    return 0.02 if alpha_t == alpha_s == 0.9 else 0.0


def above(threshold: float) -> Choice:
    return lambda sure, p, step: [i for rank, i in enumerate(surest(sure)) if rank == 0 or sure[i] >= threshold]


def factor(value: float) -> Choice:
    """get_transfer_index_dynamic, its last two masks included."""

    def choose(sure: dict[int, float], p: Law, step: int) -> list[int]:
        order = surest(sure)
        bars = [-1.0] + [1 - value / (n + 1) for n in range(2, len(order) + 1)]
        index = 0
        for index in range(len(order)):
            if sure[order[index]] < bars[index]:
                break
        return order[: index + 1 if index in (0, len(order) - 1) else index]

    return choose


def entropy_bound(gamma: float) -> Choice:
    def choose(sure: dict[int, float], p: Law, step: int) -> list[int]:
        order = surest({i: -entropy(p[i]) for i in sure})
        sums = [sum(entropy(p[i]) for i in order[: n + 1]) - entropy(p[i]) for n, i in enumerate(order)]
        return order[: max(1, sum(each <= gamma for each in sums))]

    return choose


def llada2(threshold: float, steps: int, size: int) -> Choice:
    """The quota counts the block's positions, prompt included."""

    def choose(sure: dict[int, float], p: Law, step: int) -> list[int]:
        passed = [i for i in sure if sure[i] > threshold]
        quota = equal_shares(size, steps)[step]
        return passed if len(passed) >= quota else surest(sure)[:quota]

    return choose


def hierarchy(threshold: float, low: float) -> Choice:
    def choose(sure: dict[int, float], p: Law, step: int) -> list[int]:
        chosen = {surest(sure)[0]} | {i for i in sure if sure[i] > threshold}
        for i in sure:
            low_end, high_end = i, i
            while low_end - 1 in sure:
                low_end -= 1
            while high_end + 1 in sure:
                high_end += 1
            if sure[i] > low and sure[i] == max(sure[j] for j in range(low_end, high_end + 1)):
                chosen.add(i)
        return sorted(chosen)

    return choose


def klass(threshold: float, bound: float, history: int, size: int | None) -> Canvases:
    """Divergences of all positions, from the first call on; in each block none counts in the first steps."""
    row, before, past = start(), None, [[math.inf] * history for _ in range(LENGTH)]
    for begin, end in blocks(size):
        step = 0
        while where := masks(row, begin, end):
            p = law(row)
            for i in range(LENGTH):
                kl = (
                    math.inf
                    if before is None
                    else sum(a * math.log(a / b) for a, b in zip(p[i], before[i], strict=True))
                )
                past[i] = [*past[i][1:], kl]
            before = p
            ready = [i for i in where if max(p[i]) > threshold and all(kl < bound for kl in past[i])]
            ready = ready if step >= history - 1 else []
            for i in ready or surest({i: max(p[i]) for i in where})[:1]:
                row[i] = top(p[i])
            step += 1
            yield row


def credit(threshold: float, size: int) -> Canvases:
    row = start()
    for begin, end in blocks(size):
        bonus = [[0.0] * MASK for _ in range(LENGTH)]
        while where := masks(row, begin, end):
            p, fused = law(row), {}
            for i in where:
                bonus[i] = [0.8 * each for each in bonus[i]]
                bonus[i][top(p[i])] += max(p[i]) ** 0.2
                weights = [a * math.exp(0.7 * math.log(1 + c)) for a, c in zip(p[i], bonus[i], strict=True)]
                fused[i] = [w / sum(weights) for w in weights]
            sure = {i: max(fused[i]) for i in where}
            for i in above(threshold)(sure, [], 0):
                row[i] = top(fused[i])
            yield row


def editing(threshold: float, edit: float, size: int) -> Canvases:
    """LLaDA2.1: masks above a bar and the best, and written tokens that the model would rather have otherwise."""
    row = start()
    for begin, end in blocks(size, from_start=True):
        extra = 0
        while True:
            where, p = masks(row, begin, end), law(row)
            mine = [i for i in range(max(begin, len(PROMPT)), end) if i not in where]
            edits = [i for i in mine if top(p[i]) != row[i] and max(p[i]) > edit]
            chosen = above(threshold)({i: max(p[i]) for i in where}, p, 0) if where else []
            for i in (*chosen, *edits):
                row[i] = top(p[i])
            yield row
            extra += not where
            if not masks(row, begin, end) and ((not where and not edits) or extra >= 16):
                break


def local_leap(threshold: float, relaxed: float, radius: int) -> Choice:
    def choose(sure: dict[int, float], p: Law, step: int) -> list[int]:
        anchors = [i for i in sure if sure[i] >= threshold]
        near = {j for i in anchors for j in range(i - radius, i + radius + 1)}
        order = surest(sure)
        return order[:1] + [i for i in order[1:] if sure[i] >= (relaxed if i in near else threshold)]

    return choose


def margin_threshold(threshold: float) -> Choice:
    def choose(sure: dict[int, float], p: Law, step: int) -> list[int]:
        return above(threshold)({i: sorted(p[i])[-1] - sorted(p[i])[-2] for i in sure}, p, step)

    return choose


def pc_sampler(decay: float, most: float, frequencies: list[float]) -> Choice:
    """One token per call; places count from where the answer begins."""

    def choose(sure: dict[int, float], p: Law, step: int) -> list[int]:
        weighed = {i: min(-sure[i] * math.log(frequencies[top(p[i])] + 1e-9), most) for i in sure}
        return surest({i: math.exp(-decay * (i - len(PROMPT))) * weighed[i] for i in sure})[:1]

    return choose


def path_planning(steps: int, eta: float, temperature: float) -> Canvases:
    row = start()
    answer = range(len(PROMPT), LENGTH)
    for k in range(steps):
        p = law(row, temperature)
        u = RowRandom.from_seed(SEED, 1).fold_in(1).fold_in(k).uniform(LENGTH)[0].tolist()
        x0 = {i: draw(p[i], u[i]) for i in answer}
        score = {i: math.log(p[i][x0[i]]) * (1.0 if row[i] == MASK else eta) for i in answer}
        lowest = surest(score)[len(answer) - math.floor(len(answer) * (1 - (k + 1) / steps)) :]
        for i in answer:
            if i in lowest:
                row[i] = MASK
            elif row[i] == MASK:
                row[i] = x0[i]
        yield row


def spread(count: int) -> Canvases:
    """Positions by their number read backwards in binary."""
    row, number = start(), LENGTH - len(PROMPT)
    order = sorted(range(number), key=lambda n: int(f"{n:04b}"[::-1], 2))
    for k in range(0, number, count):
        p, u = law(row), numbers(1, k // count, DRAW)
        for n in order[k : k + count]:
            row[len(PROMPT) + n] = draw(p[len(PROMPT) + n], u[len(PROMPT) + n])
        yield row


def comb(stride: int) -> Canvases:
    row, step = start(), 0
    while where := masks(row):
        p, u = law(row), numbers(1, step, DRAW)
        teeth: dict[int, list[int]] = {}
        for i in where:
            teeth.setdefault((i - len(PROMPT)) % stride, []).append(i)
        lead = {i: sorted(p[i])[-1] - sorted(p[i])[-2] for i in where}
        for i in max(teeth.values(), key=lambda some: sum(lead[i] for i in some) / len(some)):
            row[i] = draw(p[i], u[i])
        step += 1
        yield row


def saber(n: int, mu: int) -> Canvases:
    """generate_with_saber on one block; where fewer than n masks are left, here all of them."""
    row, answer = start(), range(len(PROMPT), LENGTH)
    last, written = {i: 0.0 for i in answer}, dict[int, float]()
    while where := masks(row):
        p = law(row)
        sure = {i: max(p[i]) for i in answer}
        usual = sum(written.values()) / len(written) if written else 1.0
        chosen = [i for i in where if sure[i] > usual]
        chosen = surest({i: sure[i] for i in where})[:n] if len(chosen) < n else chosen
        for i in chosen:
            row[i], written[i] = top(p[i]), sure[i]
        if masks(row):
            count = max(n, len(chosen))
            change = {i: last[i] - sure[i] for i in answer if row[i] != MASK}
            for i in surest(change)[: min(max(n // 2, -(-count // mu)), count - 1)]:
                row[i] = MASK
        last = sure
        yield row


def shadow_law(row: list[int], i: int, block: list[int]) -> list[float]:
    """What a mask in the place of position i is told by: all other positions, and all masks beside the block."""
    told = [TABLE[j, row[j], i] for j in range(LENGTH) if j != i] + [0.1 * TABLE[j, MASK, i] for j in block]
    return sum(told)[:MASK].softmax(-1).tolist()  # type: ignore[union-attr]


def model_with_shadows(tokens: Tensor, shadow: Tensor) -> Tensor:
    """As `model` for the canvas; for masks beside it the logits of `shadow_law`."""
    length = tokens.shape[1] - shadow.shape[1]
    canvas, rows = model(tokens[:, :length]), torch.arange(len(tokens))[:, None]
    own = TABLE[shadow, tokens.gather(1, shadow), shadow]
    of_shadows = torch.stack([0.1 * TABLE[row, MASK].sum(0)[row] for row in shadow])
    return torch.cat([canvas, canvas[rows, shadow] - own + of_shadows], 1)


def wino(threshold: float, keep: float, size: int) -> Canvases:
    """decoding_wino; here, blocks count from the end and the laws leave out the mask."""
    row = start()
    for begin, end in blocks(size):
        block, last = list(range(max(begin, len(PROMPT)), end)), 30
        while where := masks(row, begin, end):
            p, most = law(row), min(max(int(0.7 * len(where)), 5), 20)
            second = {i: shadow_law(row, i, block)[row[i]] for i in block if row[i] != MASK}
            sure = {i: max(p[i]) for i in where}
            chosen = [i for i in surest(sure) if sure[i] > threshold][:most] or surest(sure)[:1]
            doubted = [i for i in second if second[i] < keep] if len(chosen) > 1 else []
            if len(doubted) >= last:
                doubted = sorted(second, key=lambda i: second[i])[: last - 1]
            for i in chosen:
                row[i] = top(p[i])
            for i in doubted:
                row[i] = MASK
            last = len(chosen)
            yield row


LEAST, MARGIN = (lambda p, v: p[v]), (lambda p, v: sorted(p)[-1] - sorted(p)[-2])
GRID = uniform_grid(9)
FREQUENCIES = (0.3, 0.02, 0.2, 0.01, 0.25, 0.1, 0.1, 0.0)
RULES: dict[str, tuple[dict[str, Any], Callable[[], Canvases]]] = {
    "low_confidence": ({"steps": 6, "block_length": 3}, lambda: llada(2, 3)),
    "random_remasking": ({"steps": 4}, lambda: in_random_order([3, 2, 2, 2])),
    "left_to_right": ({}, left_to_right),
    "maskgit": ({"steps": 5, "choice_temperature": 1.0}, lambda: maskgit(5, 1.0)),
    "dream_entropy": ({"steps": 12}, lambda: dream(12, lambda p, v: -entropy(p), 0.2, 0.95)),
    "topk_margin": ({"steps": 5, "temperature": 0.9}, lambda: dream(5, MARGIN, 0.9, 0.95)),
    "maskgit_plus": ({"steps": 5, "temperature": 0.9, "top_p": 0.8}, lambda: dream(5, LEAST, 0.9, 0.8)),
    "dream_origin": (
        {"steps": 9, "temperature": 1.0, "top_p": None},
        lambda: coins(9, [(1 - 1e-3) * a for a in GRID], same_for_all(lambda t, s: 0.0), 1.0),
    ),
    "fast_dllm": ({"threshold": 0.6, "block_length": 4}, lambda: greedy(above(0.6), 4)),
    "fast_dllm_factor": ({"block_length": 5}, lambda: greedy(factor(1.0), 5)),
    "eb_sampler": ({"gamma": 1.0}, lambda: greedy(entropy_bound(1.0), None)),
    "klass": (
        {"threshold": 0.4, "max_divergence": 2.0, "block_length": 3},
        lambda: klass(0.4, 2.0, 2, 3),
    ),
    "llada2": (
        {"steps_per_block": 2, "threshold": 0.7, "block_length": 4},
        lambda: greedy(llada2(0.7, 2, 4), 4, from_start=True),
    ),
    "llada21": ({"threshold": 0.6, "edit_threshold": 0.4, "block_length": 4}, lambda: editing(0.6, 0.4, 4)),
    "llada21_quality": ({"block_length": 4}, lambda: editing(0.7, 0.5, 4)),
    "llada21_speed": ({"block_length": 4}, lambda: editing(0.5, 0.0, 4)),
    "hierarchy": ({"block_length": 9}, lambda: greedy(hierarchy(0.9, 0.4), 9)),
    "credit": ({"block_length": 5}, lambda: credit(0.9, 5)),
    "margin_threshold": (
        {"threshold": 0.5, "block_length": 5},
        lambda: greedy(margin_threshold(0.5), 5),
    ),
    "local_leap": (
        {"threshold": 0.8, "relaxed_threshold": 0.4, "radius": 2, "block_length": 9},
        lambda: greedy(local_leap(0.8, 0.4, 2), 9),
    ),
    "pc_sampler": (
        {"frequencies": FREQUENCIES, "most": 1.5},
        lambda: greedy(pc_sampler(0.25, 1.5, list(FREQUENCIES)), None),
    ),
    "p2": ({"steps": 7, "doubt": 1.5, "temperature": 1.0}, lambda: path_planning(7, 1.5, 1.0)),
    "saber": ({"least": 3, "per_removal": 2}, lambda: saber(3, 2)),
    "wino": ({"threshold": 0.45, "keep_threshold": 0.6, "block_length": 9}, lambda: wino(0.45, 0.6, 9)),
    "self_speculative": ({}, lambda: llada(None, None)),
    "ancestral": ({"steps": 9}, lambda: coins(9, GRID, same_for_all(lambda t, s: 0.0), 1.0)),
    "sedd_analytic": ({"steps": 9}, lambda: coins(9, GRID, same_for_all(lambda t, s: 0.0), 1.0)),
    "tau_leaping": ({"steps": 9}, lambda: coins(9, GRID, same_for_all(lambda t, s: 0.0), 1.0)),
    "first_hitting": ({}, lambda: in_random_order([1] * 9)),
    "remdm_cap": (
        {"steps": 9, "eta": 0.3},
        lambda: coins(9, GRID, same_for_all(lambda t, s: min(0.3, sigma_max(t, s))), 0.9),
    ),
    "remdm_rescale": (
        {"steps": 9, "eta": 0.3},
        lambda: coins(9, GRID, same_for_all(lambda t, s: 0.3 * sigma_max(t, s)), 0.9),
    ),
    "remdm_conf": ({"steps": 9}, lambda: coins(9, GRID, by_confidence, 0.9)),
    "remdm_loop": ({"steps": 40}, lambda: coins(40, loop_grid(40), same_for_all(loop_sigma), 0.9)),
    "forward_backward": (
        {"steps": 9},
        lambda: coins(9, GRID, same_for_all(lambda t, s: min((s - t) / t, sigma_max(t, s)) if t else 1.0), 0.9),
    ),
    "spread": ({"steps": 3}, lambda: spread(3)),
    "comb": ({"stride": 4}, lambda: comb(4)),
}
KEPT: dict[str, tuple[dict[str, Any], by_hand.Rule, by_hand.Amount]] = {
    "fast_dllm_prefix": ({"threshold": 0.2}, by_hand.prefix(), by_hand.Amount(threshold=0.2)),
    "fast_dllm_dual": ({"threshold": 0.2}, by_hand.dual(), by_hand.Amount(threshold=0.2)),
    # dInfer's warm-up of 4 calls, and the one that fills the cache.
    "vicinity": ({"threshold": 0.2, "radius": 2}, by_hand.dual(warm_up=5, radius=2), by_hand.Amount(threshold=0.2)),
    "dkv_cache": ({}, by_hand.delayed(8), by_hand.Amount(1)),
    "dllm_cache": ({}, by_hand.interval(100, 7, 0.25), by_hand.Amount(1)),
}


def without_repetitions(canvases: Iterator[list[int]]) -> list[list[int]]:
    """The canvases that differ from those before; the library has no step for a call that changes nothing."""
    found = [start()]
    for row in canvases:
        if row != found[-1]:
            found.append(list(row))
    return found[1:]


@pytest.mark.parametrize("name", RULES)
def test_a_preset_does_what_is_published(name: str) -> None:
    options, rule = RULES[name]
    expected = without_repetitions(rule())
    assert MASK not in expected[-1]
    network = model_with_shadows if name == "wino" else model
    steps = PRESETS[name](**options).iterate(network, torch.tensor([start()]), MaskingProcess(MASK), seed=SEED)
    written = without_repetitions(step.tokens[0].tolist() for step in steps)
    if name == "self_speculative":  # settles several of the steps in a call
        assert all(row in expected for row in written)
        assert written[-1] == expected[-1]
    else:
        assert written == expected


OTHERWISE: dict[str, dict[str, Any]] = {
    "maskgit": {"order": Stochastic(Confidence(), 1.0)},  # noise on probabilities, which stays
    "klass": {"amount": Stability(0.4, 2.0, 2, ahead=False)},  # history of the block alone
    "fast_dllm_factor": {"amount": Factor(1.0)},  # the paper's rule
    "remdm_conf": {"proposal": Proposal(1.0, top_p=0.9)},  # the nucleus of transformers
    "llada2": {"amount": ThresholdOrQuota(4, 0.7, 4)},
    "local_leap": {"amount": LocalLeap(0.8, 0.4, 1)},
    "p2": {"doubt": 1.0},
    "saber": {"per_removal": 8},
    "wino": {"keep_threshold": 0.05},
}


@pytest.mark.parametrize("name", OTHERWISE)
def test_a_rule_that_differs_a_little_is_found_out(name: str) -> None:
    options, rule = RULES[name]
    other = replace(PRESETS[name](**options), **OTHERWISE[name])  # type: ignore[type-var]
    network = model_with_shadows if name == "wino" else model
    steps = other.iterate(network, torch.tensor([start()]), MaskingProcess(MASK), seed=SEED)
    assert without_repetitions(step.tokens[0].tolist() for step in steps) != without_repetitions(rule())


@pytest.mark.parametrize("name", KEPT)
def test_a_preset_keeps_what_is_published(name: str) -> None:
    options, rule, amount = KEPT[name]
    size = None if PRESETS[name]().window == PRESETS["dkv_cache"]().window else 6  # type: ignore[attr-defined]
    options = options if size is None else {**options, "block_length": size}
    network, row = by_hand.build(), torch.tensor([3, 9, 4, 1, 22, 8, *[by_hand.MASK] * 12])
    windows = by_hand.decode(network, row, rule, amount, by_hand.spans_of(row, size, False))
    expected = [canvas for window in windows for canvas, _ in window]
    steps = list(PRESETS[name](**options).iterate(network, row[None], MaskingProcess(by_hand.MASK)))
    assert len(steps) == len(expected)
    for step, canvas in zip(steps, expected, strict=True):
        assert torch.equal(step.tokens[0], canvas)


def test_block_diffusion_draws_one_token_per_call_from_a_block_and_what_is_before_it() -> None:
    network: BidirectionalTransformer = by_hand.build(block_length=4)
    row, mask, expected = torch.tensor([3, 9, 4, 1, *[by_hand.MASK] * 8]), by_hand.MASK, []
    tokens = row.tolist()
    for window, (begin, end) in zip((2, 1), ((4, 8), (8, 12)), strict=True):
        for step in range(4):
            logits = network(torch.tensor([tokens[:end]]))[0].double()
            lot, u = numbers(window, step, ORDER), numbers(window, step, DRAW)
            i = max((i for i in range(begin, end) if tokens[i] == mask), key=lambda i: lot[i])
            tokens[i] = draw(nucleus(logits[i, :mask].softmax(-1).tolist(), 0.3, crossing=False), u[i])
            expected.append(list(tokens))
    sampler = PRESETS["block_diffusion"](block_length=4, top_p=0.3)
    steps = sampler.iterate(network, row[None], MaskingProcess(mask), seed=SEED)
    assert [step.tokens[0].tolist() for step in steps] == expected


DEFAULTS: dict[str, dict[str, Any]] = {
    "fast_dllm": {"threshold": 0.9, "block_length": 32},
    "local_leap": {"threshold": 0.9, "relaxed_threshold": 0.75, "radius": 4},
    "eb_sampler": {"gamma": 0.1},
    "klass": {"threshold": 0.9, "max_divergence": 0.01, "history": 2, "block_length": 64},
    "vicinity": {"threshold": 0.9, "radius": 16, "warm_up": 4},
    "llada2": {"steps_per_block": 32, "threshold": 0.95, "block_length": 32},
    "llada21": {"threshold": 0.95, "edit_threshold": 0.9},
    "maskgit": {"steps": 12, "choice_temperature": 4.5},
    "saber": {"least": 2, "per_removal": 8},
    "wino": {"threshold": 0.6, "keep_threshold": 0.9, "block_length": 128},
    "comb": {"stride": 8},
}
"""What the rules above are given otherwise, as docs and papers have it."""


def test_defaults_are_the_published_ones() -> None:
    for name, expected in DEFAULTS.items():
        known = inspect.signature(PRESETS[name]).parameters
        assert {argument: known[argument].default for argument in expected} == expected
    found = PRESETS["vicinity"](block_length=4)
    assert found.cache == VicinityCache(warm_up=4 + 1, radius=16)  # type: ignore[attr-defined]


def test_every_preset_has_a_rule() -> None:
    # tidar writes what its model writes from left to right: test_draft_verify.py compares the two.
    assert {*RULES, *KEPT, "block_diffusion", "tidar"} == set(PRESETS)
