"""The labels that a scan came with, as the truth beside a prediction, if it is known which classes they mean."""

import numpy as np

from ..data.classes import S3DIS, no_label
from ..data.labelled_scans import Labelling
from ..data.scannet import LABELLING, SCANNET
from ..data.scans.formats.scan import LABELS, Scan
from ..escaping import one_line
from ..model.trained import Trained

# What predict writes beside a labelled scan: the names of the classes.
CLASSES_FILE = ".classes.json"
# What numbers mean in scans with the classes of a published data set.
_PUBLISHED = {S3DIS.names: Labelling.of(S3DIS), SCANNET.names: LABELLING}
# Fields whose numbers have a meaning of their own in LAS, so that they are not those of a published data set.
_STANDARD = ("classification", "scalar_classification")
# The field of labels in results, also as CloudCompare writes it again.
_PREDICTED = ("label", "scalar_label")


def trained_labelling(networks: Trained) -> Labelling | None:
    """Return what label numbers in scans mean to networks, or None if that is not known.

    A network that was trained on a user's own scans keeps the numbers of ``classes.yaml`` in its checkpoint. Those of
    S3DIS are 0..12 in the order of its classes, those of ScanNet are NYU40 ids.
    """
    classes, found = networks.class_list, networks.label_numbers
    if found is not None:
        return Labelling(classes, found)
    own = any(member.trained_on.source == "folder" or member.trained_on.label_numbers for member in networks.members)
    return None if own else _PUBLISHED.get(classes.names)


def truth_of(scan: Scan, labelling: Labelling | None) -> tuple[np.ndarray | None, str]:
    """Return the labels that a scan came with as labels (N,) of a network's classes, and which field they are.

    If the scan has none, or it is not known what they mean, return None and the reason. Points whose label means
    "unlabelled" have :func:`~deepgcn_seg.data.classes.no_label`.

    Args:
        labelling: what the numbers mean to the network.
    """
    own_field = None if labelling is None else labelling.numbers.field
    wanted = LABELS if own_field is None else (own_field,)
    found = scan.candidates(*wanted)
    if len(found) != 1:
        which = f"fields {' and '.join(found)}" if found else f"no field {' or '.join(wanted[:3])}"
        return None, f"the scan has {one_line(which, 100)}"
    (name,) = found
    field = f"field {one_line(name, 100)}"
    if labelling is None:
        return None, f"the checkpoint does not say, or several do not agree, which classes the numbers of {field} mean"
    if scan.path.with_name(scan.path.name + CLASSES_FILE).is_file():
        return None, f"{scan.path.name}{CLASSES_FILE} says that {field} is a prediction"
    if name.lower() in _PREDICTED and (confidence := _confidence(scan)) is not None:
        return None, f"{field} is a prediction, because field {confidence} has probabilities"
    published = _PUBLISHED.get(labelling.classes.names)
    if published is not None and labelling.numbers == published.numbers and name.lower() in _STANDARD:
        return None, f"the numbers of {field} are those of LAS, not of these classes"
    if scan.fields[name].dtype.kind not in "iuf":
        return None, f"{field} has no numbers"
    values = np.asarray(scan.fields[name], np.float64)
    # Scanners write a field of zeros if nobody has labelled the points.
    if own_field is None and not values.any():
        return None, f"every number of {field} is 0"
    try:
        meaning, unknown = labelling.meaning(values)
    except ValueError as error:
        return None, f"{field} has {error}"
    # This number is written for points without a label.
    if unknown := [number for number in unknown if number != no_label(labelling.classes)]:
        return None, f"{field} has {', '.join(map(str, unknown[:8]))}, which the network's classes do not have"
    if (meaning == no_label(labelling.classes)).all():
        return None, f"no point has a class in {field}"
    return meaning, field


def _confidence(scan: Scan) -> str | None:
    """Return the field that has the probabilities of labels, as results have it; None if there is none."""
    for name in scan.candidates("confidence", "scalar_confidence"):
        values = scan.fields[name]
        if values.dtype.kind == "f" and ((values >= 0) & (values <= 1)).all():
            return name
    return None
