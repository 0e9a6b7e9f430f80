"""What TensorBoard shows of a run, asked of TensorBoard itself."""

import json
import re
import urllib.request
from contextlib import suppress

import pytest
from tensorboard import program
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from test_commands import ROOT, data_root, trained  # noqa: F401
from test_config import composed

from deepgcn_seg.evaluation import Protocol
from deepgcn_seg.training.final_score import settings_to_compare
from deepgcn_seg.training.tensorboard import RunLog

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


def row_of_table(folder):
    """Return the settings that TensorBoard's table shows for a run, and the steps of its score."""
    events = EventAccumulator(str(folder))
    events.Reload()
    content = HParamsPluginData.FromString(events.PluginTagToContent("hparams")["_hparams_/session_start_info"])
    values = content.session_start_info.hparams
    shown = {name: getattr(value, value.WhichOneof("kind")) for name, value in values.items()}
    return shown, [(event.step, round(event.value, 3)) for event in events.Scalars("hparam/mIoU")]


def test_the_table_shows_the_settings_and_the_score_of_the_last_end(tmp_path):
    for step, (epochs, miou) in enumerate([(2, 0.25), (3, 0.5), (3, 0.75)]):
        log = RunLog(tmp_path, step)
        log.gradient_norm(step, 1.0)
        log.hparams({"epochs": epochs, "ema": None}, {"hparam/mIoU": miou})
        log.close()
    assert row_of_table(tmp_path) == ({"epochs": 3, "ema": "None"}, [(0, 0.75)])
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in events.Scalars("2_training/gradient_norm")] == [0, 1, 2]


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("recipe.optimizer.lr=0.5", "lr"),
        ("recipe.optimizer.weight_decay=0.5", "weight_decay"),
        ("recipe.ema=0.5", "ema"),
        ("recipe.label_smoothing=0.5", "label_smoothing"),
        ("accumulate=2", "accumulate"),
        ("precision=bf16", "precision"),
    ],
)
def test_runs_that_differ_in_a_setting_of_the_recipe_have_other_rows(key, name):
    rows = [settings_to_compare(composed("recipe=modern", *given), Protocol(), {}) for given in ([], [key])]
    assert {field for field in rows[0] if rows[0][field] != rows[1][field]} == {name}
    setting, _, value = key.partition("=")
    changed = {setting: f"0.1, from step 3 on {value}"}
    assert settings_to_compare(composed("recipe=modern", key), Protocol(), changed)[name] == changed[setting]
