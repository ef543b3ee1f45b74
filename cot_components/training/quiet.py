"""Silence at start-up; light, so that it can come before any heavy import."""

from __future__ import annotations

import io
import logging
import sys
import warnings


def quiet_imports() -> None:
    """Silence what torchtune 0.6.1 and torchao 0.15 say about newer torch at every start; nothing a user can act on."""
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.*")
    warnings.filterwarnings("ignore", category=UserWarning, module="torch.*")
    logging.getLogger("torchao").setLevel(logging.ERROR)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 is not a reason to end a run
