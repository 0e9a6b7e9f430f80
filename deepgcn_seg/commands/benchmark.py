"""``tools/benchmark.py``: time and memory beside the official formulation."""

from collections.abc import Callable

from omegaconf import DictConfig

from ..benchmark.data import measure_data
from ..benchmark.gpu import measure_gpu
from ..benchmark.network import measure_network
from ..benchmark.parser import measure_parser
from ..benchmark.parts import measure_parts
from ..benchmark.pyg import measure_pyg
from ..benchmark.scaling import measure_scaling
from ..benchmark.small import measure_small
from ..errors import UserError

MEASURES: dict[str, Callable[[DictConfig], None]] = {
    "network": measure_network,
    "gpu": measure_gpu,
    "parts": measure_parts,
    "scaling": measure_scaling,
    "small": measure_small,
    "pyg": measure_pyg,
    "data": measure_data,
    "parser": measure_parser,
}


def benchmark(config: DictConfig) -> None:
    """Do the measurement that ``config.measure`` names.

    Raises:
        UserError: the measurement is unknown, or does not have these settings.
    """
    if config.measure not in MEASURES:
        raise UserError(f"measure={config.measure}: must be one of {', '.join(MEASURES)}")
    MEASURES[config.measure](config)
