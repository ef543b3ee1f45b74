"""GPT-2's tokenizer from its original files, and a compact one for models trained from scratch on arithmetic.

Both end up as a folder with `tokenizer.json`, the layout that `hf_tokenizer` and `transformers.AutoTokenizer` read.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from cot_components.data.text.tokenizer_json import read_hf_tokenizer
from cot_components.errors import UserError
from cot_components.models.tokenizers import HFTokenizer, hf_tokenizer

END_OF_TEXT = "<|endoftext|>"
ORIGINAL_FILES = (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"))
"""Vocabulary and merges under OpenAI's names, and the same two files under Hugging Face's."""

SPACE = "\u0120"
"""How byte-level vocabularies write a blank."""

COMPACT_SYMBOLS = "0123456789+-*/=().,%$<>|:?"
"""Each is one token with and without a preceding blank, so a number is a sequence of digit tokens."""

COMPACT_RUNS = ("##", "####", SPACE + "####", "<<", SPACE + "<<", ">>", "||")


def gpt2_tokenizer(path: str) -> HFTokenizer:
    """GPT-2's byte-level BPE with `<|endoftext|>` as begin, end and padding token.

    Args:
        path: folder with `tokenizer.json`, or `encoder.json` and `vocab.bpe`, or `vocab.json` and `merges.txt`.

    Raises:
        UserError: none of them exists, or they cannot be read.
    """
    if (Path(path).expanduser() / "tokenizer.json").is_file():
        return HFTokenizer(read_hf_tokenizer(path, end_of_text=END_OF_TEXT))
    return _in_memory(_from_original_files(Path(path).expanduser()))


def compact_tokenizer() -> HFTokenizer:
    """A byte-level tokenizer of 290 ids for arithmetic: digits and symbols are single tokens, any other text is bytes.

    Splits multiplication rows where GPT-2's tokenizer does, except that ` ####` is one token instead of two.
    """
    return _in_memory(_build_compact())


def _from_original_files(folder: Path) -> Tokenizer:
    for vocabulary_name, merges_name in ORIGINAL_FILES:
        vocabulary, merges = folder / vocabulary_name, folder / merges_name
        if vocabulary.is_file() and merges.is_file():
            try:
                return _byte_level(*models.BPE.read_file(str(vocabulary), str(merges)))
            except Exception as error:  # the library raises bare Exception
                raise UserError(f"{folder}: {vocabulary_name} and {merges_name} cannot be read: {error}") from error
    wanted = " nor ".join(f"{a} with {b}" for a, b in ORIGINAL_FILES)
    raise UserError(f"{folder}: neither tokenizer.json nor {wanted}")


def _build_compact() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = []
    for run in COMPACT_RUNS:
        cut = 1 if run.startswith(SPACE) else len(run) // 2
        merges.append((run[:cut], run[cut:]))
    merges += [(SPACE, symbol) for symbol in COMPACT_SYMBOLS]  # last: ` <<` is one token, not ` <` and `<`
    pieces = [*alphabet, *(left + right for left, right in merges)]
    return _byte_level({piece: i for i, piece in enumerate(pieces)}, merges)


def _byte_level(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    return tokenizer


def _write(tokenizer: Tokenizer, folder: Path) -> Path:
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return folder


def _in_memory(tokenizer: Tokenizer) -> HFTokenizer:
    with tempfile.TemporaryDirectory() as name:
        folder = _write(tokenizer, Path(name))
        made = hf_tokenizer(str(folder))
        made.files = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}
    return made
