"""The catalogue: every published claim that can be checked from here, by its name.

    llada reproduce                 lists them
    llada reproduce few-data        checks one

The scores of released models are those of `llada.evaluation.PROTOCOLS`, which owns them.
"""

from llada.evaluation import PROTOCOLS, Protocol
from llada.published.entry import Entry, Experiment, Released

_SMALL = "two models of the same size and data, at most 0.2 million parameters, in the place of billions"
_LLADA, _LLADA_1_5 = "arXiv 2502.09992", "arXiv 2505.19223"

EXPERIMENTS: dict[str, Experiment] = {
    "reversal": Experiment(
        paper=f"{_LLADA}, on completing poems; the curse: arXiv 2309.12288",
        claim="who has read that A is B knows that B is A: masked diffusion is spared the reversal curse",
        published="poems forward / backward: LLaDA 8B Instruct 51.8 / 45.6, GPT-4o 82.7 / 34.3, "
        "Qwen2.5 7B Instruct 75.9 / 38.0",
        numbers={
            "poems forward, masked diffusion, %": "51.8 (LLaDA)",
            "poems backward, masked diffusion, %": "45.6 (LLaDA)",
            "poems forward, next token, %": "82.7 (GPT-4o)",
            "poems backward, next token, %": "34.3 (GPT-4o)",
        },
        program=("-m", "examples.claims.reversal"),
        file="reversal",
        minutes=(3, 6),
        ours=f"invented facts and poems; {_SMALL}",
        page="docs/claims/reversal.md",
    ),
    "in-context": Experiment(
        paper=_LLADA,
        claim="masked diffusion learns from examples in its prompt",
        published="LLaDA 8B Base with five examples in the prompt: MMLU 65.9 %",
        program=("-m", "examples.claims.in_context"),
        file="in_context",
        minutes=(2, 28),
        ours=f"tables, and in the long form functions, that exist in the prompt alone; {_SMALL}",
        page="docs/claims/in-context.md",
    ),
    "instructions": Experiment(
        paper=_LLADA,
        claim="fine-tuning on instructions makes masked diffusion follow new ones",
        published="shown by dialogues; no number",
        program=("-m", "examples.claims.instructions"),
        file="instructions",
        minutes=(4, 10),
        ours=f"five small tasks in new wordings; {_SMALL}",
        page="docs/claims/instructions.md",
    ),
    "scaling": Experiment(
        paper=f"arXiv 2410.18514; {_LLADA}",
        claim="masked diffusion has its twin's slope of loss against compute, at a constant price",
        published="about 16 times the twin's compute for the same loss",
        numbers={"convolution and unit weight: times the twin's compute": "about 16"},
        program=("-m", "examples.claims.scaling"),
        file="scaling",
        minutes=(1, 180),
        ours="checks that there is a price, measures it, and compares slopes; at most half a million parameters and "
        "1e13 operations",
        page="docs/claims/scaling.md",
    ),
    "few-data": Experiment(
        paper="arXiv 2507.15857 and 2511.03276",
        claim="where unique data are few and compute isn't, masked diffusion ends below its twin's loss",
        published="a 1.7B model with 10B unique tokens of Python overtakes its twin; noise helps the twin and "
        "doesn't close the gap",
        program=("-m", "examples.claims.few_data"),
        file="few_data",
        minutes=(2, None),
        ours=f"10,000 to 300,000 unique tokens, both models tuned by searches of the same size; {_SMALL}",
        page="docs/claims/few-data.md",
    ),
    "planning": Experiment(
        paper="arXiv 2403.06963",
        claim="next-token models don't learn to plan such answers; who chooses the order of writing needn't plan",
        published="next-token models take one of the paths by chance: 33 % of three",
        numbers={"next token, left to right (twin), %": "33 % of three"},
        program=("examples/planning.py",),
        file="planning",
        option="--out",
        minutes=(2, 7),
        ours=f"three paths from one node; {_SMALL}",
        page="docs/planning.md",
    ),
    "sudoku": Experiment(
        paper="arXiv 2502.06768",
        claim="written by margin, a masked model solves Sudokus that neither random order nor top probability solves",
        published="6M parameters: random order below 7 %, top probability 18 %, margin about 90 %",
        numbers={
            "random order, 50 blanks, %": "below 7",
            "top probability, 50 blanks, %": "18",
            "margin, 50 blanks, %": "about 90",
        },
        program=("examples/orders.py", "sudoku9"),
        file="sudoku9",
        option="--out",
        minutes=(10, 190),
        ours="9 x 9 with 30 to 50 blanks at random places, half a million parameters; the long form has two twins, too",
        page="docs/planning.md",
    ),
}
"""Claims that are checked by training here."""


def released(name: str, protocol: Protocol) -> Released:
    """The entry of a published score.

    Args:
        name: of the protocol.
        protocol: how it was measured.
    """
    where = _LLADA_1_5 if name.startswith("llada-1.5/") else _LLADA
    told = "" if protocol.same_harness else "; by another toolkit with other prompts, so a deviation says little"
    return Released(
        paper=f"{where}, as measured in EVAL.md of LLaDA's repository{told}",
        claim=f"{protocol.checkpoint} on {protocol.task}: {settings(protocol)}",
        published=f"{protocol.score:.1f} %",
        protocol=protocol,
    )


def settings(protocol: Protocol) -> str:
    """A protocol's settings in words.

    Args:
        protocol: how a score was measured.
    """
    shots = "the task's own number of examples" if protocol.num_fewshot is None else f"{protocol.num_fewshot} examples"
    words = [shots]
    if protocol.num_samples is not None:
        words.append(f"likelihoods from {protocol.num_samples} masked copies")
    if protocol.num_new_tokens is not None:
        block = "the whole canvas" if protocol.block_length is None else f"blocks of {protocol.block_length}"
        words.append(f"{protocol.num_new_tokens} new tokens, one per call by confidence, {block}")
    if protocol.guidance:
        words.append(f"guidance {protocol.guidance:g}")
    if protocol.ends.suppress_tokens:
        words.append("EOS never written")
    if protocol.ends.last:
        words.append("EOS and EOT last")
    if protocol.chat:
        words.append("as a chat")
    return ", ".join(words)


CATALOGUE: dict[str, Entry] = {**EXPERIMENTS, **{name: released(name, each) for name, each in PROTOCOLS.items()}}
"""Name -> entry, experiments first."""
