"""``tools/benchmark.py``: which measurement a config asks for."""

from collections.abc import Callable

from omegaconf import DictConfig

from ..errors import UserError
from .comparison import compare
from .data import measure_data
from .parser import benchmark_parser
from .parts import measure_parts
from .scaling import measure_scaling
from .small import measure_small

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
