"""CUDA tensors without CUDA: fake tensors, which have shapes, dtypes and a device, but no numbers.

A torch that was built for CPUs has no guard for CUDA devices, which even indexing a fake tensor asks for; one that does
nothing is compiled here, once. Where torch was built with CUDA, it has a guard.
"""

import ctypes
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from llada.backbones.attention import offered

GUARD = """
#include <c10/core/impl/DeviceGuardImplInterface.h>
namespace {
struct Guard final : c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> {
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
};
C10_REGISTER_GUARD_IMPL(CUDA, Guard)
}
"""
CUDA = "cuda:0"


@cache
def _guarded() -> bool:
    """Whether CUDA has a device guard, which is made if need be and if there is a compiler."""
    if torch.version.cuda is not None:
        return True
    if shutil.which("g++") is None:
        return False
    root, folder = Path(torch.__file__).parent, Path(mkdtemp())
    (folder / "guard.cpp").write_text(GUARD)
    command = ["g++", "-std=c++20", "-O0", "-shared", "-fPIC", f"-I{root}/include", "guard.cpp", "-o", "guard.so"]
    subprocess.run([*command, f"-L{root}/lib", "-lc10", f"-Wl,-rpath,{root}/lib"], cwd=folder, check=True)
    ctypes.CDLL(str(folder / "guard.so"))
    return True


@contextmanager
def fake_cuda(capability: tuple[int, int] = (9, 0)) -> Iterator[FakeTensorMode]:
    """Within it, tensors may be made on `CUDA`, which has a compute capability.

    Args:
        capability: (9, 0) is a Hopper.
    """
    if not _guarded():
        pytest.skip("needs g++, or a torch that was built with CUDA")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "_lazy_init", lambda: None)
        patch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        offered.forget()
        try:
            with FakeTensorMode(allow_non_fake_inputs=True) as mode:
                yield mode
        finally:
            offered.forget()


def moved(module: nn.Module, dtype: torch.dtype = torch.bfloat16) -> None:
    """Make the parameters of a module fake tensors on `CUDA`; within `fake_cuda`.

    Args:
        module: changed in place.
        dtype: of its parameters.
    """
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            fake = torch.empty(parameter.shape, dtype=dtype, device=CUDA)
            setattr(part, name, nn.Parameter(fake, parameter.requires_grad))


def whole_numbers(*shape: int) -> Tensor:
    """An int64 tensor on `CUDA`."""
    return torch.empty(shape, dtype=torch.int64, device=CUDA)
