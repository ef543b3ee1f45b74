"""`cot COMMAND ...`: finds the command, and turns errors the user can fix into one sentence and exit code 2.

Nothing heavy is imported here or at the top of a command's file, so that `cot --help` is fast.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NoReturn

from cot_components.config.components import nearest, only_known
from cot_components.errors import UserError
from cot_components.secrets import without_secrets
from cot_components.training.quiet import quiet_imports
from cot_components.viz.visible import one_line

COMMANDS = {
    "ls": "ls",
    "cp": "cp",
    "validate": "validate",
    "view": "view",
    "audit": "audit",
    "score": "score",
    "s3ft": "s3ft",
    "report": "report",
    "compare": "compare",
    "samples": "samples",
    "speed": "speed",
    "memory": "memory",
    "tiny": "tiny",
    "get": "get",
    "doctor": "doctor",
}
"""Command to module of this package, in the order of the help."""


class Parser(argparse.ArgumentParser):
    """Reports errors like all others: one line that begins with `error: `."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(2)


def make_parser() -> Parser:
    """The parser of all commands."""
    parser = Parser(
        prog="cot",
        description="Look at, copy and compare what `tune run` trains.",
        epilog="`cot COMMAND --help` has examples. Training: tune run RECIPE --config NAME_OR_PATH [key=value ...]",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", parser_class=Parser)
    for name, module_name in COMMANDS.items():
        module: Any = importlib.import_module(f"cot_components.cli.{module_name}")
        said = (module.__doc__ or "").strip()
        command = commands.add_parser(
            name,
            help=said.splitlines()[0].rstrip("."),
            description=said,
            epilog="examples:\n" + "\n".join(f"  {line}" for line in module.EXAMPLES),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run, runs_config=getattr(module, "RUNS_CONFIG", False))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, or 2 after an error that the user can fix."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = make_parser()
    if words and not words[0].startswith("-") and words[0] not in COMMANDS:
        parser.error(f"cot has no command '{words[0]}'{nearest(words[0], COMMANDS)}")
    # argparse takes `key=value` after an option for a stray word, see `_take_overrides`.
    options, rest = parser.parse_known_args(words)
    if options.command is None:
        parser.print_help()
        return 0
    _take_overrides(parser, options, rest)
    options.words = words
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # the user's own components and recipes, as with `tune run`
    quiet_imports()
    try:
        with nullcontext() if options.runs_config else only_known(getattr(options, "allow", ())):
            return options.run(options)
    except UserError as error:
        _say(str(error))
    except BrokenPipeError:  # `cot ls | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        _say(f"{error.filename or 'cannot write'}: {error.strerror or error}")
    return 2


def _say(sentence: str) -> None:
    said = one_line(without_secrets(sentence))
    if "RANK" in os.environ:  # one of several processes
        from cot_components.training.recipe import say

        return say(said)
    print(f"error: {said}", file=sys.stderr)
    return None


def _take_overrides(parser: Parser, options: argparse.Namespace, rest: list[str]) -> None:
    stray = [word for word in rest if not hasattr(options, "overrides") or word.startswith("-")]
    if stray:
        parser.error(f"cot {options.command} does not know '{stray[0]}'; see cot {options.command} --help")
    if rest:
        options.overrides = [*options.overrides, *rest]


def entry() -> NoReturn:
    """The console script."""
    raise SystemExit(main())


if __name__ == "__main__":
    entry()
