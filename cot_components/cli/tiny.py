"""Write a tiny random Llama with its tokenizer in hub layout, from which any recipe can start."""

from __future__ import annotations

import argparse
import filecmp
from pathlib import Path
from tempfile import TemporaryDirectory

from cot_components.errors import UserError

EXAMPLES = ("cot tiny runs/tiny_llama",)


WEIGHTS = {".safetensors", ".bin", ".pt", ".pth"}
"""Suffixes of files that hold a model."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("--force", action="store_true", help="write even if FOLDER holds another model")


def run(options: argparse.Namespace) -> int:
    from cot_components.models.tiny import write_tiny_checkpoint

    weights = sorted(path for path in options.folder.glob("*") if path.suffix in WEIGHTS)
    if weights and not options.force:
        with TemporaryDirectory() as temporary:
            own = write_tiny_checkpoint(Path(temporary))
            other = [path for path in weights if not _same(path, own / path.name)]
        if other:
            raise UserError(f"{other[0]} is not a model written by cot tiny; --force overwrites it")
    print(f"tiny random checkpoint in hub layout: {write_tiny_checkpoint(options.folder)}")
    return 0


def _same(path: Path, other: Path) -> bool:
    return other.is_file() and filecmp.cmp(path, other, shallow=False)
