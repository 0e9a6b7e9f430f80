"""The card of a trained network: what it tells apart, what it was trained on, how good it is, and what it is not for.

A run directory has it as ``MODEL_CARD.md``. The same facts are in the checkpoint, under ``card``, so that a file that
was copied elsewhere still has them (``python -m deepgcn_seg info FILE``). They are data: a file from somebody else is
validated by :class:`Card` before it is shown, and decides nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

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
        score: None until the training has ended and the network was scored.
    """

    training: Training
    score: Score | None = None


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
        temporary.write_text(card_text(content, "checkpoint"))


def selection_of(card: Any, path: str | Path) -> str | None:
    """Return how a checkpoint was chosen, such as ``last`` or ``best on test rooms``; None if its card does not say.

    Args:
        card: as the checkpoint has it, or None. path: its file, for messages.

    Raises:
        UserError: a field of the card is of another type or out of range.
    """
    read = _read(card, path)
    return None if read is None or read.score is None else read.score.selection


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
    card = _read(content.get("card"), path)
    tensors: Any = content["model"]
    parameters = sum(tensor.numel() for name, tensor in tensors.items() if not _is_statistic(name))
    parts = (
        _network(card, description, parameters),
        _data(card, description),
        _training(card, content),
        _scores(card, description.classes),
        _limits(card, description),
        _use(description),
    )
    return "\n".join(line for part in parts for line in (*part, ""))


def _is_statistic(name: str) -> bool:
    return str(name).endswith((".running_mean", ".running_var", ".num_batches_tracked"))


def _network(card: Card | None, description: Description, parameters: int) -> Iterator[str]:
    network, trained = description.network, description.trained_on
    if isinstance(network, Network):
        # The name of a data set is enough for the title; one's own scans have none.
        data = card.training.data if card and trained and trained.name == "folder" else None
        name = f"{CONNECTIONS[network.connection].network}-{network.depth}"
        yield f"# {name}{f' trained on {_named(trained.name, data)}' if trained else ''}"
        yield ""
        yield (
            f"A network that labels each point of a room as one of {len(description.classes)} classes: "
            f"{network.depth} graph convolutions ({markdown(_part(network.conv))}) of {network.channels} channels with "
            f"{markdown(network.connection)} connections, {markdown(_neighbors(network))}, a fusion block and a "
            f"prediction head. {parameters:,} parameters."
        )
    else:
        yield f"# {markdown(network.target)}"
        yield ""
        yield f"A network of its author's own class, with {parameters:,} parameters. Its module is needed to use it."
    yield ""
    yield f"Classes: {', '.join(map(markdown, description.classes))}."


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


def _data(card: Card | None, description: Description) -> Iterator[str]:
    yield "## Data"
    yield ""
    trained = description.trained_on
    if trained is None:
        yield "The checkpoint does not say what it was trained on."
        return
    data = None if card is None else card.training.data
    yield f"- Data: {_named(trained.name, data)}; held out for testing: {_fold(trained)}."
    yield f"- Input of a point: {', '.join(trained.features)} ({markdown(trained.variant)} variant)."
    yield (
        f"- Rooms are cut into blocks of {trained.side:g} m x {trained.side:g} m, {trained.stride:g} m apart, with "
        f"{trained.points} points each. Coordinates are in metres, z is up."
    )


def _named(dataset: str, data: str | None) -> str:
    """Return the name of a data set and where its rooms came from, for a sentence.

    The default name of one's own scans is left out, because it says only how they are read.
    """
    if data is None:
        return markdown(dataset)
    return (
        markdown(data) if dataset == "folder" or data.startswith(dataset) else f"{markdown(dataset)} ({markdown(data)})"
    )


def _fold(trained: TrainedOn) -> str:
    return "nothing" if trained.fold is None else f"area {markdown(trained.fold)}"


def _training(card: Card | None, content: Mapping[str, Any]) -> Iterator[str]:
    yield "## Training"
    yield ""
    if card is None:
        yield "The checkpoint does not say how it was trained."
        return
    training, step = card.training, content.get("step")
    yield (
        f"- Recipe {markdown(training.recipe)}: {markdown(training.optimizer)}"
        f"{'' if training.learning_rate is None else f', learning rate {training.learning_rate:g}'}, "
        f"{counted(training.epochs, 'epoch')} of batches of {counted(training.batch_size, 'block')}, "
        f"{counted(training.rooms, 'room')}, seed {training.seed}; this file is of step {step}."
    )
    yield f"- Loss: {markdown(training.loss)}; class weights: {markdown(training.class_weights)}."
    yield f"- Augmentation: {', '.join(map(markdown, training.augmentation)) or 'none'}."
    if training.ema is not None:
        yield f"- The weights are a moving average with decay {training.ema:g}."
    if training.weights is not None:
        yield f"- It began with the weights of {markdown(training.weights)}."
    yield from (f"- Changed {markdown(change)}." for change in training.changes)
    changed = " with changes that are not committed" if training.dirty else ""
    yield f"- Code: {f'commit {training.commit}{changed}' if training.commit else 'no commit is known'}."


def _scores(card: Card | None, classes: Sequence[str]) -> Iterator[str]:
    yield "## Scores"
    yield ""
    if card is None or card.score is None:
        why = "" if card is None else ": it was written before the test rooms were scored"
        yield f"The checkpoint does not say how good it is{why}."
        return
    score = card.score
    areas = ", ".join(map(markdown, score.areas))
    yield (
        f"On {counted(score.rooms, 'room')} ({counted(score.points, 'point')}) of area {areas} of "
        f"{_named(score.dataset, score.data)}, which {'was' if score.rooms == 1 else 'were'} not trained on. "
        f"Protocol: {markdown(score.protocol)}. "
        f"Checkpoint: {markdown(score.selection)}, step {score.step}."
    )
    yield ""
    yield from ("| | |", "|---|---:|")
    interval = f" ({' to '.join(map(_percent, score.mIoU_interval))})" if score.mIoU_interval else ""
    yield f"| mIoU{' (95 % over rooms)' if interval else ''} | {_percent(score.mIoU)}{interval} |"
    yield f"| mAcc | {_percent(score.mAcc)} |"
    yield f"| OA | {_percent(score.OA)} |"
    yield from (f"| IoU of {markdown(name)} | {_percent(score.IoU.get(name))} |" for name in classes)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _limits(card: Card | None, description: Description) -> Iterator[str]:
    yield "## Limits"
    yield ""
    yield "- Every point gets one of the classes, also a point of something that is none of them."
    trained = description.trained_on
    if trained is not None and trained.source == "synthetic":
        yield "- It was trained on synthetic rooms; nothing is known of real ones."
    if trained is not None and "color" in trained.features:
        yield "- It was trained with colours. A scan without colours is labelled worse."
    score = None if card is None else card.score
    if score is None:
        return
    absent = [name for name in description.classes if score.IoU.get(name) is None]
    low = [(name, iou) for name in description.classes if (iou := score.IoU.get(name)) is not None and iou < LOW_IOU]
    if absent:
        yield f"- Not measured, because the test rooms have none: {', '.join(map(markdown, absent))}."
    if low:
        yield f"- Often wrong: {', '.join(f'{markdown(name)} (IoU {_percent(iou)})' for name, iou in low)}."
    if score.mIoU_interval is None:
        yield "- The test rooms are too few for an interval of the mIoU."
    if "test" in score.selection:
        yield "- The checkpoint was chosen by the test rooms themselves, so the scores are too good."
    yield "- The scores are of one training. Another seed or another held-out area gives other ones."


def _use(description: Description) -> Iterator[str]:
    trusted = ",".join(_trusted(description))
    yield "## Use"
    yield ""
    yield "```bash"
    more = f" trusted=[{trusted}]" if trusted else ""
    yield as_called(f"python tools/predict.py checkpoint=FILE input=scan.ply output=labelled.ply{more}")
    yield "```"
    yield ""
    yield "```python"
    yield "import deepgcn_seg"
    yield ""
    yield f'model = deepgcn_seg.load_model("FILE"{f", trusted={_trusted(description)!r}" if trusted else ""})'
    yield "```"


def _trusted(description: Description) -> list[str]:
    """Return the modules that whoever uses a network must trust: those of parts of its author's own."""
    network = description.network
    own = [network, *(getattr(network, name, None) for name in ("conv", "graph", "norm", "act"))]
    return sorted({one_line(module_to_trust(part), 50) for part in own if isinstance(part, OwnPart)})
