"""The flash-attn packages: FlashAttention-3 (``flash_attn_interface``) on Hopper where installed, else version 2.

Dense rows go to the dense kernel, padded and packed ones to that for runs of tokens.

Reference: Dao, "FlashAttention-2", arXiv 2307.08691; Shah et al., "FlashAttention-3", arXiv 2407.08608.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from llada.backbones.attention.kernel import Case, Kernel, needs_half_on_ampere
from llada.backbones.attention.offered import FLASH_2, FLASH_3
from llada.backbones.attention.varlen import over_runs
from llada.backbones.attention.visibility import Runs, Structure, Visibility


@dataclass(frozen=True)
class FlashAttention(Kernel):
    """FlashAttention from the package that fits the device."""

    unpads: ClassVar[bool] = True
    answers_padding: ClassVar[bool] = False

    @override
    def __call__(self, q: Tensor, k: Tensor, v: Tensor, visibility: Visibility) -> Tensor:
        self.check(q, visibility)
        case = Case.of(q, visibility)
        dense, varlen = functions(case)
        if case.structure is Structure.DENSE:
            q, k, v = (x.transpose(1, 2) for x in (q, k, v))
            return _result(dense(q, k, v, causal=visibility.causal)).transpose(1, 2)

        def core(q: Tensor, k: Tensor, v: Tensor, runs: Runs) -> Tensor:
            return _result(
                varlen(
                    q,
                    k,
                    v,
                    runs.query_bounds,
                    runs.key_bounds,
                    runs.longest_query,
                    runs.longest_key,
                    causal=visibility.causal,
                )
            )

        return over_runs(q, k, v, visibility, core)

    @override
    def unfit(self, case: Case) -> str | None:
        return needs_half_on_ampere("flash", case)


def prefers_version_3(case: Case) -> bool:
    """Whether FlashAttention-3 is there and the device is a Hopper."""
    return FLASH_3 in case.installed and case.capability is not None and case.capability[0] == 9


def is_installed(case: Case) -> bool:
    """Whether a package is there that runs on the device."""
    return FLASH_2 in case.installed or prefers_version_3(case)


def functions(case: Case) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The dense function and that for runs.

    Raises:
        ImportError: if no package is there.
    """
    if prefers_version_3(case):
        from flash_attn_interface import flash_attn_func, flash_attn_varlen_func

        return flash_attn_func, flash_attn_varlen_func
    try:
        from flash_attn import flash_attn_func, flash_attn_varlen_func
    except ImportError as error:
        raise ImportError(
            f"attention='flash' needs the package flash-attn, built against torch {torch.__version__} ({error}): "
            "pip install flash-attn --no-build-isolation; or use 'auto' or 'varlen', which need nothing"
        ) from error
    return flash_attn_func, flash_attn_varlen_func


def _result(value: Any) -> Tensor:
    """Releases of FlashAttention-3 differ in whether they give the log-sum-exp as well."""
    result = value[0] if isinstance(value, tuple) else value
    assert isinstance(result, Tensor)
    return result
