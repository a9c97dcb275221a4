"""What a training run needs of each card, in memory and in communication, before it is started.

    python examples/memory_arithmetic.py

Arithmetic on shapes for LLaDA's 1B and 8B and for a 100B of the same kind; no weights are made. `docs/scaling.md` says
what the columns mean. tests/test_memory_arithmetic.py compares the counts with models, activations and shards that are
really there.
"""

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Shape:
    """A `BidirectionalTransformer` without biases and with a head of its own.

    Args:
        width: D.
        num_layers: blocks.
        num_heads: query heads, D / d of them.
        num_kv_heads: key/value heads.
        hidden_width: F.
        vocab_size: V.
    """

    width: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    hidden_width: int
    vocab_size: int = 126_464

    @property
    def kv_width(self) -> int:
        """Width of the keys, and of the values."""
        return self.width * self.num_kv_heads // self.num_heads

    @property
    def block(self) -> int:
        """Parameters of one block: queries, output, keys, values, three of SwiGLU, two norms."""
        attention = 2 * self.width**2 + 2 * self.width * self.kv_width
        return attention + 3 * self.width * self.hidden_width + 2 * self.width

    @property
    def around(self) -> int:
        """Parameters of embedding, head and final norm."""
        return 2 * self.vocab_size * self.width + self.width

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.num_layers * self.block + self.around

    def activations(self, tokens: int, checkpointing: bool, ranks: int = 1, bytes_each: int = 2) -> float:
        """Bytes kept for the backward pass.

        Per token a block keeps 6 D along the residual stream (input, normalised, scaled, for both halves), which every
        tensor-parallel rank has, and what such ranks share: 2 D for queries and what attention gives, twice the key
        width, 4 F for SwiGLU, a number per head. With checkpointing every block's input stays, and one block's all.

        Args:
            tokens: of a micro-batch.
            checkpointing: whether each block is recomputed.
            ranks: T, that share a block.
            bytes_each: of a number.
        """
        shared = 2 * self.width + 2 * self.kv_width + 4 * self.hidden_width + self.num_heads
        per_block = 6 * self.width + 2 + shared / ranks
        numbers = self.num_layers * self.width + per_block if checkpointing else self.num_layers * per_block
        return numbers * tokens * bytes_each


@dataclass(frozen=True)
class Plan:
    """How a run is laid out.

    Args:
        data: R, data-parallel ranks, over which FSDP2 shards.
        tensor: T, ranks that share a block.
        rows: per micro-batch and data-parallel rank.
        length: tokens per row.
        checkpointing: whether activations are recomputed.
        state_bytes: per parameter: weight, gradient and optimiser state in float32 (AdamW 16, Muon 12).
    """

    data: int
    tensor: int = 1
    rows: int = 1
    length: int = 4096
    checkpointing: bool = False
    state_bytes: int = 16

    @property
    def tokens(self) -> int:
        """Of a micro-batch."""
        return self.rows * self.length


@dataclass(frozen=True)
class Card:
    """What a card can do, by its data sheet (H100 SXM, with InfiniBand NDR beside it).

    Args:
        memory: bytes.
        flops: bfloat16 operations per second, dense.
        inside: bytes per second between the cards of a node, each way.
        outside: bytes per second to other nodes, per card.
    """

    memory: float = 80e9
    flops: float = 989e12
    inside: float = 450e9
    outside: float = 50e9


def memory(shape: Shape, plan: Plan) -> dict[str, float]:
    """Bytes on each card: kept for good, gathered for the moment, activations, logits of one chunk."""
    state = plan.state_bytes * shape.parameters / (plan.data * plan.tensor)
    # In bfloat16: the block that runs and the next one, a block's gradient, and what is around with its gradient;
    # in float32: the gradients that are being reduced.
    numbers = 2 * (3 * shape.block + 2 * shape.around) + 4 * max(shape.block, shape.around)
    gathered = numbers / plan.tensor if plan.data > 1 else 0.0
    activations = shape.activations(plan.tokens, plan.checkpointing, plan.tensor)
    return {"state": state, "gathered": gathered, "activations": activations, "logits": 12.0 * (1 << 27)}


def communication(shape: Shape, plan: Plan) -> dict[str, float]:
    """Bytes that each card sends per micro-batch.

    FSDP2 gathers the blocks twice and the rest once in bfloat16, and reduces gradients in float32. Tensor parallelism
    sums the residual stream twice per block and pass, and once more where a block is recomputed.
    """
    others, inside = (plan.data - 1) / plan.data, (plan.tensor - 1) / plan.tensor
    blocks = shape.num_layers * shape.block
    data = others * (2 * (2 * blocks + shape.around) + 4 * shape.parameters) / plan.tensor
    passes = 6 if plan.checkpointing else 4
    tensor = 2 * inside * passes * shape.num_layers * plan.tokens * shape.width * 2
    return {"data": data, "tensor": tensor}


def seconds(shape: Shape, plan: Plan, card: Card, utilisation: float = 0.4) -> dict[str, float]:
    """Time of a micro-batch for computing and for each kind of communication; the data's can hide behind computing.

    Args:
        shape: of the model.
        plan: of the run.
        card: whose speed.
        utilisation: share of the peak that computing reaches; an assumption.
    """
    matrices = shape.num_layers * (shape.block - 2 * shape.width)
    head = shape.vocab_size * shape.width / 2  # half of the positions are scored
    attention = 12 * shape.num_layers * shape.width * plan.length
    flops = plan.tokens * (6 * (matrices + head) + attention) * (4 / 3 if plan.checkpointing else 1)
    sent = communication(shape, plan)
    wire = card.inside if plan.data * plan.tensor <= 8 else card.outside
    return {
        "computing": flops / plan.tensor / (utilisation * card.flops),
        "data": sent["data"] / wire,
        "tensor": sent["tensor"] / card.inside,
    }


SHAPES = {
    "1B": Shape(2048, 22, 32, 4, 5634),
    "8B": Shape(4096, 32, 32, 32, 12_288),
    "100B": Shape(10_240, 80, 80, 8, 30_720),
}
PLANS = {
    "1B": [Plan(1, rows=2), Plan(8, rows=4), Plan(64, rows=4)],
    "8B": [Plan(8, rows=4, checkpointing=True), Plan(64, rows=1), Plan(64, rows=8, checkpointing=True)],
    "100B": [
        Plan(512, rows=1, checkpointing=True),
        Plan(64, 8, rows=1, checkpointing=True),
        Plan(128, 8, rows=4, checkpointing=True),
    ],
}


def table(card: Card) -> list[str]:
    """The table of docs/scaling.md, a line at a time."""
    head = ["model", "cards", "R x T", "rows", "recompute", "state", "gathered", "activations", "total GiB"]
    lines = [f"| {' | '.join([*head, 'computing s', 'data s', 'tensor s'])} |", "|---|---" + "|---:" * 10 + "|"]
    for name, plans in PLANS.items():
        shape = SHAPES[name]
        for plan in plans:
            parts, times = memory(shape, plan), seconds(shape, plan, card)
            total = sum(parts.values())
            sizes = [f"{parts[part] / GIB:.1f}" for part in ("state", "gathered", "activations")]
            total_text = f"{total / GIB:.1f}" if total < card.memory else f"**{total / GIB:.1f}**"
            ticks = [f"{times[part]:.2f}" for part in ("computing", "data", "tensor")]
            layout = [str(plan.data * plan.tensor), f"{plan.data} x {plan.tensor}", str(plan.rows)]
            recompute = "yes" if plan.checkpointing else "no"
            title = f"{name} ({shape.parameters / 1e9:.2f}B)"
            lines.append(f"| {' | '.join([title, *layout, recompute, *sizes, total_text, *ticks])} |")
    return lines


def smallest_number_of_cards(shape: Shape, card: Card, plan: Plan) -> int:
    """Least power of two of data-parallel ranks with which a plan fits into 90% of a card."""
    for exponent in range(16):
        candidate = Plan(2**exponent, plan.tensor, plan.rows, plan.length, plan.checkpointing, plan.state_bytes)
        if sum(memory(shape, candidate).values()) < 0.9 * card.memory:
            return candidate.data * candidate.tensor
    raise ValueError(
        "it doesn't fit into any number of cards: the activations and gathered parameters alone are too big"
    )


def main() -> None:
    """Print the table."""
    card = Card()
    print("\n".join(table(card)))
    print()
    for name, shape in SHAPES.items():
        least = smallest_number_of_cards(shape, card, Plan(1, checkpointing=True))
        print(f"{name}: one row of 4096 tokens per card fits from {least} cards on, with recomputation")


if __name__ == "__main__":
    main()
