"""Reads config files; mistakes in them are reported in one sentence with file and line."""

from __future__ import annotations

import io
import re
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cot_components.config.components import ConfigError, nearest

if TYPE_CHECKING:
    from omegaconf import DictConfig


MOST_VALUES = 100_000
"""In one config."""


def read_text(path: Path) -> str:
    """The text of a config.

    Raises:
        ConfigError: it is not UTF-8, or cannot be read.
    """
    try:
        content = path.read_bytes()
        return content.decode("utf-8").replace("\r\n", "\n")
    except OSError as error:
        raise ConfigError(f"{path} is not a config: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: not UTF-8 text ({error.reason})") from error


def read_keys(path: Path) -> DictConfig:
    """The keys of a YAML file with their values; interpolations are left as they are.

    Raises:
        ConfigError: it cannot be read, is not YAML, is nested too deeply, is too large with its aliases expanded, has
            no keys, or a key that is not text (a bare on, off, yes, no).
    """
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import MarkedYAMLError, YAMLError

    text = read_text(path)
    try:
        _refuse_bombs(text, path)
        read = OmegaConf.load(io.StringIO(text))
    except RecursionError:
        raise ConfigError(f"{path} is not a config: it is nested too deeply") from None
    except MarkedYAMLError as error:
        place = f"{path}:{error.problem_mark.line + 1}" if error.problem_mark else path
        began = f" ({error.context} from line {error.context_mark.line + 1})" if error.context_mark else ""
        raise ConfigError(f"{place}: not YAML: {error.problem}{began}") from error
    except (OSError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path} is not a config: {' '.join(str(error).split())}") from error
    _refuse_endless(OmegaConf.to_container(read), path)
    if not isinstance(read, DictConfig):
        raise ConfigError(f"{path} is not a config: it is a list, not keys with values")
    if wrong := [key for key in read if not isinstance(key, str)]:
        raise ConfigError(f"{path}: the key {wrong[0]!r} is not text; put it in quotes")
    return read


def _refuse_bombs(text: str, path: Path) -> None:
    """Raises ConfigError for YAML whose aliases (`*name`) make it huge or recursive."""
    import yaml

    sizes: dict[int, int] = {}  # node -> nodes in it with aliases expanded; 0 while it is counted

    def size(node: Any) -> int:
        if (known := sizes.get(id(node))) is not None:
            if known == 0:
                raise ConfigError(f"{path} is not a config: line {node.start_mark.line + 1} contains itself")
            return known
        sizes[id(node)] = 0
        children = node.value if isinstance(node, yaml.CollectionNode) else ()
        inner = (part for child in children for part in (child if isinstance(child, tuple) else (child,)))
        sizes[id(node)] = 1 + sum(map(size, inner))
        return sizes[id(node)]

    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if root is not None and size(root) > MOST_VALUES:
        raise ConfigError(f"{path} is not a config: more than {MOST_VALUES:,} values with its aliases expanded")


def _refuse_endless(values: Any, path: Path) -> None:
    """Raises ConfigError for nested interpolations (`${key}`) that grow exponentially."""
    costs: dict[tuple[str, ...], int] = {}  # place -> interpolations needed for its value

    def cost(node: Any, place: tuple[str, ...]) -> int:
        if place in costs:
            return costs[place]
        costs[place] = 0  # a cycle is refused when it is resolved
        if isinstance(node, (dict, list)):
            pairs = node.items() if isinstance(node, dict) else enumerate(node)
            costs[place] = sum(cost(child, (*place, str(name))) for name, child in pairs)
        else:
            leads = re.findall(r"\$\{(\.*)([^{}:]+)\}", node) if isinstance(node, str) else ()
            places = [(*(place[: -len(dots)] if dots else ()), *_parts(name)) for dots, name in leads]
            costs[place] = sum(1 + cost(_at(values, there), there) for there in places)
        return costs[place]

    if cost(values, ()) > MOST_VALUES:
        raise ConfigError(f"{path} is not a config: more than {MOST_VALUES:,} interpolations")


def _parts(name: str) -> list[str]:
    return [part for part in re.split(r"[.\[\]]+", name) if part]


def _at(values: Any, place: tuple[str, ...]) -> Any:
    """The value at a place in nested mappings and lists; None if there is none."""
    for part in place:
        if isinstance(values, list) and part.isdigit() and int(part) < len(values):
            values = values[int(part)]
        else:
            values = values.get(part) if isinstance(values, dict) else None
    return values


def shipped_configs() -> dict[str, Path]:
    """Name (`bt_sft/quickstart`) to path of every config that ships with the package."""
    root = Path(str(resources.files("cot_components.configs")))
    return {path.relative_to(root).with_suffix("").as_posix(): path for path in sorted(root.rglob("*.yaml"))}


def find_config(name: str) -> Path:
    """The file behind `--config NAME_OR_PATH`: a path if it exists, else the name of a shipped config.

    Raises:
        ConfigError: neither; names the nearest shipped config.
    """
    if Path(name).is_file():
        return Path(name)
    shipped = shipped_configs()
    found = shipped.get(name.removesuffix(".yaml"))
    if found is None:
        raise ConfigError(f"--config {name}: no such file or shipped config{nearest(name, shipped)}")
    return found
