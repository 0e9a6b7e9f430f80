"""Connections between graph convolutions: plain, res, dense, res+ and rev.

A connection is an object that says how a layer's input x and its convolution's output h make the layer's output, how
wide that is, and what of it the fusion block sees. :data:`CONNECTIONS` has those of this package by name. One of your
own is a subclass of :class:`Connection`, given as ``DeepGCN(connection=MyConnection)``, or as an object of it.
"""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from .append_in_place import preallocate
from .neighborhood import Neighborhood
from .own_layers import built_by, is_unchanged
from .reversible import ReversibleBlock, ReversibleSequence

Combine = Callable[[Tensor, Tensor], Tensor]
MakeBlock = Callable[[int, int], nn.Module]
# ``around(i, x)`` returns the neighbours of the points of block i, which begins with 0, in its input x (B, N, C).
Around = Callable[[int, Tensor], Neighborhood]


class Connection:
    """How the layers of a backbone are connected.

    Attributes:
        name: the connection's name in printed models and in messages.
        network: the name of networks with it in the papers, to which tables add the depth: ResGCN-28.
        pre_activated: whether norm and activation stand in front of each block's convolution, and once more after the
            last.
        nested: whether the first channels of a layer's output are the output of the layer before, until norm and
            activation follow the last (:attr:`last_has_all`).
        keeps_layers: whether the fusion block sees the output of every layer, or of the last one alone. An own
            :meth:`run` must yield accordingly.
        official: further arguments of :class:`~deepgcn_seg.model.DeepGCN` that the official codes set with it.
    """

    name = "own"
    network = "DeepGCN"
    pre_activated = False
    nested = False
    keeps_layers = True
    official: Mapping[str, Any] = MappingProxyType({})

    @classmethod
    def build(cls, groups: int) -> Self:
        """Return the connection of a name in :data:`CONNECTIONS`; ``groups`` is used by those of channel groups."""
        return cls()

    def combine(self, x: Tensor, h: Tensor) -> Tensor:
        """Return a layer's output from its input x (B, N, C) and the features h (B, N, channels) computed from it."""
        raise NotImplementedError

    def width(self, layer: int, channels: int) -> int:
        """Return the number of channels that a layer puts out, layer 0 being the head graph convolution."""
        return channels

    def check(self, channels: int) -> None:
        """Raise a ValueError if layers with this number of channels cannot be connected."""

    def start(self, x: Tensor, channels: int) -> tuple[Tensor, Combine]:
        """Return the head's features and the function that combines x and h, both for one forward pass.

        The function must return what :meth:`combine` does, as fast as it can. It is used if layers keep what it
        returned: if every block is :attr:`~.gcn_block.Block.unchanged`.

        Args:
            x: the head's features. channels: number of channels of the last layer's output.
        """
        return x, self.combine

    def run(
        self, blocks: nn.ModuleList, x: Tensor, around: Around, channels: int, dropout: float = 0.0
    ) -> Iterator[Tensor]:
        """Run the blocks, and yield the layers' outputs that the fusion block sees, each as soon as it is computed.

        The last output has not had the norm and activation that follow pre-activated layers; the backbone adds them.

        Args:
            blocks: what :meth:`blocks` returned. x: the head's features (B, N, C).
            channels: number of channels of the last layer's output. dropout: probability in this pass, 0 in evaluation,
                for blocks that share one mask (:class:`Reversible`); others draw their own.
        """
        combine: Combine = self.combine
        # With dropout, a layer also drops features of its input. Its output then does not begin with its input, so it
        # cannot be appended in place. Nor can it if a hook or a block of a user's own may change the output.
        if all_unchanged(blocks):
            x, combine = self.start(x, channels)
        for i, block in enumerate(blocks):
            if self.keeps_layers:
                yield x
            x = block(x, around(i, x), combine)
        yield x

    def blocks(self, make: MakeBlock, depth: int, channels: int) -> nn.ModuleList:
        """Return the blocks after the head.

        Args:
            make: ``make(width, out)`` returns a block whose x has ``width`` channels and whose h has ``out``.
        """
        return nn.ModuleList(make(self.width(i, channels), channels) for i in range(depth - 1))

    def convolutions(self, depth: int) -> int:
        """Return the number of graph convolutions of a backbone."""
        return depth

    def fused_widths(self, depth: int, channels: int) -> list[int]:
        """Return the channels of each layer's output that the fusion block sees."""
        layers = range(depth) if self.keeps_layers else [depth - 1]
        return [self.width(i, channels) for i in layers]

    @property
    def last_has_all(self) -> bool:
        """Whether the output of the last layer begins with those of all others, so that it alone is fused.

        After the norm and activation that follow pre-activated layers, it does not.
        """
        return self.nested and not self.pre_activated

    def concatenated_width(self, depth: int, channels: int) -> int:
        """Return the number of channels that the fusion block sees, counting once those that nested outputs repeat."""
        widths = self.fused_widths(depth, channels)
        return widths[-1] if self.last_has_all else sum(widths)


class Plain(Connection):
    """h: no connection (PlainGCN).

    The official networks without connections have no dilation either: the PyTorch code forces that, and the log of the
    TensorFlow code's released PlainGCN-28 says so (``edge_lay='knn'``, ``stochastic_dilation=False``; the code's option
    ``--skip_connect none`` alone would keep dilation).
    """

    name = "plain"
    network = "PlainGCN"
    official = MappingProxyType({"dilation": "none", "stochastic": False})

    def combine(self, x: Tensor, h: Tensor) -> Tensor:
        """Return h."""
        return h


class Residual(Connection):
    """x + h: residual graph connections (ResGCN; DeepGCNs, "Residual Learning for GCNs")."""

    name = "res"
    network = "ResGCN"

    def combine(self, x: Tensor, h: Tensor) -> Tensor:
        """Return the sum."""
        return x + h


class Dense(Connection):
    """[x ; h]: dense graph connections (DenseGCN; DeepGCNs, "Dense Connections in GCNs").

    ``channels`` is the growth rate.
    """

    name = "dense"
    network = "DenseGCN"
    nested = True

    def combine(self, x: Tensor, h: Tensor) -> Tensor:
        """Return the concatenation."""
        return torch.cat([x, h], -1)

    def width(self, layer: int, channels: int) -> int:
        """Return a width that grows by ``channels`` in each layer."""
        return channels * (layer + 1)

    def start(self, x: Tensor, channels: int) -> tuple[Tensor, Combine]:
        """Copy x into a tensor that has room for all layers, so that each layer is appended without a copy."""
        # torch.compile does not see the writes to that tensor, because they bypass autograd.
        return super().start(x, channels) if torch.compiler.is_compiling() else preallocate(x, channels)


class PreActivatedResidual(Residual):
    """x + h, where norm and activation come before the convolution (ResGCN+, DeeperGCN's pre-activation)."""

    name = "res+"
    network = "ResGCN+"
    pre_activated = True


class Reversible(PreActivatedResidual):
    """x + h between groups of channels, which can be undone (RevGCN; RevGNN, section 3.1).

    Only the last layer is fused: keeping the others would undo what reversibility saves.

    Args:
        groups: number of groups, which must divide the channels.
    """

    name = "rev"
    network = "RevGCN"
    keeps_layers = False

    def __init__(self, groups: int = 2):
        self.groups = groups

    @classmethod
    def build(cls, groups: int) -> Self:
        """Return the connection with this number of groups."""
        return cls(groups)

    def check(self, channels: int) -> None:
        """Require channels that the groups can share equally."""
        if self.groups < 2 or channels % self.groups:
            raise ValueError(f"groups={self.groups} must divide the channels of {self.name}, {channels}")

    def blocks(self, make: MakeBlock, depth: int, channels: int) -> nn.ModuleList:
        """Return reversible blocks, whose branches take one group each."""
        width = channels // self.groups
        branches = lambda: [make(width, width) for _ in range(self.groups)]
        return ReversibleSequence(ReversibleBlock(branches()) for _ in range(depth - 1))

    def run(
        self, blocks: nn.ModuleList, x: Tensor, around: Around, channels: int, dropout: float = 0.0
    ) -> Iterator[Tensor]:
        """Run all blocks as one operation, whose backward pass undoes them, and yield the last output."""
        yield blocks(x, around, dropout)

    def convolutions(self, depth: int) -> int:
        """Return 1 for the head and one for each group of each block."""
        return 1 + (depth - 1) * self.groups


def all_unchanged(blocks: nn.ModuleList) -> bool:
    """Return whether all blocks put out what their connection combines (:attr:`~.gcn_block.Block.unchanged`)."""
    return all(map(is_unchanged, blocks))


# Those of DeepGCNs (section 3), which the official code has.
PAPER_CONNECTIONS = (Plain.name, Residual.name, Dense.name)
CONNECTIONS: dict[str, type[Connection]] = {
    kind.name: kind for kind in (Plain, Residual, Dense, PreActivatedResidual, Reversible)
}
# The connection of each ``backbone=...``, which is called as its networks are: ``resgcnplus`` for ResGCN+.
BACKBONES = {kind.network.lower().replace("+", "plus"): kind for kind in CONNECTIONS.values()}


def find_connection(connection: str | Connection | Callable[[], Connection], groups: int = 2) -> Connection:
    """Return the connection of a name or of what builds one; return a :class:`Connection` object unchanged.

    Args:
        connection: a name in :data:`CONNECTIONS`, an object, a subclass of Connection, or a partial of one.
        groups: number of channel groups of a reversible connection.

    Raises:
        ValueError: there is no connection of that name, or it is of another class.
    """
    if isinstance(connection, Connection):
        return connection
    if isinstance(connection, str) and connection in CONNECTIONS:
        connection = CONNECTIONS[connection]
    kind = built_by(connection)
    if not isinstance(kind, type) or not issubclass(kind, Connection):
        raise ValueError(
            f"unknown connection {connection!r}: choose one of {', '.join(CONNECTIONS)}, or give a subclass of "
            "Connection"
        )
    if kind is connection:
        return kind.build(groups)
    return cast(Callable[[], Connection], connection)()
