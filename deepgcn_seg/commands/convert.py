"""``tools/convert.py``: a checkpoint of the official PyTorch code into one of ours."""

import logging
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from ..data.classes import S3DIS
from ..errors import UserError
from ..files import require_writable
from ..model.checkpoint import save_checkpoint
from ..model.official import CONVS, conv_name, convert_official

log = logging.getLogger(__name__)


def convert(config: DictConfig) -> None:
    """Convert the official checkpoint of a config and write it as one of ours.

    Raises:
        UserError: a file is not set, is no official checkpoint, or cannot be written.
    """
    for key in ("checkpoint", "output"):
        if OmegaConf.is_missing(config, key):
            raise UserError(f"{key} is not set: give checkpoint=OFFICIAL_FILE and output=NEW_FILE")
    conv = None if OmegaConf.select(config, "conv") is None else conv_name(config.conv)
    if conv not in (None, *CONVS):
        raise UserError(f"conv={conv}: official models have {' or '.join(CONVS)}")
    require_writable("output", Path(config.output))
    try:
        model, network = convert_official(config.checkpoint, config.k, config.act, config.connection, conv)
    except ValueError as error:
        prefix = f"checkpoint {config.checkpoint}: "
        raise UserError(prefix + str(error).removeprefix(prefix)) from None
    if model.num_classes != len(S3DIS):
        raise UserError(f"checkpoint {config.checkpoint} has {model.num_classes} classes, S3DIS has {len(S3DIS)}")
    trained_on = {
        # The official PyTorch code scales channels 0-2 per block.
        "variant": "port",
        **{key: config[key] for key in ("points", "batch_size", "seed")},
        "source": "s3dis",
        "name": "S3DIS",
        "fold": config.data.fold,
    }
    try:
        save_checkpoint(config.output, model, network, S3DIS, trained_on, step=None)
    except OSError as error:
        raise UserError(f"output={config.output}: cannot be written ({error})") from None
    log.info(
        "%s: %s, conv %s, depth %d, %d channels, k %d",
        config.output,
        network["connection"],
        network["conv"]["name"],
        network["depth"],
        network["channels"],
        config.k,
    )
