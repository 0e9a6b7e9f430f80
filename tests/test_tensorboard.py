"""What TensorBoard shows of a run, asked of TensorBoard itself."""

import json
import re
import urllib.request
from contextlib import suppress

import pytest
from tensorboard import program
from test_commands import ROOT, data_root, trained  # noqa: F401

(COMMAND,) = re.findall(r"^    tensorboard (.*)$", (ROOT / "README.md").read_text(), re.M)


def served(outputs, *options):
    """Return what the README's command shows of the scalars below a folder: run -> tag -> facts."""
    board = program.TensorBoard()
    given = [str(outputs) if argument == "outputs" else argument for argument in COMMAND.split()]
    board.configure(argv=["tensorboard", *given, "--port", "0", *options])
    url = board.launch()
    for _ in range(100):
        with suppress(urllib.error.URLError):
            found = json.loads(urllib.request.urlopen(f"{url}data/plugin/scalars/tags", timeout=10).read())
            if any(found.values()):
                return found
    raise AssertionError(f"no scalars below {outputs}")


def sort_key(tag):
    """TensorBoard compares tags so: breaks (/ and _) before digits' numbers before letters."""
    return [
        (0, 0, part) if part in "/_" else (1, int(part), "") if part.isdigit() else (2, 0, part)
        for part in re.findall(r"\d+|.", tag)
    ]


# The server in Python, and the one in Rust that TensorBoard prefers.
@pytest.mark.parametrize("loader", ["false", "auto"])
def test_loss_miou_and_rate_come_first_and_everything_is_described(trained, loader):  # noqa: F811
    (tags,) = served(trained[0], f"--load_fast={loader}").values()
    ordered = sorted((tag for tag in tags if not tag.startswith("hparam")), key=sort_key)
    assert ordered[:4] == [
        "1_overview/loss_train", "1_overview/loss_validation", "1_overview/mIoU_validation", "1_overview/rate",
    ]  # fmt: skip
    groups = list(dict.fromkeys(tag.split("/")[0] for tag in ordered))
    assert groups == [
        "1_overview", "2_training", "3_validation", "4_test",
        "5_IoU_validation", "6_IoU_test", "7_gradient_norm", "8_neighbor_distance",
    ]  # fmt: skip
    for tag in ordered:
        assert tags[tag]["description"].startswith("<p>"), tag
