"""Imports `transformers` when needed, without its progress bars and messages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cot_components.errors import UserError

INSTALL = "pip install 'cot-components[hf]'"


def library() -> Any:
    """The package.

    Raises:
        UserError: it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise UserError(f"the package transformers is needed, but not installed; {INSTALL}") from error
    return transformers


@contextmanager
def silent() -> Iterator[Any]:
    """`transformers` without progress bars and messages; we report what matters in one sentence."""
    package = library()
    logging = package.utils.logging
    level, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield package
    finally:
        logging.set_verbosity(level)
        if has_bars:
            logging.enable_progress_bar()


def reason(error: Exception) -> str:
    """The first line of a third-party error's message, in a form that can end a sentence."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".:")
