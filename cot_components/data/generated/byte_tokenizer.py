"""A byte-level BPE tokenizer of 384 ids, built in code, as a folder that `transformers.AutoTokenizer` loads.

Every text has an encoding and decodes to itself. Id `b` below 256 is the byte `b`; then come the merges, learned from
the embedded tasks, then the control tokens. All but the rarest numbers in the tasks are single tokens, because a model
this small memorises sums.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from cot_components.data.generated.tasks import make_problems

NUM_MERGES = 118
PAD, END = "<|pad|>", "<|end|>"
CONTROL_TOKENS = (
    PAD,
    END,
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|tool|>",
    *(f"<|reserved_{i}|>" for i in range(4)),
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def _byte_symbols() -> list[str]:
    """The printable symbol of each byte, in byte order: GPT-2's table, which the library does not expose.

    Printable bytes are themselves; the others get code points from 256 up.
    """
    prints = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    spare = iter(range(256, 512))
    return [chr(byte if byte in prints else next(spare)) for byte in range(256)]


def _split_words() -> pre_tokenizers.PreTokenizer:
    """Words, numbers and runs of punctuation, each with the space before it, and runs of white space; no merge crosses
    them."""
    pattern = Regex(r" ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+")
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Split(pattern, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )


@functools.cache
def _learn_merges() -> tuple[tuple[str, str], ...]:
    """The `NUM_MERGES` most frequent merges of 600 training problems, most frequent first."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = _split_words()
    trainer = trainers.BpeTrainer(
        vocab_size=256 + NUM_MERGES, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    problems = make_problems(split="train", count=600)
    learner.train_from_iterator([f"{p.question}\n{p.response}" for p in problems], trainer)
    return tuple((left, right) for left, right in json.loads(learner.to_str())["model"]["merges"])


def build_byte_tokenizer() -> Tokenizer:
    """The tokenizer as an object of the `tokenizers` library; the same on every machine."""
    merges = list(_learn_merges())
    pieces = [*_byte_symbols(), *(left + right for left, right in merges)]
    tokenizer = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges))
    tokenizer.pre_tokenizer = _split_words()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in CONTROL_TOKENS])
    return tokenizer


def write_byte_tokenizer(folder: str | Path) -> Path:
    """Write `tokenizer.json` and `tokenizer_config.json` (chat template, end and pad token); returns the folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    build_byte_tokenizer().save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": CHAT_TEMPLATE,
        "eos_token": END,
        "pad_token": PAD,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1024,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return folder
