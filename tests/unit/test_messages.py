"""What bad input is answered with, word for word: `messages.txt` has the sentence of each case, one a line, in order.

All other tests assert the key and the kind of a fault alone, so a sentence is improved in one place; then
`python tests/unit/test_messages.py` writes the file again.
"""

import os
import sys
from pathlib import Path

import pytest

from cot_components.errors import UserError

FILE = Path(__file__).with_name("messages.txt")


def all_cases():
    from refused_input import COMMANDS, CONFIGS, DATA, EVALUATION, MODELS, RUNS
    from refused_settings import CURRICULUM, HUGGING_FACE, LOSSES, SELECTORS, TRAINABLE, TRANSFORMS

    return [
        *(*CONFIGS, *DATA, *MODELS, *TRAINABLE, *LOSSES, *TRANSFORMS, *SELECTORS, *CURRICULUM, *HUGGING_FACE),
        *(*EVALUATION, *RUNS, *COMMANDS),
    ]


def sentence(case, folder):
    """What a case is refused with; its folder is FOLDER."""
    try:
        case(folder)
    except UserError as error:
        return str(error).replace(str(folder), "FOLDER")
    pytest.fail(f"{case.__code__.co_filename}:{case.__code__.co_firstlineno} is not refused")


def test_bad_input_is_answered_with_these_sentences(tmp_path):
    found = []
    for number, case in enumerate(all_cases(), 1):
        (tmp_path / str(number)).mkdir()
        found.append(sentence(case, tmp_path / str(number)))
    if os.environ.get("WRITE_MESSAGES"):
        FILE.write_text("".join(f"{line}\n" for line in found), encoding="utf-8")
    assert found == FILE.read_text(encoding="utf-8").splitlines()
    assert len(found) > 200 and not any("\n" in line for line in found)


if __name__ == "__main__":
    os.environ["WRITE_MESSAGES"] = "1"
    sys.exit(pytest.main([__file__, "-q"]))
