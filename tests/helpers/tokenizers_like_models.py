"""Tokenizers of the kinds that published models have, learned from a few lines, as folders that `transformers` loads.

The lines make merges that cross the borders of tags, thoughts and turns.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

LINES = [
    "<think>\n12 + 7 = 19.</think>\n\nAnswer: 19\n",
    "<think>\n\nno thought\n</think>\n\n### 3.\n",
    "[INST] How many hens? [/INST] Three hens: 3 </s>",
    'assistant\n\n  two  blanks.\n\n\nuser\nQ: \'a\'?\n<tool_call>\n{"name": "count"}\n</tool_call>',
    "Today is 26 July 2024. Answer: <think>ok</think>the answer\n",
] * 8
SPECIAL = [
    *("<s>", "</s>", "<unk>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    *("<|im_start|>", "<|im_end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|end|>"),
]
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
GPT4 = WORDS + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
BLANK = "\u2581"


def _byte_level(*, nfc: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(GPT4), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        LINES, trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    )
    return tokenizer


def _sentencepiece(form: str) -> Tokenizer:
    """`form`: `legacy`, where a normalizer puts the blank, or a `prepend_scheme`."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(BLANK, "never" if form == "legacy" else form, split=True)
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=480, special_tokens=["<unk>", *bytes_], show_progress=False)
    tokenizer.train_from_iterator(LINES, trainer)
    rules = json.loads(tokenizer.to_str())
    rules["added_tokens"] = [token for token in rules["added_tokens"] if token["content"] == "<unk>"]
    if form == "legacy":
        rules["pre_tokenizer"] = None
    back = [decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer = Tokenizer.from_str(json.dumps(rules))
    tokenizer.decoder = decoders.Sequence(back)
    if form == "legacy":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(BLANK), normalizers.Replace(" ", BLANK)])
    return tokenizer


def _with_special(tokenizer: Tokenizer, *, ordinary: tuple[str, ...] = (), rstrip: bool = False) -> Tokenizer:
    flags = {"normalized": False, "special": True, "rstrip": rstrip}
    tokenizer.add_special_tokens([AddedToken(text, **flags) for text in SPECIAL])
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in ordinary])
    return tokenizer


def _normalized(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.add_tokens(
        [AddedToken("Answer:", normalized=True), AddedToken("hens", normalized=True, single_word=True)]
    )
    return _with_special(tokenizer)


MAKERS = {
    "llama3": lambda: _with_special(_byte_level(nfc=False)),
    "qwen3": lambda: _with_special(
        _byte_level(nfc=True), ordinary=("<think>", "</think>", "<tool_call>", "</tool_call>")
    ),
    "always": lambda: _with_special(_sentencepiece("always")),
    "first": lambda: _with_special(_sentencepiece("first")),
    "legacy": lambda: _with_special(_sentencepiece("legacy")),
    "swallows blanks": lambda: _with_special(_sentencepiece("legacy"), rstrip=True),
    "normalized tokens": lambda: _normalized(_sentencepiece("always")),
}


def write_like(kind: str, folder: Path, template: str | None = None) -> Path:
    """The folder of a tokenizer of that kind, with a chat template where one is given."""
    folder.mkdir(parents=True, exist_ok=True)
    MAKERS[kind]().save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder
