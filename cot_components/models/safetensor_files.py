"""The tensors of a Hugging Face folder, one file or shards with an index: headers first, numbers later."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor

from cot_components.errors import GET_IT, UserError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"

FLOATS = ("F64", "F32", "F16", "BF16")
"""Number formats of weights, in safetensors' spelling; any other means a quantised model."""


class Stored(NamedTuple):
    """One tensor as its file's header describes it."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str


def read_headers(folder: Path) -> dict[str, Stored]:
    """Every tensor of a folder by name, from headers only.

    Raises:
        UserError: no weights; a shard that the index names is missing or cut off; shards and index disagree.
    """
    if (folder / SINGLE).is_file():
        return _of_file(folder / SINGLE)
    if not (folder / INDEX).is_file():
        others = sorted(path.name for path in folder.glob("*.bin"))
        instead = f"it has {others[0]}, but only safetensors are read" if others else GET_IT
        raise UserError(f"{folder} has neither {SINGLE} nor {INDEX} ({instead})")
    shard_of = _index(folder / INDEX)
    found: dict[str, Stored] = {}
    for shard in sorted(set(shard_of.values())):
        if not (folder / shard).is_file():
            raise UserError(f"{folder} lacks {shard}, which {INDEX} names: the download is not complete")
        found |= _of_file(folder / shard)
    for name, shard in shard_of.items():
        if name not in found or found[name].file.name != shard:
            raise UserError(f"{folder / INDEX} says that '{name}' is in {shard}, where it is not")
    for name, tensor in found.items():
        if name not in shard_of:
            raise UserError(f"{folder / INDEX} has no entry for '{name}', which is in {tensor.file.name}")
    return found


def _index(path: Path) -> dict[str, str]:
    try:
        shard_of = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not an index of shards: {error!r}") from error
    if not isinstance(shard_of, dict) or not all(isinstance(shard, str) for shard in shard_of.values()):
        raise UserError(f"{path}: weight_map must map names of tensors to names of files")
    return shard_of


def _of_file(path: Path) -> dict[str, Stored]:
    found = {}
    with _opened(path) as file:
        for name in file.keys():  # noqa: SIM118 (no mapping)
            part = file.get_slice(name)
            found[name] = Stored(path, name, tuple(part.get_shape()), part.get_dtype())
    return found


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is cut off or not a safetensors file ({error})") from error


def read_tensors(wanted: Iterable[Stored]) -> Iterator[tuple[Stored, Tensor]]:
    """The values of some tensors, file by file, so that at most one is in memory twice."""
    by_file: dict[Path, list[Stored]] = {}
    for tensor in wanted:
        by_file.setdefault(tensor.file, []).append(tensor)
    for path, tensors in by_file.items():
        with _opened(path) as file:
            for tensor in tensors:
                yield tensor, file.get_tensor(tensor.name)


def quantised(tensors: Mapping[str, Stored]) -> Stored | None:
    """The first tensor whose numbers are not plain floats."""
    return next((tensor for tensor in tensors.values() if tensor.dtype not in FLOATS), None)
