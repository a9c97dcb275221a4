"""Models of transformers that read a clean text and a noisy canvas behind it, as DiffusionGemma does (extra ``hf``).

    logits = decoder(canvas | encoder(text before it), the last step's logits)

The encoder is causal; the decoder sees the whole canvas and all of the text. Here the two are one row: of the positions
that are asked for, the block of ``block_length`` tokens in which they stand is the canvas, all before it is text, and
what is behind isn't seen. Blocks are counted from the end of the row.

Shapes: B rows, L tokens of a row, C of the canvas, N positions that are asked for, V vocabulary.

Reference: DiffusionGemma in transformers.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llada.backbones.huggingface import HuggingFaceBackbone, loaded
from llada.rows import block_of

SURE = 1e4
"""The logit that stands for a token that is certain."""


class CanvasBackbone(nn.Module):
    """Wraps a model of block diffusion of ``transformers``. The text is read again in every call.

    Args:
        model: such as ``DiffusionGemmaForBlockDiffusion``; or a folder or hub name to load one from; or what this class
            keeps of a model to build it again, ``{"architecture": ..., "config": ...}``, with random weights.
        block_length: C; None: as the model was trained.

    Raises:
        ValueError: if the model takes no canvas.
        ImportError: if ``transformers`` is needed and isn't installed.

    Example:
        ``DiffusionLM(CanvasBackbone(folder), UniformProcess(V, posterior=True))``, sampled by
        ``CommitAndRenoise(self_conditioning=True, window=Blocks(256))``.
    """

    def __init__(self, model: nn.Module | str | dict[str, Any], block_length: int | None = None) -> None:
        super().__init__()
        network: Any = loaded(model)
        config: Any = getattr(network, "config", None)
        trained = getattr(config, "canvas_length", None)
        if trained is None:
            raise ValueError(
                f"{type(network).__name__} takes no canvas behind a text; for other models of transformers use "
                f"{HuggingFaceBackbone.__name__}"
            )
        self.model = {"architecture": type(network).__name__, "config": config.to_dict()}
        self.network = network
        self.block_length = int(trained) if block_length is None else block_length
        self.vocab_size = int(config.get_text_config().vocab_size)
        self.head = nn.Identity()  # the model bends its logits itself

    def forward(self, tokens: Tensor, **arguments: Any) -> Tensor:
        """Logits (B, C, V) of the last block of tokens (B, L); arguments as in `hidden`."""
        columns = torch.arange(max(tokens.shape[1] - self.block_length, 0), tokens.shape[1], device=tokens.device)
        start = torch.arange(len(tokens), device=tokens.device)[:, None] * tokens.shape[1]
        logits = self.hidden(tokens, select=(start + columns).flatten(), **arguments)
        return logits.view(len(tokens), len(columns), -1)

    def hidden(
        self,
        tokens: Tensor,
        *,
        attention_mask: Tensor | None = None,
        previous: Tensor | None = None,
        select: Tensor | None = None,
    ) -> Tensor:
        """The logits of some positions of one block.

        Args:
            tokens: (B, L) int64.
            attention_mask: (B, L) bool, true for real tokens; None: all.
            previous: (B, M, V), the logits of the last step at the positions of ``select``, which are then the same
                number M in each row; None at the first step. Other positions of the canvas count as certain.
            select: (N,) flat indices into B * L, all in one block.

        Returns:
            (N, V) float32.

        Raises:
            ValueError: if no positions are given, they are of several blocks, or nothing stands before them.
        """
        if select is None:
            raise ValueError(
                f"{type(self.network).__name__} reads one canvas at a time: say which positions are wanted"
            )
        length, size = tokens.shape[1], self.block_length
        columns = select % length
        start = self._start(columns, length)
        stop = min(start + size, length)
        real = torch.ones_like(tokens, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        canvas = tokens[:, start:stop]
        output = self.network(
            input_ids=tokens[:, :start],
            attention_mask=real[:, :start].long(),
            decoder_input_ids=canvas,
            decoder_attention_mask=real[:, :stop],
            self_conditioning_logits=None if previous is None else self._certain(canvas, columns - start, previous),
        )
        logits: Tensor = output.logits
        return logits[select // length, columns - start]

    def _start(self, columns: Tensor, length: int) -> int:
        """First column of the canvas in which the columns stand; asks the device."""
        behind = length - 1 - columns if len(columns) else torch.zeros(1, dtype=torch.int64)
        block, other = (int(value) for value in torch.stack(block_of(behind, self.block_length).aminmax()).cpu())
        start = length - (other + 1) * self.block_length
        if block != other:
            raise ValueError(
                f"the positions are of {other - block + 1} canvases of {self.block_length} tokens, counted from the "
                f"end of the row; decode with window=Blocks({self.block_length}), and train on rows whose answer is one"
            )
        if start < 1:
            raise ValueError(
                "a canvas needs a text before it, if only a token that begins it; this row begins with a canvas"
            )
        return start

    def _certain(self, canvas: Tensor, columns: Tensor, previous: Tensor) -> Tensor:
        """(B, C, V) logits: the last step's where there are some, elsewhere those of the tokens on the canvas."""
        index = columns.view(len(canvas), -1, 1).expand(-1, -1, previous.shape[-1])
        sure = SURE * F.one_hot(canvas, previous.shape[-1]).to(previous)
        return sure.scatter(1, index, previous).to(next(self.network.parameters()).dtype)
