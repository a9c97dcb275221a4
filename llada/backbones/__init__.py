"""Networks that map tokens to logits in two halves, `hidden` and `head`."""

from llada.backbones.attention.kernels import KERNELS, Visibility, kernel_for
from llada.backbones.body import Body
from llada.backbones.cache import KeyValueCache
from llada.backbones.checkpointing import Checkpointing, EveryBlock, Selective
from llada.backbones.dit import DiffusionTransformer
from llada.backbones.graphs import GraphedBackbone
from llada.backbones.layer import Context, Layer
from llada.backbones.router import GroupedRouter, Router, SoftmaxRouter
from llada.backbones.transformer import BidirectionalTransformer

__all__ = [
    "KERNELS",
    "BidirectionalTransformer",
    "Body",
    "Checkpointing",
    "Context",
    "DiffusionTransformer",
    "EveryBlock",
    "GraphedBackbone",
    "GroupedRouter",
    "KeyValueCache",
    "Layer",
    "Router",
    "Selective",
    "SoftmaxRouter",
    "Visibility",
    "kernel_for",
]
