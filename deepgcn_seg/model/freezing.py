"""Parts of a network that a training leaves as they are: weights, running statistics and all."""

from collections.abc import Collection, Sequence
from difflib import get_close_matches

from torch import nn

from ..errors import UserError
from ..escaping import one_line
from ..settings import shown


def freeze(model: nn.Module, names: Sequence[str]) -> None:
    """Turn off the gradients of some modules.

    Autograd then keeps nothing for them, unless a module before them is trained. An optimiser leaves parameters
    without gradients alone, weight decay included.

    Args:
        names: of modules of the model, as ``backbone`` or ``backbone.blocks.0``.

    Raises:
        UserError: there is no such module, or nothing is left to train.
    """
    for module in _modules(model, names):
        module.requires_grad_(False)
    if names and not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(f"freeze={shown(names)}: nothing is left to train")


def set_training_mode(model: nn.Module, frozen: Sequence[str]) -> None:
    """Put a model into training mode, but modules by these names into eval mode, with all that is in them.

    Their batch norms then use and keep their running statistics, and nothing in them is random.
    """
    model.train()
    for module in _modules(model, frozen):
        module.eval()


def require_taken(frozen: Sequence[str], newly_initialised: dict[str, str]) -> None:
    """Refuse to freeze what keeps its random first weights.

    Args:
        newly_initialised: names of layers and tensors, and why they begin anew (:class:`.transfer.Fit`).

    Raises:
        UserError: names the first of them.
    """
    inside = lambda name, part: name == part or name.startswith(f"{part}.")
    for name, reason in newly_initialised.items():
        if any(inside(name, part) or inside(part, name) for part in frozen):
            raise UserError(
                f"freeze={shown(frozen)}: {name} begins anew ({reason}), and frozen it would stay random; freeze "
                "parts without it"
            )


def outermost(names: Sequence[str]) -> list[str]:
    """Return each name once, without those of parts of the others: ``backbone.head`` is a part of ``backbone``."""
    names = list(dict.fromkeys(names))
    return [name for name in names if not any(name.startswith(f"{other}.") for other in names)]


def _modules(model: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    known = dict(model.named_modules())
    for name in names:
        if not name or name not in known:
            raise UserError(f"freeze={shown(names)}: no part {one_line(name, 100)}; {_suggestion(name, known)}")
    return [known[name] for name in names]


def _suggestion(name: str, known: Collection[str]) -> str:
    """Return what may have been meant, or the parts at the top."""
    if close := get_close_matches(name, known, 3):
        return f"did you mean {' or '.join(sorted(close))}?"
    return f"choose from {', '.join(other for other in known if other and '.' not in other)} and the parts in them"
