"""Any Hugging Face language model as a backbone (extra ``hf``).

What a model can do is tried out on a few tokens when it is wrapped, not assumed from its name:

- it sees to the right already: a masked language model, or a diffusion model (BERT, RoBERTa, ModernBERT, ...);
- it is causal, but takes a four-dimensional mask that lets every token see every other (LLaMA, Qwen, Mistral, Gemma,
  GPT-2, GPT-NeoX, Phi, OLMo, Cohere, Granite, Falcon, ...);
- anything else is refused: recurrent and convolutional layers (Mamba, LFM2), masks that its class builds itself
  (Bloom, OPT), encoder-decoders, padding that isn't hidden.
"""

from typing import Any

import torch
from torch import Tensor, nn

from llada.rows import has_context

PROBE = 8
"""Number of tokens in a trial."""
CAUSAL_LAYERS = ("conv", "linear", "mamba", "recurrent", "ssm")
"""Words in a configuration's ``layer_types`` for layers that read from left to right whatever the mask says."""


class HuggingFaceBackbone(nn.Module):
    """Wraps a model of ``transformers``.

    Args:
        model: a masked or causal language model; or a folder or hub name to load one from; or what this class keeps of
            a model to build it again, ``{"architecture": ..., "config": ...}``, with random weights.
        shift: the output at position i is read at i - 1, for models that were trained on the next token. None: for
            causal ones.

    Raises:
        ValueError: if the model has no logits, can't see to the right, or doesn't hide padding.
        ImportError: if ``transformers`` is needed and isn't installed.

    Example:
        ``HuggingFaceBackbone("Qwen/Qwen2.5-0.5B")``; ``backbone.network.save_pretrained(folder)`` gives the fine-tuned
        model back.
    """

    def __init__(self, model: nn.Module | str | dict[str, Any], shift: bool | None = None) -> None:
        super().__init__()
        network = loaded(model)
        self.model = _described(network)
        self.network = network
        self.made_bidirectional = not self._sees_to_the_right(four=False)
        if self.made_bidirectional:
            self._check_can_be_made_bidirectional()
        if not self._hides_padding():
            raise ValueError(f"{type(network).__name__} lets tokens see padding, so that rows can't be batched")
        self.shift = self.made_bidirectional if shift is None else shift
        # Where logits are head(hidden), the vocabulary is paid for only where it is wanted. Other models scale or bend
        # their logits, or have layers in between: their own forward does it all.
        self.whole = not self._head_is_separate()
        self.vocab_size = self._try(four=self.made_bidirectional).shape[-1]
        self.max_length = self.model["config"].get("max_position_embeddings")

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits (B, L, V) of tokens (B, L); ``attention_mask`` (B, L) is true for real tokens."""
        return self.head(self.hidden(tokens, attention_mask=attention_mask))

    @property
    def head(self) -> nn.Module:
        """Maps (..., D) to (..., V)."""
        network: Any = self.network
        return nn.Identity() if self.whole else network.get_output_embeddings()

    def hidden(
        self,
        tokens: Tensor,
        *,
        attention_mask: Tensor | None = None,
        segment_ids: Tensor | None = None,
        select: Tensor | None = None,
    ) -> Tensor:
        """What `head` turns into logits; the logits themselves where a model doesn't separate the two.

        Args:
            tokens: (B, L) int64.
            attention_mask: (B, L) bool, true for real tokens; None: all.
            segment_ids: must be None.
            select: (N,) flat indices into B * L.

        Returns:
            (B, L, D), or (N, D) with ``select``.

        Raises:
            ValueError: if the rows are packed.
        """
        if segment_ids is not None:
            raise ValueError(f"{type(self.network).__name__} can't be kept from seeing other segments; don't pack rows")
        states = self._states(tokens, attention_mask, four=self.made_bidirectional, whole=self.whole)
        if self.shift:
            context = has_context(tokens, attention_mask)[..., None]  # a row's first token reads its own output
            states = torch.where(context, torch.cat((states[:, :1], states[:, :-1]), 1), states)
        return states if select is None else states.flatten(0, 1)[select]

    def _states(self, tokens: Tensor, attention_mask: Tensor | None, *, four: bool, whole: bool) -> Tensor:
        """Run the network, with a mask of its own kind or a four-dimensional one, to its logits or its last states."""
        real = torch.ones_like(tokens, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        arguments: dict[str, Any] = {"attention_mask": real.long()}
        if four:  # additive: transformers takes it as it is, without a causal part of its own
            dtype = next(self.network.parameters()).dtype
            bias = torch.zeros(real.shape, dtype=dtype, device=tokens.device)
            bias = bias.masked_fill(~real, torch.finfo(dtype).min)
            arguments = {
                "attention_mask": bias[:, None, None, :].expand(-1, 1, tokens.shape[1], -1),
                "use_cache": False,
            }
        network: Any = self.network if whole else self.network.base_model
        output = network(input_ids=tokens, **arguments)
        return output.logits if whole else output.last_hidden_state

    @torch.no_grad()
    def _try(self, *, four: bool, last: int = 0, mask: Tensor | None = None, whole: bool = True) -> Tensor:
        """Logits or states of a few tokens in evaluation mode; ``last`` chooses the last token."""
        device = next(self.network.parameters()).device
        if device.type == "meta":  # what is asked of one differs between versions of torch and transformers
            name = type(self.network).__name__
            raise NotImplementedError(
                f"weights of {name} on the meta device have no values to try it with; load them first"
            )
        training = self.network.training
        self.network.eval()
        rows = _embedding_rows(self.network)
        tokens = torch.arange(1, PROBE + 1)[None] % rows
        tokens[0, -1] = (PROBE + last * (rows // 2)) % rows
        try:
            return self._states(tokens.to(device), None if mask is None else mask.to(device), four=four, whole=whole)
        except (AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
            kind = "with a four-dimensional mask" if four else "on its own"
            raise ValueError(
                f"{type(self.network).__name__} can't be run {kind} as a language model: {error}"
            ) from error
        finally:
            self.network.train(training)

    def _sees_to_the_right(self, *, four: bool) -> bool:
        """Whether the last token changes the logits of the first."""
        first, second = (self._try(four=four, last=last)[0, 0] for last in (0, 1))
        return not torch.equal(first, second)

    def _check_can_be_made_bidirectional(self) -> None:
        name = type(self.network).__name__
        advice = "use a masked language model, or a causal one whose layers are all attention"
        types = self.model["config"].get("layer_types") or []
        causal = [kind for kind in types if any(word in kind for word in CAUSAL_LAYERS)]
        if causal:
            raise ValueError(f"{name} has {causal[0]} layers, which read from left to right only; {advice}")
        if not self._sees_to_the_right(four=True):
            raise ValueError(f"{name} doesn't look to the right even where its mask allows it; {advice}")

    def _hides_padding(self) -> bool:
        """Whether the last token doesn't change the logits of the first where it is padding."""
        mask = torch.ones(1, PROBE, dtype=torch.bool)
        mask[0, -1] = False
        first, second = (self._try(four=self.made_bidirectional, last=last, mask=mask)[0, 0] for last in (0, 1))
        return torch.equal(first, second)

    @torch.no_grad()
    def _head_is_separate(self) -> bool:
        """Whether the logits are, to the bit, what the head makes of the last states."""
        network: Any = self.network
        logits = self._try(four=self.made_bidirectional)
        try:
            states = self._try(four=self.made_bidirectional, whole=False)
            return torch.equal(network.get_output_embeddings()(states), logits)
        except (RuntimeError, ValueError):  # the states aren't of the head's width, or the body is called otherwise
            return False


def loaded(model: nn.Module | str | dict[str, Any]) -> nn.Module:
    """A model of transformers, built or loaded where it isn't one yet.

    Args:
        model: the model, or a folder or hub name, or ``{"architecture": ..., "config": ...}``.

    Raises:
        ImportError: if ``transformers`` is needed and isn't installed.
        ValueError: if it has no such class.
    """
    if isinstance(model, nn.Module):
        return model
    try:
        import transformers
    except ImportError as error:
        raise ImportError("wrapping a model of transformers needs it: pip install llada[hf]") from error
    if isinstance(model, str):
        name = (transformers.AutoConfig.from_pretrained(model).architectures or [""])[0]
        return _class_of(transformers, name).from_pretrained(model)
    if set(model) != {"architecture", "config"}:
        raise ValueError(f"a model must be described by its architecture and config; got {sorted(model)}")
    cls = _class_of(transformers, model["architecture"])
    return cls(cls.config_class.from_dict(model["config"]))


def _class_of(transformers: Any, name: str) -> Any:
    cls = getattr(transformers, name, None)
    if not (isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel)):
        raise ValueError(f"transformers has no model class {name!r}; code from a checkpoint is never run")
    return cls


def _described(network: nn.Module) -> dict[str, Any]:
    """What a checkpoint needs to build the network again, as plain data."""
    name, config = type(network).__name__, getattr(network, "config", None)
    if config is None or not hasattr(config, "to_dict"):
        raise ValueError(f"{name} isn't a model of transformers: it has no configuration")
    if hasattr(config, "canvas_length"):
        raise ValueError(f"{name} reads a text and a canvas behind it; use llada.backbones.canvas.CanvasBackbone")
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(f"{name} is an encoder-decoder, which has no single row to denoise; use an encoder or decoder")
    if getattr(network, "get_output_embeddings", lambda: None)() is None:
        raise ValueError(f"{name} has no vocabulary head; wrap a masked or causal language model")
    # transformers 4.50 notes there that it has chosen a kernel, but not which one, and then takes its slowest.
    described = {key: value for key, value in config.to_dict().items() if key != "_attn_implementation_autoset"}
    return {"architecture": name, "config": described}


def _embedding_rows(network: Any) -> int:
    return int(network.get_input_embeddings().num_embeddings)
