"""The card of a trained network: what it tells apart, what it was trained on, how good it is, and what it is not for.

A run directory has it as ``MODEL_CARD.md``. The same facts are in the checkpoint, under ``card``, so that a file that
was copied elsewhere still has them (``python -m deepgcn_seg info FILE``). They are data: a file from somebody else is
validated by :class:`Card` before it is shown, and decides nothing.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from pydantic import Field, StringConstraints

from ..escaping import markdown, one_line
from ..files import replacing
from ..model.checkpoint import describe
from ..model.connection import CONNECTIONS
from ..model.description import Description, Network, OwnPart, TrainedOn
from ..model.from_description import module_to_trust, own_class
from ..provenance import as_called
from ..schema import Schema
from ..settings import counted, integer, number, shown

NAME = "MODEL_CARD.md"
# A class with a lower IoU is named among the limits: for each of its points that is right, two are wrong.
LOW_IOU = 0.33

Text = Annotated[str, StringConstraints(max_length=500)]
# As long as a room store allows.
Source = Annotated[str, StringConstraints(max_length=10_000)]
Texts = Annotated[tuple[Text, ...], Field(max_length=1000)]
Number = Annotated[int, integer(0, 2**62)]
Part = Annotated[float, number(0, 1)]


class Training(Schema):
    """How a network was trained.

    Attributes:
        recipe: its name. optimizer, loss, class_weights, augmentation: as the config has them. epochs: passes over all
            blocks. weights: where the first weights came from; None for random ones.
        data: where the rooms came from, as their store says; None in cards from before it was kept.
        commit: of the code, None if it was no checkout of Git. dirty: whether its files differed from the commit.
        rooms: number of rooms to train on. changes: settings that were changed on the way, a text for each time.
    """

    recipe: Text
    optimizer: Text
    learning_rate: float | None
    loss: Text
    class_weights: Text
    augmentation: Texts = ()
    ema: float | None = None
    epochs: Number
    batch_size: Number
    seed: Number
    rooms: Number
    weights: Text | None = None
    data: Source | None = None
    commit: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{7,64}$")] | None = None
    dirty: bool = False
    changes: Texts = ()


class Score(Schema):
    """How good a network is on the rooms that were held out; fields as in ``metrics.json``.

    Attributes:
        data: where the rooms came from; None in cards from before it was kept.
        selection: how the checkpoint was chosen. IoU: of each class, None for one that no point belongs to.
    """

    protocol: Text
    dataset: Text
    data: Source | None = None
    areas: Texts
    rooms: Number
    points: Number
    selection: Text
    step: Number
    mIoU: Part | None
    mIoU_interval: tuple[Part, Part] | None = None
    mAcc: Part | None
    OA: Part | None
    IoU: dict[Text, Part | None] = Field(max_length=100_000)


class Card(Schema):
    """The facts of a card that the rest of a checkpoint does not have.

    Attributes:
        selection: how the checkpoint was chosen; None in cards from before it was kept.
        score: None unless the network was scored at the end of its training.
    """

    training: Training
    selection: Text | None = None
    score: Score | None = None


def how_selected(rooms: str | None) -> str:
    """Return how a checkpoint was chosen: by its score on the ``validation`` or ``test`` rooms, or as the last one."""
    return "last" if rooms is None else f"best on {rooms} rooms"


def score_of(entry: Mapping[str, Any]) -> Score:
    """Return the score of a card from the entry of a protocol in ``metrics.json``."""
    same = ("protocol", "dataset", "data", "points", "selection", "mIoU", "mIoU_interval", "mAcc", "OA", "IoU")
    return Score.of(
        {
            **{name: entry[name] for name in same},
            "areas": [str(area) for area in entry["areas"]],
            "rooms": len(entry["rooms"]),
            "step": entry["checkpoint_step"],
        },
        "score",
    )


def write_card(folder: Path, content: Mapping[str, Any]) -> None:
    """Write the card of a checkpoint into a run directory.

    Args:
        content: of the checkpoint, as :func:`~deepgcn_seg.model.checkpoint.read_checkpoint` returns it.
    """
    with replacing(folder / NAME) as temporary:
        temporary.write_text(card_text(content, "checkpoint"), "utf-8")


def selection_of(card: Any, path: str | Path) -> str | None:
    """Return how a checkpoint was chosen, such as ``last`` or ``best on test rooms``; None if its card does not say.

    Args:
        card: as the checkpoint has it, or None. path: its file, for messages.

    Raises:
        UserError: a field of the card is of another type or out of range.
    """
    read = _read(card, path)
    return None if read is None else _selection(read)


def _selection(card: Card) -> str | None:
    return card.selection if card.score is None else card.score.selection


def _read(card: Any, path: str | Path) -> Card | None:
    return None if card is None else Card.of(card, f"checkpoint {path}: card")


def card_text(content: Mapping[str, Any], path: str | Path) -> str:
    """Return the card of a checkpoint as Markdown.

    Args:
        content: of the checkpoint. path: its file, for messages.

    Raises:
        UserError: a field is of another type or out of range.
    """
    description = describe(content, path)
    network, trained, classes = description.network, description.trained_on, description.classes
    card = _read(content.get("card"), path)
    training, score = (None, None) if card is None else (card.training, card.score)
    tensors: Any = content["model"]
    parameters = sum(tensor.numel() for name, tensor in tensors.items() if not _is_statistic(name))
    iou = {} if score is None else {name: score.IoU.get(name) for name in classes}
    trusted = _trusted(description)
    given, argument = (f" trusted=[{','.join(trusted)}]", f", trusted={trusted!r}") if trusted else ("", "")
    command = as_called(f"python tools/predict.py checkpoint=FILE input=scan.ply output=labelled.ply{given}")
    return _template().render(
        title=_title(network, trained, training),
        network=network,
        neighbors=_neighbors(network) if isinstance(network, Network) else None,
        parameters=f"{parameters:,}",
        classes=classes,
        trained=trained,
        training=training,
        step=content.get("step"),
        selection=None if card is None else _selection(card),
        score=score,
        absent=[name for name, value in iou.items() if value is None],
        low=[name for name, value in iou.items() if value is not None and value < LOW_IOU],
        command=_Verbatim(command),
        code=_Verbatim(f'deepgcn_seg.load_model("FILE"{argument})'),
    )


class _Verbatim(str):
    """Text that is not escaped for Markdown."""


def _template() -> Template:
    """Return the template of a card. Whatever it shows of a checkpoint is escaped, so that no text there is markup."""
    environment = Environment(
        loader=PackageLoader(__package__, "."),
        undefined=StrictUndefined,
        finalize=lambda value: value if isinstance(value, _Verbatim) else markdown(value),
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"percent": _percent, "part": _part}
    environment.globals |= {"named": _named, "counted": counted}
    return environment.get_template("model_card.md")


def _is_statistic(name: str) -> bool:
    return str(name).endswith((".running_mean", ".running_var", ".num_batches_tracked"))


def _title(network: Network | OwnPart, trained: TrainedOn | None, training: Training | None) -> str:
    if not isinstance(network, Network):
        return network.target
    name = f"{CONNECTIONS[network.connection].network}-{network.depth}"
    if trained is None:
        return name
    # The name of a data set is enough for the title; one's own scans have none.
    data = training.data if training is not None and trained.name == "folder" else None
    return f"{name} trained on {_named(trained.name, data)}"


def _part(part: Any) -> str:
    """Return the name of a part of a network; that of a user's own is its class, with the settings that it has."""
    if not isinstance(part, OwnPart):
        return part if isinstance(part, str) else part.name
    target, options = own_class(part)
    settings = ", ".join(f"{name} {shown(value)}" for name, value in options.items() if name != "_partial_")
    return f"{target} with {settings}" if settings else target


def _neighbors(network: Network) -> str:
    """Return how a layer's neighbours are found. What a graph of a user's own does with the dilation is unknown."""
    dilation = "" if isinstance(network.graph, OwnPart) else f", dilation {network.dilation}"
    return f"{network.k} neighbours (graph {_part(network.graph)}){dilation}"


def _named(dataset: str, data: str | None) -> str:
    """Return the name of a data set and where its rooms came from, for a sentence.

    The default name of one's own scans is left out, because it says only how they are read.
    """
    if data is None:
        return dataset
    return data if dataset == "folder" or data.startswith(dataset) else f"{dataset} ({data})"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _trusted(description: Description) -> list[str]:
    """Return the modules that whoever uses a network must trust: those of parts of its author's own."""
    network = description.network
    own = [network, *(getattr(network, name, None) for name in ("conv", "graph", "norm", "act"))]
    return sorted({one_line(module_to_trust(part), 50) for part in own if isinstance(part, OwnPart)})
