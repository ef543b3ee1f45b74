"""The tokenizer that most tests of data take."""

import pytest
from tiny_tokenizers import make_tokenizer


@pytest.fixture(scope="session")
def byte(tmp_path_factory):
    return make_tokenizer("byte", tmp_path_factory.mktemp("byte"))
