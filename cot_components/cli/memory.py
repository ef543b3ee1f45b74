"""Estimate the memory each GPU needs for full fine-tuning of Llama models, 1B to 70B."""

from __future__ import annotations

import argparse

from cot_components.errors import UserError

STATES = ("bf16", "fp32_moments", "fp32_weights")
EXAMPLES = (
    "cot memory",
    "cot memory --tokens 4096",
    "cot memory --trainable Half",
    "cot memory --optimizer-state fp32_weights",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tokens", type=int, default=16_384, help="tokens per GPU in a micro-batch (default 16384)")
    parser.add_argument("--optimizer-state", choices=STATES, default="bf16", help="as in a config (default bf16)")
    parser.add_argument("--trainable", choices=("CoFiTune", "Half"), help="weights that learn (default all)")


def run(options: argparse.Namespace) -> int:
    from cot_components import trainable
    from cot_components.tools.memory import sizes, table

    if options.tokens < 1:
        raise UserError(f"--tokens must be at least 1, got {options.tokens}")
    chosen = getattr(trainable, options.trainable)() if options.trainable else None
    print(table(sizes(chosen), tokens=options.tokens, optimizer_state=options.optimizer_state))
    return 0
