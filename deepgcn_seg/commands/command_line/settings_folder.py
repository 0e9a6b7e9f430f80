"""The folder of the settings that come with the code."""

from pathlib import Path

from ...errors import UserError


def settings_folder() -> Path:
    """Return the folder of the settings that come with the code: in the package, or beside it in a checkout.

    Raises:
        UserError: there is none.
    """
    package = Path(__file__).parents[2]
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise UserError(f"no settings in {package} or beside it: give config_dir=DIR, the folder conf/ of a checkout")
