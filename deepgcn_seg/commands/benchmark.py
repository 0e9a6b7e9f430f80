"""``tools/benchmark.py``: which measurement a config asks for."""

from collections.abc import Callable

from omegaconf import DictConfig

from ..benchmark.comparison import compare
from ..benchmark.data import measure_data
from ..benchmark.parser import benchmark_parser
from ..benchmark.parts import measure_parts
from ..benchmark.scaling import measure_scaling
from ..benchmark.small import measure_small
from ..errors import UserError

MEASURES: dict[str, Callable[[DictConfig], None]] = {
    "network": compare,
    "parts": measure_parts,
    "scaling": measure_scaling,
    "small": measure_small,
    "data": measure_data,
    "parser": benchmark_parser,
}


def benchmark(config: DictConfig) -> None:
    """Measure what ``config.measure`` names.

    Raises:
        UserError: unknown measurement, or settings it does not have.
    """
    if config.measure not in MEASURES:
        raise UserError(f"measure={config.measure}: must be one of {', '.join(MEASURES)}")
    MEASURES[config.measure](config)
