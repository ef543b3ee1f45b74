"""Whether two configs belong to the same run: everything that affects its numbers is equal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from cot_components.config import ConfigError
from cot_components.config.files import read_keys
from cot_components.errors import UserError
from cot_components.runs.layout import CONFIG
from cot_components.secrets import agree, without_secrets

FREE_TO_CHANGE = {
    *("output_dir", "resume", "save_every_n_steps", "save_every_minutes", "keep_checkpoints", "export_checkpoints"),
    *("num_workers", "device", "compile", "enable_activation_checkpointing", "cache_dir"),
    *("metric_logger", "log_every_n_steps", "evaluation", "evaluate_every_n_steps", "evaluate_before_training"),
    *("batch_size", "gradient_accumulation_steps"),
}
"""Keys that change neither data nor loss; for the two batch keys, their product (times processes) is compared
instead."""


def config_hash(config: Mapping[str, Any]) -> str:
    """sha256 over everything in a config that may not change within a run."""
    return hashlib.sha256(json.dumps(flat(without_secrets(config)), sort_keys=True).encode()).hexdigest()


def refuse_other_config(before: Mapping[str, Any], now: Mapping[str, Any], where: Path) -> None:
    """Raises UserError naming the keys that differ between two configs but must not; a value masked as a secret in one
    matches anything in the other.
    """
    old, new = flat(before), flat(without_secrets(now))
    differing = sorted(key for key in old.keys() | new.keys() if not agree(old.get(key), new.get(key)))
    if differing:
        shown = ", ".join(f"{key} was {old.get(key)!r}, is {new.get(key)!r}" for key in differing[:3])
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise UserError(f"output_dir: {where} belongs to a run with another config ({shown}{more}); use another")


def flat(node: Any, where: str = "") -> dict[str, Any]:
    """Leaves of a config by dotted path, without the keys that may change."""
    if isinstance(node, Mapping):
        kept = {key: value for key, value in node.items() if key not in FREE_TO_CHANGE and value is not None}
        order = (
            {f"{where}: order": ", ".join(kept)} if where.endswith(("transforms", "select")) and len(kept) > 1 else {}
        )
        return order | {
            k: v for key, value in kept.items() for k, v in flat(value, f"{where}.{key}" if where else key).items()
        }
    if isinstance(node, (list, tuple)):
        return {k: v for i, value in enumerate(node) for k, v in flat(value, f"{where}.{i}").items()}
    return {where: node}


def read_config(folder: Path) -> dict[str, Any]:
    """The config in a run's folder, as written.

    Raises:
        UserError: there is no readable config.
    """
    try:
        read = OmegaConf.to_container(read_keys(folder / CONFIG), resolve=False)
    except ConfigError as error:
        said = f"{folder} holds a run without a readable {CONFIG} ({error})"
        raise UserError(f"output_dir: {said}; choose another") from error
    assert isinstance(read, dict)
    return {str(key): value for key, value in read.items()}
