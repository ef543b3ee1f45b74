"""The end of a run on disk: `finished.json`, written last, lists the results and their hashes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cot_components.errors import UserError
from cot_components.files import files_below, read_object, sha256, sync_below, write_whole, writing
from cot_components.runs.layout import ADAPTER, FINISHED, MODEL


def mark_finished(folder: Path, **facts: Any) -> str | None:
    """Flush the results of a run to disk, then list them with sizes and hashes in `finished.json`.

    Returns:
        why the file system may still lose them in a power cut, or None.

    Raises:
        UserError: a disk error.
    """
    results = [folder / name for name in (MODEL, ADAPTER) if (folder / name).is_dir()]
    with writing(folder / FINISHED):
        refusals = [sync_below(result) for result in results]
        files = {
            path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": sha256(path)}
            for result in results
            for path in files_below(result)
        }
        write_whole(folder / FINISHED, (json.dumps({**facts, "files": files}, indent=1) + "\n").encode())
    return next((refusal for refusal in refusals if refusal), None)


def why_unfinished(folder: Path) -> str | None:
    """What contradicts the `finished.json` of a run: weights that differ from those it lists, another file that is
    missing or empty (files other than weights may be edited). None for a finished run.
    """
    try:
        named = read_object(folder / FINISHED)["files"]
        expected = {str(name): (int(entry["size"]), str(entry["sha256"])) for name, entry in named.items()}
    except UserError as error:
        return str(error)
    except (KeyError, TypeError, ValueError, AttributeError):
        return f"{folder / FINISHED} names no files with their hashes"
    for name, (size, digest) in expected.items():
        path, is_weights = folder / name, name.endswith(".safetensors")
        if not path.is_file():
            return f"{path} is missing"
        there = path.stat().st_size
        if (there != size) if is_weights else (there == 0 < size):
            return f"{path} has {there:,} bytes instead of {size:,}"
        if is_weights and sha256(path) != digest:
            return f"{path} has changed (sha256)"
    return None if expected else f"{folder / FINISHED} names no files"
