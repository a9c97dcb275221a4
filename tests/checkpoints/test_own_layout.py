"""A family of checkpoints of one's own takes one class, and goes through the same doors as the library's."""

from pathlib import Path

import pytest
import torch
from torch import nn

from llada.backbones import BidirectionalTransformer
from llada.checkpoints.released import LAYOUTS, Layout, read_pretrained
from llada.checkpoints.released.fields import Config, mask_id, whole
from llada.checkpoints.released.layout import Described
from llada.module import DiffusionLM
from llada.process import MaskingProcess

VOCAB, MASK = 13, 12


class Tiny(Layout):
    name = "tiny"

    def matches(self, config: Config) -> bool:
        return config.get("model_type") == "tiny"

    def read(self, config: Config, mask_token_id: int | None) -> Described:
        sizes = {name: whole(config, name) for name in ("vocab_size", "width", "num_layers", "num_heads")}
        return Described(BidirectionalTransformer, sizes, MaskingProcess(mask_id(config, mask_token_id)))

    def write(self, backbone: nn.Module, process: MaskingProcess) -> Config:
        sizes = {name: getattr(backbone, name) for name in ("vocab_size", "width", "num_layers", "num_heads")}
        return {"model_type": "tiny", "mask_token_id": process.mask_token_id, **sizes}

    def ours(self, name: str) -> str:
        return name.removeprefix("net.")

    def theirs(self, name: str) -> str:
        return f"net.{name}"


def model(**options: object) -> DiffusionLM:
    torch.manual_seed(0)
    backbone = BidirectionalTransformer(VOCAB, **{"width": 16, "num_layers": 1, "num_heads": 2, **options})
    return DiffusionLM(backbone, MaskingProcess(MASK)).eval()


def test_there_and_back(tmp_path: Path) -> None:
    made = model()
    made.save_pretrained(tmp_path / "a", layout=Tiny())
    again = DiffusionLM.from_pretrained(tmp_path / "a", layouts=[Tiny(), *LAYOUTS])
    ids = torch.arange(VOCAB)[None]
    assert torch.equal(again(ids), made(ids))
    assert again.process == made.process
    again.save_pretrained(tmp_path / "b", layout=Tiny())
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_the_librarys_layouts_are_found_beside_it(tmp_path: Path) -> None:
    model().save_pretrained(tmp_path / "llada", layout="llada")
    assert read_pretrained(tmp_path / "llada", layouts=[Tiny(), *LAYOUTS]).config["model_type"] == "llada"


def test_an_unknown_family_is_told_how_to_be_known(tmp_path: Path) -> None:
    model().save_pretrained(tmp_path / "a", layout=Tiny())
    with pytest.raises(ValueError, match=r"='tiny', which isn't one of .*layouts=\[MyLayout\(\), \*LAYOUTS\]"):
        DiffusionLM.from_pretrained(tmp_path / "a")
    again = DiffusionLM.from_pretrained(tmp_path / "a", layouts=[Tiny()])
    with pytest.raises(ValueError, match=r"layout=MyLayout\(\)"):
        again.save_pretrained(tmp_path / "b")


@pytest.mark.parametrize("option", [{"qk_norm": True}, {"head_dim": 12}, {"rope_theta": 1e6}, {"max_length": 99}])
def test_what_it_has_no_field_for_is_refused_without_being_listed(option: dict[str, object], tmp_path: Path) -> None:
    (name,) = option
    with pytest.raises(ValueError, match=f"the tiny layout can't say {name}="):
        model(**option).save_pretrained(tmp_path / "a", layout=Tiny())
    assert not (tmp_path / "a").exists()


def test_how_it_is_computed_needs_no_field(tmp_path: Path) -> None:
    model(attention="plain", activation_checkpointing=True).save_pretrained(tmp_path / "a", layout=Tiny())
    assert (tmp_path / "a" / "config.json").exists()
