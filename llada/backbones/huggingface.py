"""Any Hugging Face language model as a backbone (extra ``hf``).

A masked language model is bidirectional already. A causal one is made so by a mask that lets every token see every
other; whether its class honours such a mask is tried out on random tokens, and a class that doesn't is refused.
"""

from typing import Any

import torch
from torch import Tensor, nn


class HuggingFaceBackbone(nn.Module):
    """Wraps a model of ``transformers``.

    Args:
        model: a masked or causal language model, such as ``AutoModelForMaskedLM.from_pretrained(...)``.
        shift: the output at position i is read at i - 1, for models that were trained on the next token.

    Raises:
        ValueError: if the model has no vocabulary head, or can't see to the right.

    Example:
        ``HuggingFaceBackbone(AutoModelForCausalLM.from_pretrained("Qwen/Qwen2.5-0.5B"), shift=True)``
    """

    def __init__(self, model: nn.Module, shift: bool = False) -> None:
        super().__init__()
        head = getattr(model, "get_output_embeddings", lambda: None)()
        if head is None:
            raise ValueError(f"{type(model).__name__} has no vocabulary head; wrap a masked or causal language model")
        self.model, self.shift = model, shift
        self.vocab_size = int(head.out_features)
        # A causal model's logits are head(hidden); a masked one has layers in between, which only its forward knows.
        self.whole = type(model).__name__.endswith("ForMaskedLM")
        self.head = nn.Identity() if self.whole else head
        if not self._sees_to_the_right():
            raise ValueError(
                f"{type(model).__name__} doesn't look to the right even when its mask allows it; load LLaMA- and Qwen- "
                "type checkpoints with llada.interop.from_pretrained instead, or use a masked language model"
            )

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits (B, L, V) of tokens (B, L); ``attention_mask`` (B, L) is true for real tokens."""
        return self.head(self.hidden(tokens, attention_mask=attention_mask))

    def hidden(self, tokens: Tensor, *, attention_mask: Tensor | None = None, select: Tensor | None = None) -> Tensor:
        """What `head` turns into logits; for masked language models the logits themselves.

        Args:
            tokens: (B, L) int64.
            attention_mask: (B, L) bool, true for real tokens; None: all.
            select: (N,) flat indices into B * L.

        Returns:
            (B, L, D), or (N, D) with ``select``.
        """
        states = self._states(tokens, attention_mask)
        if self.shift:
            states = torch.cat((states[:, :1], states[:, :-1]), 1)
        return states if select is None else states.flatten(0, 1)[select]

    def _states(self, tokens: Tensor, attention_mask: Tensor | None) -> Tensor:
        real = torch.ones_like(tokens, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        if self.whole:
            return self.model(input_ids=tokens, attention_mask=real.long()).logits
        # Additive and four-dimensional: transformers takes it as it is, without its causal part.
        dtype = next(self.model.parameters()).dtype
        bias = torch.zeros(real.shape, dtype=dtype, device=tokens.device).masked_fill(~real, torch.finfo(dtype).min)
        bias = bias[:, None, None, :].expand(-1, 1, tokens.shape[1], -1)
        body: Any = self.model.base_model
        return body(input_ids=tokens, attention_mask=bias, use_cache=False).last_hidden_state

    @torch.no_grad()
    def _sees_to_the_right(self) -> bool:
        """Whether the last token changes the outputs of the first."""
        training = self.model.training
        self.model.eval()
        device = next(self.model.parameters()).device
        tokens = torch.arange(8, device=device)[None] % self.vocab_size
        changed = tokens.clone()
        changed[0, -1] = (changed[0, -1] + self.vocab_size // 2) % self.vocab_size
        first, second = (self._states(row, None)[0, 0] for row in (tokens, changed))
        self.model.train(training)
        return not torch.equal(first, second)
