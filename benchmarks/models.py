"""The pretrained model that benchmarks use, and a tiny one of the same kind for tests."""

from __future__ import annotations

from pathlib import Path

from benchmarks.report import Absent
from cot_components.models.smollm2 import cache_folder


def smollm2_folder() -> Path | None:
    """The folder of SmolLM2 in `$COT_CACHE`, or None; nothing is downloaded."""
    found = sorted(cache_folder().glob("SmolLM2-135M-Instruct*/model.safetensors"))
    return found[0].parent if found else None


def model_folder(size: str, scratch: Path) -> Path:
    """The folder of SmolLM2 or, at size `tiny`, of a random model written to `scratch`.

    Raises:
        Absent: SmolLM2 is not in the cache.
    """
    if size == "tiny":
        from cot_components.models.tiny import write_tiny_checkpoint

        return write_tiny_checkpoint(scratch / "tiny_llama")
    if (folder := smollm2_folder()) is None:
        raise Absent(f"no SmolLM2 in {cache_folder()}; `cot get smollm2 FOLDER` downloads it")
    return folder
