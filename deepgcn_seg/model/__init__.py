"""The network: graph, convolutions, connections, blocks, backbone, fusion block, prediction head."""

from .connection import CONNECTIONS, Connection
from .convolution import GIN, EdgeConv, GENConv, GraphSAGE, MRConv
from .deepgcn import DeepGCN
from .ensemble import Ensemble
from .gcn_block import Block
from .graph import GRAPHS, DilatedKnnGraph, DynamicGraph, FixedGraph, Graph, dilation_schedule
from .layers import ACTS, NORMS, ORDERS, LayerSpec, Pointwise
from .message_passing import MessagePassing, edge_index
from .neighborhood import Geometry, Neighborhood
from .official import load_official
from .trained import load_model

__all__ = [
    "ACTS",
    "CONNECTIONS",
    "GIN",
    "GRAPHS",
    "NORMS",
    "ORDERS",
    "Block",
    "Connection",
    "DeepGCN",
    "DilatedKnnGraph",
    "DynamicGraph",
    "EdgeConv",
    "Ensemble",
    "FixedGraph",
    "GENConv",
    "Geometry",
    "Graph",
    "GraphSAGE",
    "LayerSpec",
    "MRConv",
    "MessagePassing",
    "Neighborhood",
    "Pointwise",
    "dilation_schedule",
    "edge_index",
    "load_model",
    "load_official",
]
