"""``--help``: each setting of a command with its comment from ``conf/``."""

import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from string import Template

import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from ...old_names import RENAMED

# Column at which comments begin.
_COLUMN = 44
_SETTING = re.compile(r"(?P<indent> *)(?P<item>- )?(?P<key>\w+):(?:.*?\s# (?P<comment>.*)|.*)")
PATHS_ARE_LITERAL = """\
Paths and names are taken as they are: spaces, brackets, commas and the like need no quotes but the shell's, and a
leading ~ is your home. With -m, commas sweep all settings but paths; choice('a.ply','b.ply') sweeps those."""


def page(conf: Path, command: str, overrides: Iterable[str] = ()) -> str:
    """Return the help of a command, with the values that some overrides give."""
    with initialize_config_dir(str(conf.resolve()), version_base="1.3"):
        config = compose(command, list(overrides), return_hydra_config=True)
    hydra = config.hydra
    known = settings(conf, command, hydra.runtime.choices)
    shown = OmegaConf.to_yaml(OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]))
    lines = shown.splitlines()
    for number, key, _ in _settings_in(lines):
        if comment := known.get(key):
            lines[number] = f"{lines[number]:<{_COLUMN}}  # {comment}"
    choices = {group: choices_of(conf, group) for group in groups_of(conf, command)}
    groups = [f"{group}: {', '.join(names)}" for group, names in choices.items() if len(names) > 1]
    text = Template(hydra.help.template).substitute(CONFIG="\n".join(lines), APP_CONFIG_GROUPS="\n".join(groups) + "\n")
    return f"{text}\n{PATHS_ARE_LITERAL}\n"


def settings(conf: Path, command: str, choices: Mapping[str, str | None] = {}) -> dict[str, str]:
    """Return every key that a command or one of its groups sets, with its comment or an empty text.

    Args:
        choices: group -> choice, whose comments are preferred to those of the group's other choices.
    """
    found = dict.fromkeys(groups_of(conf, command), "")
    files = [conf / f"{command}.yaml"]
    for group in groups_of(conf, command):
        # Groups within a group (data/grid) too.
        files += sorted((conf / group).rglob("[!.]*.yaml"), key=lambda path: (path.stem == choices.get(group), path))
    for path in files:
        text = path.read_text("utf-8")
        inside = () if text.startswith("# @package _global_") else path.relative_to(conf).parts[:-1]
        for _, key, comment in _settings_in(text.splitlines()):
            if not key.startswith(("defaults", "hydra")):
                name = ".".join((*inside, key))
                found[name] = comment or found.get(name, "")
    return found


def groups_of(conf: Path, command: str) -> list[str]:
    """Return the groups of settings that a command has."""
    defaults = yaml.safe_load((conf / f"{command}.yaml").read_text("utf-8")).get("defaults", [])
    entries = [key for entry in defaults if isinstance(entry, dict) for key in entry]
    return [key for key in entries if not key.startswith("override ")]


def suggestion(key: str, known: Iterable[str]) -> str:
    """Return a hint for an unknown setting: those with a similar name, or where all are listed."""
    if key in RENAMED:
        return f"it is now {RENAMED[key].name}"
    known = list(known)
    if key in known:
        return f"another choice of {key.split('.')[0]} has it, but not this one"
    names = [name for name in known if not name.rsplit(".", 1)[-1].startswith("_")]
    ends: dict[str, list[str]] = {}
    for name in names:
        ends.setdefault(name.rsplit(".", 1)[-1], []).append(name)
    last = key.rsplit(".", 1)[-1]
    close = ends.get(last) or get_close_matches(key, names, 1)
    close = close or [name for end in get_close_matches(last, ends, 1, 0.7) for name in ends[end]]
    return f"did you mean {' or '.join(close[:3])}?" if close else "--help lists all settings"


def choices_of(conf: Path, group: str) -> list[str]:
    """Return the choices of a group of settings. Hidden files, which macOS leaves beside others, are none."""
    return sorted(path.stem for path in (conf / group).glob("[!.]*.yaml"))


def _settings_in(lines: Iterable[str]) -> Iterator[tuple[int, str, str]]:
    """Yield line number, dotted key and comment of each setting in lines of YAML, as block style writes them."""
    # Indents and names of the settings that enclose a line, outermost first. An item of a list stands at the indent of
    # its setting, so its number gets half a step more.
    above: list[tuple[float, str]] = []
    for number, line in enumerate(lines):
        match = _SETTING.fullmatch(line)
        if match is None:
            continue
        indent = float(len(match["indent"]))
        if match["item"]:
            while above and above[-1][0] > indent + 0.5:
                above.pop()
            item = int(above.pop()[1]) + 1 if above and above[-1][0] == indent + 0.5 else 0
            above.append((indent + 0.5, str(item)))
            indent += 2
        while above and above[-1][0] >= indent:
            above.pop()
        above.append((indent, match["key"]))
        yield number, ".".join(name for _, name in above), match["comment"] or ""
