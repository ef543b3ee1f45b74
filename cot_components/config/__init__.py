"""A config holds the keyword arguments of a signature. This package finds, reads, checks and builds configs. Plain
Python."""

from cot_components.config.components import ConfigError, nearest
from cot_components.config.files import find_config, shipped_configs
from cot_components.config.schema import COMPONENT, build, check, check_nodes, fits, walk

__all__ = [
    "COMPONENT",
    "ConfigError",
    "build",
    "check",
    "check_nodes",
    "find_config",
    "fits",
    "nearest",
    "shipped_configs",
    "walk",
]
