"""Reading a config's file: what a hand has broken is one sentence with file and line."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from cot_components.config import ConfigError

if TYPE_CHECKING:
    from omegaconf import DictConfig


def read_text(path: Path) -> str:
    """The text of a config.

    Raises:
        ConfigError: it is not UTF-8, or cannot be read.
    """
    try:
        content = path.read_bytes()
        return content.decode("utf-8").replace("\r\n", "\n")
    except OSError as error:
        raise ConfigError(f"{path} is no config: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: not UTF-8 text ({error.reason})") from error


def read_keys(path: Path) -> DictConfig:
    """The keys of a YAML file with their values; interpolations are left as they are.

    Raises:
        ConfigError: it cannot be read, is no YAML, or holds no keys, or one that is not text (a bare on, off, yes, no).
    """
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import MarkedYAMLError, YAMLError

    try:
        read = OmegaConf.load(io.StringIO(read_text(path)))
    except MarkedYAMLError as error:
        place = f"{path}:{error.problem_mark.line + 1}" if error.problem_mark else path
        began = f" ({error.context} from line {error.context_mark.line + 1})" if error.context_mark else ""
        raise ConfigError(f"{place}: no YAML: {error.problem}{began}") from error
    except (OSError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path} is no config: {' '.join(str(error).split())}") from error
    if not isinstance(read, DictConfig):
        raise ConfigError(f"{path} is no config: it holds a list, not keys with values")
    if wrong := [key for key in read if not isinstance(key, str)]:
        raise ConfigError(f"{path}: the key {wrong[0]!r} is not text; put it in quotes")
    return read
