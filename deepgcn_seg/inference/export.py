"""Trained networks as ONNX models or PyTorch programs, of standard operators alone.

:func:`standard_program` traces a network with any number of blocks and points, and replaces the operations of this
package: neighbour search becomes a matrix of squared distances, a TopK and a selection of the dilated ranks, and the
maximum over neighbours a gather and a maximum. So whoever runs the file needs neither this package nor PyTorch. The
price is memory: N x N distances and N x k x C edges for each block of N points.
"""

import io
import json
import logging
import re
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ..data.classes import ClassList
from ..errors import UserError, first_line
from ..files import replacing
from ..model import DeepGCN
from ..model.description import TrainedOn
from ..model.evaluating import evaluating
from ..model.own_layers import is_exactly
from ..ops import edge_moments
from ..torch_defaults import torch_defaults

# Runs an exported file: points (B, N, channels) -> logits (B, N, classes), both float32.
Runner = Callable[[np.ndarray], np.ndarray]

# Blocks of the example that is traced. More than one, because torch.export would take a size of 1 for a constant.
TRACED_BLOCKS = 2
# The opset with the operators that are used; onnxruntime has had it since version 1.14.
OPSET = 18


@torch_defaults()
def standard_program(model: DeepGCN) -> ExportedProgram:
    """Return a network in evaluation as a program of PyTorch's own operators, for any number of blocks and points.

    Args:
        model: in float32 on the CPU.

    Raises:
        UserError: a part of the network cannot be traced; names the part.
    """
    model = with_constant_slopes(model)
    fewest = model.min_points
    shapes = ({0: Dim("blocks", min=1), 1: Dim("points", min=max(fewest, 2))},)
    example = torch.rand(TRACED_BLOCKS, fewest + 2, model.in_channels)
    try:
        with torch.no_grad(), quiet():
            program = torch.export.export(model, (example,), dynamic_shapes=shapes)
    # Tracing can raise anything, of PyTorch's or of a part's own.
    except Exception as error:
        raise UserError(f"the network cannot be exported: {_failed_part(model, error)}{first_line(error)}") from None
    with quiet():
        _fix_ranks(program)
        program = program.run_decompositions(_STANDARD)
    own = {str(node.target) for node in program.graph.nodes if str(node.target).startswith("deepgcn_seg.")}
    if own:
        raise UserError(f"the network cannot be exported: no standard operators for {', '.join(sorted(own))}")
    return program


def write_onnx(model: DeepGCN, path: Path, metadata: dict[str, str]) -> None:
    """Write a network as an ONNX model: ``points`` (blocks, points, channels) -> ``logits`` (blocks, points, classes).

    Args:
        metadata: entries of the model's metadata.

    Raises:
        UserError: the network cannot be exported, or the packages that write ONNX are missing.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"to write ONNX, {error.name} is needed: pip install 'deepgcn_seg[export]'") from None
    program = standard_program(model)
    with quiet():
        written = torch.onnx.export(
            program,
            (),
            input_names=["points"],
            output_names=["logits"],
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert written is not None
    proto = written.model_proto
    _name_axes(proto)
    for key, value in metadata.items():
        proto.metadata_props.append(onnx.StringStringEntryProto(key=key, value=value))
    onnx.checker.check_model(proto)
    with replacing(path) as temporary:
        onnx.save(proto, str(temporary))


def write_program(model: DeepGCN, path: Path, metadata: dict[str, str]) -> None:
    """Write a network as a PyTorch program, for ``torch.export.load``.

    Args:
        metadata: further files in the archive, by name.

    Raises:
        UserError: the network cannot be exported.
    """
    # A buffer: PyTorch wants names that end in .pt2, which temporary ones do not.
    buffer = io.BytesIO()
    torch.export.save(standard_program(model), buffer, extra_files=dict(metadata))
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def describe_for_export(model: DeepGCN, classes: ClassList, trained: TrainedOn) -> dict[str, str]:
    """Return what a user of an exported network must know, each value as JSON.

    Returns:
        classes: their names, in the order of the logits. channels: features of a point, and variant: how they are
        scaled (:func:`deepgcn_seg.data.blocks.block_features`). side: of a block, metres. points: of a block in
        training. min_points: the fewest that a block may have.
    """
    facts = {
        "classes": list(classes.names),
        "channels": list(trained.features),
        "variant": trained.variant,
        "side": trained.side,
        "points": trained.points,
        "min_points": model.min_points,
    }
    return {key: json.dumps(value) for key, value in facts.items()}


@torch_defaults()
def load_exported(path: Path) -> Runner:
    """Return what runs an exported file.

    Raises:
        UserError: onnxruntime is missing.
    """
    if path.suffix.lower() == ".pt2":
        program = torch.export.load(path).module()
        return lambda points: program(torch.from_numpy(points)).detach().numpy()
    try:
        import onnxruntime
    except ImportError:
        raise UserError("to check the file, onnxruntime is needed: pip install 'deepgcn_seg[export]'") from None
    options = onnxruntime.SessionOptions()
    # Warnings about shapes that the optimizer could not fold.
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda points: session.run(["logits"], {"points": points})[0]


@dataclass(frozen=True)
class Difference:
    """How far an exported file is from its network on some random blocks.

    Attributes:
        blocks, points: number of blocks, and of points in each.
        logits: the largest difference of two logits, as a share of the largest logit.
        labels: the share of points that get another label.
    """

    blocks: int
    points: int
    logits: float
    labels: float


@torch_defaults()
def differences(model: DeepGCN, run: Runner, sizes: Sequence[tuple[int, int]]) -> list[Difference]:
    """Return how far an exported file is from the network, for random blocks of several sizes.

    They can differ by more than rounding at a few points: where two candidates are equally distant but for rounding,
    the file may choose the other one as the neighbour.

    Args:
        sizes: blocks and points of each.
    """
    found = []
    for blocks, points in sizes:
        generator = torch.Generator().manual_seed(0)
        given = torch.rand(blocks, points, model.in_channels, generator=generator)
        with evaluating(model):
            expected = model(given).numpy()
        actual = run(given.numpy())
        apart = float(np.abs(expected - actual).max() / np.abs(expected).max())
        changed = float((expected.argmax(-1) != actual.argmax(-1)).mean())
        found.append(Difference(blocks, points, apart, changed))
    return found


# -- standard operators ---------------------------------------------------------------------------


@torch.library.custom_op("deepgcn_seg::search_at", mutates_args=())
def _search_at(points: Tensor, ranks: list[int], loop: bool) -> Tensor:
    """Do what ``nearest_ranks`` does, with ranks that a trace knows as numbers."""
    return _search_by_topk(points, ranks, loop)


@_search_at.register_fake
def _(points, ranks, loop):
    return points.new_empty(*points.shape[:2], len(ranks), dtype=torch.int64)


def _search_by_topk(points: Tensor, ranks: list[int], loop: bool) -> Tensor:
    """Return the neighbours (B, N, k) of points (B, N, C) at some ranks of squared distance."""
    centred = points - points.mean(1, keepdim=True)
    norms = centred.square().sum(-1)
    # |x - y|^2 less |x|^2, which all candidates y of a query x share.
    distances = norms[:, None, :] - 2 * torch.matmul(centred, centred.transpose(1, 2))
    if not loop:
        number = torch.arange(points.shape[1])
        distances = torch.where(number[:, None] == number[None], torch.inf, distances)
    nearest = torch.topk(distances, max(ranks) + 1, -1, largest=False, sorted=True).indices
    # Each rank is a slice: an index tensor made here would not be a constant of the program.
    return torch.stack([nearest[..., rank] for rank in ranks], -1)


def _neighbor_extremum(x: Tensor, index: Tensor, mask: None, sign: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest value (B, N, C) among each point's neighbours; the smallest where ``sign`` is -1.

    The second result, the place of that neighbour, serves gradients alone.
    """
    blocks, count, channels = x.shape
    first = torch.arange(blocks)[:, None, None] * count
    gathered = (x * sign).reshape(blocks * count, channels)[index + first]
    extreme = gathered.amax(2) * sign
    return extreme, torch.zeros_like(extreme, dtype=torch.int16)


def _copysign(magnitude: Tensor, sign: Tensor) -> Tensor:
    """Return the magnitude with the sign of another tensor; ONNX has no operator for the sign of -0."""
    return torch.where(sign < 0, -magnitude.abs(), magnitude.abs())


_STANDARD = {
    **torch.export.default_decompositions(),
    torch.ops.deepgcn_seg.search_at.default: _search_by_topk,
    torch.ops.deepgcn_seg.neighbor_extremum.default: _neighbor_extremum,
    torch.ops.deepgcn_seg.edge_moments.default: edge_moments,
    torch.ops.aten.copysign.Tensor: _copysign,
}


def _fix_ranks(program: ExportedProgram) -> None:
    """Give each neighbour search of a program its ranks as numbers, which TopK needs, in place of a tensor."""
    # torch.export makes a separate graph of each part that runs with autocast switched off.
    graphs = [part.graph for part in program.graph_module.modules() if isinstance(part, torch.fx.GraphModule)]
    for graph in graphs:
        for node in list(graph.nodes):
            if node.target is torch.ops.deepgcn_seg.nearest_ranks.default:
                points, ranks, _, loop = node.args
                with graph.inserting_before(node):
                    arguments = (points, _value(ranks).tolist(), loop)
                    fixed = graph.call_function(torch.ops.deepgcn_seg.search_at.default, arguments)
                fixed.meta = node.meta
                node.replace_all_uses_with(fixed)
                graph.erase_node(node)
        graph.eliminate_dead_code()


def _value(argument: Any) -> Any:
    """Return the value of a node of the graph, computed from the constants that it depends on."""
    if not isinstance(argument, torch.fx.Node):
        return argument
    function: Any = argument.target
    return function(*map(_value, argument.args), **{k: _value(v) for k, v in argument.kwargs.items()})


def _failed_part(model: nn.Module, error: Exception) -> str:
    """Return the name and class of the innermost part whose ``forward`` raised an error; empty if no part did."""
    names = {id(part): f"{name}, {type(part).__name__}: " for name, part in model.named_modules() if name}
    calls = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return next((names[id(part)] for part in reversed(calls) if id(part) in names), "")


def with_constant_slopes(model: DeepGCN) -> DeepGCN:
    """Return a copy of a network, in evaluation, whose PReLUs have their slopes as numbers.

    A trace follows one branch, and which one EdgeConv takes depends on the sign of the slope.
    """
    model = deepcopy(model).eval()
    for parent in list(model.modules()):
        act: Any
        for name, act in list(parent.named_children()):
            if is_exactly(act, nn.PReLU) and act.weight.numel() == 1:
                setattr(parent, name, nn.LeakyReLU(act.weight.item()))
    return model


def _name_axes(proto: Any) -> None:
    """Name the free axes of an ONNX model ``blocks`` and ``points``, where PyTorch has names such as s6."""
    dims = proto.graph.input[0].type.tensor_type.shape.dim
    names = {dims[0].dim_param: "blocks", dims[1].dim_param: "points"}
    graph = proto.graph
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            # Other axes may be expressions of the two.
            if dim.dim_param:
                dim.dim_param = re.sub(r"\w+", lambda word: names.get(word[0], word[0]), dim.dim_param)


@contextmanager
def quiet() -> Iterator[None]:
    """Hide what libraries log, warn and print inside the context: an error is raised, and told by the caller."""
    before, printed = logging.root.manager.disable, io.StringIO()
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(printed), redirect_stderr(printed):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
