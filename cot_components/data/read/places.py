"""Where rows come from: a file, a folder (hub layout, BFCL, or saved by `datasets`), or the hub."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cot_components.data.bad_rows import one_line
from cot_components.data.read.bfcl import bfcl_files, is_bfcl
from cot_components.data.read.files import READERS, kind_of
from cot_components.errors import UserError

if TYPE_CHECKING:
    import datasets

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def find_source(source: str | Path) -> Path | None:
    """The path of that name; None if it does not exist.

    Raises:
        UserError: a name that cannot be looked up: too long, or in a folder without permission.
    """
    try:
        path = Path(source).expanduser()
        return path if path.exists() else None
    except (OSError, RuntimeError) as error:  # RuntimeError: the home folder of an unknown user
        raise UserError(f"{source}: {getattr(error, 'strerror', None) or error}") from None


def check_source(source: str) -> None:
    """Refuse a source that is neither an existing path nor a possible hub name.

    Raises:
        UserError: no such file or folder.
    """
    if find_source(source) is None and (kind_of(Path(source)) in READERS or not _HUB_NAME.fullmatch(source)):
        raise UserError(f"{source}: no such file or folder")


def source_files(path: Path, split: str, subset: str | None) -> list[Path]:
    """The files that rows of `path` are read from, in order, following a folder's links and README.

    Raises:
        UserError: no data set, or none with that split and subset.
    """
    if is_saved(path):
        return [Path(file["filename"]) for file in saved_data_set(path, split, subset).cache_files]
    if is_bfcl(path):
        return bfcl_files(path, split, subset)
    if path.is_dir():
        return _hub_layout(path, split, subset)
    if split != "train" or subset is not None:
        asked = f"split '{split}'" if split != "train" else f"subset '{subset}'"
        raise UserError(f"{path}: a file has no {asked}; name another file, or a share of this one: dataset_val=0.05")
    return [path]


def _hub_layout(folder: Path, split: str, subset: str | None) -> list[Path]:
    """Data files of a folder in hub layout: `datasets` knows the layout, but not a row's line number."""
    import datasets
    from yaml import YAMLError

    with _one_sentence(f"{folder}: not a data set in hub layout"):
        try:
            found = datasets.load_dataset_builder(str(folder), subset).config.data_files or {}
        except YAMLError as error:
            raise UserError(f"{folder}/README.md: the YAML at its top cannot be read: {one_line(error)}") from error
    _check_split(folder, split, found)
    files = [Path(file) for file in found[split]]
    for name, file in zip(found[split], files, strict=True):
        if not file.is_file():
            raise UserError(f"{folder}: split {split!r} names {name}, which is not a file on this machine")
    return files


def is_saved(path: Path) -> bool:
    """Whether `datasets` wrote the folder by `save_to_disk`."""
    return any(os.path.isfile(path / name) for name in ("state.json", "dataset_dict.json"))


def saved_data_set(folder: Path, split: str, subset: str | None) -> datasets.Dataset:
    """A split of a saved data set; a single one without splits is `train`, or the name of its own split.

    Raises:
        UserError: a damaged folder, an unknown split, any subset.
    """
    import datasets

    if subset is not None:
        raise UserError(f"{folder}: a saved data set has no subset {subset!r}; leave it out")
    with _one_sentence(f"{folder}: not a data set that can be read"):
        found = datasets.load_from_disk(str(folder))
        if not isinstance(found, datasets.DatasetDict):
            found = {"train": found, str(found.split or "train"): found}
    _check_split(folder, split, found)
    return found[split].with_format(None)


def hub_data_set(name: str, split: str, subset: str | None) -> datasets.Dataset:
    """A split from the hub, or from the cache of `datasets`. Raises UserError if neither has it."""
    import datasets

    with _one_sentence(f"{name}: not found on this machine and not available from the hub"):
        return datasets.load_dataset(name, subset, split=split)


def _check_split(folder: Path, split: str, found: Any) -> None:
    if split not in found:
        raise UserError(f"{folder}: no split {split!r}; there are: {', '.join(map(str, found)) or 'none'}")


@contextmanager
def _one_sentence(what: str) -> Iterator[None]:
    """Turn whatever `datasets` raises over missing or unreadable data into UserError `what: why`."""
    import datasets
    import pyarrow as pa
    from yaml import YAMLError

    faults = (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, ImportError, YAMLError)
    try:
        yield
    except UserError:
        raise
    except (*faults, pa.ArrowException, datasets.exceptions.DatasetsError) as error:
        raise UserError(f"{what}: {one_line(error)}") from error
