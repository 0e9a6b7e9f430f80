"""The network: graph, convolutions, blocks, backbone, fusion block, prediction head."""

from .block import CONNECTIONS, Block
from .checkpoint import load_model
from .convolution import GIN, EdgeConv, GENConv, GraphSAGE, MessagePassing, MRConv, edge_index
from .deepgcn import DeepGCN
from .graph import DilatedKnnGraph, dilation_schedule
from .layers import ACTS, NORMS, ORDERS, LayerSpec, Pointwise
from .official import load_official

__all__ = [
    "ACTS",
    "CONNECTIONS",
    "GIN",
    "NORMS",
    "ORDERS",
    "Block",
    "DeepGCN",
    "DilatedKnnGraph",
    "EdgeConv",
    "GENConv",
    "GraphSAGE",
    "LayerSpec",
    "MRConv",
    "MessagePassing",
    "Pointwise",
    "dilation_schedule",
    "edge_index",
    "load_model",
    "load_official",
]
