"""Runs one after another in the processes of one `torchrun`, which start once: torchrun in_sequence.py JOBS.json

Each job is a recipe and its arguments. A run ends its process group; the next one meets at a port of its own.
"""

import importlib
import json
import os
import sys
from pathlib import Path

import cot_components.training.recipe as recipe


def main(path: str) -> None:
    recipe._leave = lambda: None  # which would end the process
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"  # it still holds what the run before has written
    for port, words in json.loads(Path(path).read_text()):
        os.environ["MASTER_PORT"] = str(port)
        sys.argv = words
        importlib.import_module(words[0]).main()


if __name__ == "__main__":
    main(sys.argv[1])
