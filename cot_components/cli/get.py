"""Get a small pretrained model as a Hugging Face folder, without an account."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = ("cot get smollm2 models/SmolLM2-135M-Instruct",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", choices=["smollm2"], help="smollm2: 135 M parameters, Apache-2.0")
    parser.add_argument("folder", metavar="DIR", type=Path)


def run(options: argparse.Namespace) -> int:
    from cot_components.models.smollm2 import NAME, get_smollm2

    print(f"{NAME}: {get_smollm2(options.folder.expanduser())}")
    return 0
