"""Write a tiny random Llama with its tokenizer, in hub layout: something any recipe can start from."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = ("cot tiny runs/tiny_llama",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", type=Path)


def run(options: argparse.Namespace) -> int:
    from cot_components.models.tiny import write_tiny_checkpoint

    print(f"tiny random checkpoint in hub layout: {write_tiny_checkpoint(options.folder)}")
    return 0
