"""CUDA tensors without CUDA: fake tensors, which have shapes, dtypes and a device, but no numbers.

Even indexing a fake tensor asks for a guard of its device. A torch that was built for CPUs has none, and that of other
builds fails where no GPU is; so one that does nothing is compiled here, once.
"""

import ctypes
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import mkdtemp
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from llada.backbones.attention import offered

GUARD = """
#include <c10/core/impl/DeviceGuardImplInterface.h>
namespace {
constexpr auto CUDA = c10::DeviceType::CUDA;
struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return CUDA; }
  c10::Device exchangeDevice(c10::Device) const override { return getDevice(); }
  c10::Device getDevice() const override { return {CUDA, 0}; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device device) const noexcept override {
    return c10::Stream(c10::Stream::DEFAULT, device);
  }
  c10::Stream getDefaultStream(c10::Device device) const override { return getStream(device); }
  c10::Stream exchangeStream(c10::Stream stream) const noexcept override { return stream; }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
};
C10_REGISTER_GUARD_IMPL(CUDA, Guard)
}
"""
CUDA = "cuda:0"
STAND_IN = ModuleType(offered.VARLEN)  # one for all tests: compiled graphs remember which module they saw


@cache
def _guarded() -> bool:
    """Whether CUDA has a device guard that works, which is made if need be and if there is a compiler."""
    if torch.cuda.is_available():
        return True
    if shutil.which("g++") is None:
        return False
    root, folder = Path(torch.__file__).parent, Path(mkdtemp())
    (folder / "guard.cpp").write_text(GUARD)
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    command = ["g++", "-std=c++20", abi, "-O0", "-shared", "-fPIC", f"-I{root}/include", "guard.cpp", "-o", "guard.so"]
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
        pytest.skip("needs g++, or a GPU")
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


def offer_varlen(patch: pytest.MonkeyPatch, function: Callable[..., Tensor]) -> None:
    """Let a function be `torch.nn.attention.varlen.varlen_attn`, also where torch is older than that module.

    Args:
        patch: of the test.
        function: what is called instead.
    """
    try:
        module = import_module(offered.VARLEN)
    except ImportError:
        module = STAND_IN
        patch.setitem(sys.modules, offered.VARLEN, module)
    patch.setattr(module, "varlen_attn", function, raising=False)


def whole_numbers(*shape: int) -> Tensor:
    """An int64 tensor on `CUDA`."""
    return torch.empty(shape, dtype=torch.int64, device=CUDA)
