"""Silences start-up warnings; cheap to import, so that it can come before any heavy import."""

from __future__ import annotations

import io
import logging
import sys
import warnings


def quiet_imports() -> None:
    """Silence the warnings of torchtune 0.6.1 and torchao 0.15 about newer torch versions; users cannot act on them."""
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.*")
    warnings.filterwarnings("ignore", category=UserWarning, module="torch.*")
    logging.getLogger("torchao").setLevel(logging.ERROR)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 must not end a run
