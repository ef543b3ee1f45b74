"""A tokenizer of every kind, small enough to build in a test: written by hand, or learned from a few lines."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from cot_components.data.generated.byte_tokenizer import write_byte_tokenizer
from cot_components.data.text.text_tokenizer import TextTokenizer
from cot_components.data.text.tokenizer_json import read_hf_tokenizer
from cot_components.models.tokenizers import HFTokenizer

MERGES = ["t h", "th e", "\u0120 a", "i n", "\u010a \u010a", "1 2"]
CHATML_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def byte_symbols() -> list[str]:
    """GPT-2's printable stand-in for each byte."""
    from torchtune.models.qwen2._tokenizer import bytes_to_unicode

    return [bytes_to_unicode()[i] for i in range(256)]


def added_token(token_id: int, text: str, *, special: bool = True) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token_id, "content": text, **flags, "special": special}


def write_folder(folder: Path, rules: dict[str, Any], **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(rules), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def qwen_rules(*ordinary: str) -> dict[str, Any]:
    """A byte-level tokenizer.json with NFC, ChatML tokens, and ordinary added tokens such as `<tool_call>`."""
    pieces = [*byte_symbols(), *(merge.replace(" ", "") for merge in MERGES)]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True}
    special = [added_token(len(pieces) + i, text) for i, text in enumerate(CHATML_TOKENS)]
    others = [added_token(len(pieces) + 3 + i, text, special=False) for i, text in enumerate(ordinary)]
    return {
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0},
        "padding": None,
        "added_tokens": [*special, *others],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": byte_level,
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": {piece: i for i, piece in enumerate(pieces)}, "merges": MERGES},
    }


def sentencepiece_rules(*, legacy: bool) -> dict[str, Any]:
    """As Llama-2 (`legacy`: the space before a text comes from a normalizer) and as Mistral (from Metaspace)."""
    space = "\u2581"
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    pieces = ["<unk>", "<s>", "</s>", *bytes_, space, *"abcdefghijklmnopqrstuvwxyz<>/", "t" + "h", space + "t"]
    prepend = [{"type": "Prepend", "prepend": space}, {"type": "Replace", "pattern": {"String": " "}, "content": space}]
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    back = {"type": "Replace", "pattern": {"String": space}, "content": " "}
    metaspace = {"type": "Metaspace", "replacement": space, "prepend_scheme": "always", "split": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added_token(i, text) for i, text in enumerate(pieces[:3])],
        "normalizer": {"type": "Sequence", "normalizers": prepend} if legacy else None,
        "pre_tokenizer": None if legacy else metaspace,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, strip],
        },
        "model": {
            "type": "BPE",
            "byte_fallback": True,
            "fuse_unk": True,
            "unk_token": "<unk>",
            "vocab": {piece: i for i, piece in enumerate(pieces)},
            "merges": ["t h", f"{space} t"],
        },
    }


def llama3_model(folder: Path) -> Path:
    """Ranks for torchtune's Llama3Tokenizer: the 2,000 of `COT_SHARED_DATA`, or all bytes and a few merges."""
    if shared := os.environ.get("COT_SHARED_DATA"):
        return Path(shared) / "tok_small/tiktoken_small.model"
    pieces = [*(bytes([i]) for i in range(256)), b"th", b"the", b" t", b"in", b"\n\n"]
    path = folder / "tokenizer.model"
    path.write_bytes(b"".join(base64.b64encode(piece) + f" {rank}\n".encode() for rank, piece in enumerate(pieces)))
    return path


def llama3(folder: Path) -> Any:
    """torchtune's Llama-3 tokenizer: special ids from 128000 on, whatever the number of ranks."""
    from torchtune.models.llama3 import Llama3Tokenizer

    return Llama3Tokenizer(str(llama3_model(folder)))


def qwen2_5(folder: Path) -> Any:
    """torchtune's Qwen2.5 tokenizer: special ids from 151643 on."""
    from torchtune.models.qwen2_5 import qwen2_5_tokenizer

    rules = qwen_rules()["model"]
    (folder / "vocab.json").write_text(json.dumps(rules["vocab"]), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES), encoding="utf-8")
    return qwen2_5_tokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))


def _torchtune(make: Callable[[Path], Any]) -> Callable[[Path], TextTokenizer]:
    def read(folder: Path) -> TextTokenizer:
        from cot_components.models.tokenizers import as_text_tokenizer

        return as_text_tokenizer(make(folder))

    return read


def _hf(rules: dict[str, Any], **config: Any) -> Callable[[Path], TextTokenizer]:
    return lambda folder: read_hf_tokenizer(write_folder(folder, rules, **config))


CHATML = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
SPACED = {"bos_token": "<s>", "eos_token": {"content": "</s>"}}
KINDS: dict[str, Callable[[Path], TextTokenizer]] = {
    "byte": lambda folder: read_hf_tokenizer(write_byte_tokenizer(folder)),
    "hf_qwen": _hf(qwen_rules("<tool_call>", "</tool_call>"), **CHATML),
    "hf_qwen3": _hf(qwen_rules("<tool_call>", "</tool_call>", "<think>", "</think>"), **CHATML),
    "hf_llama2": _hf(sentencepiece_rules(legacy=True), **SPACED),
    "hf_mistral": _hf(sentencepiece_rules(legacy=False), **SPACED),
    "llama3": _torchtune(llama3),
    "qwen2_5": _torchtune(qwen2_5),
}
"""Folder to write into -> tokenizer."""


def make_tokenizer(kind: str, folder: Path) -> TextTokenizer:
    folder.mkdir(parents=True, exist_ok=True)
    return KINDS[kind](folder)


def gpt2_originals(folder: Path, corpus: Sequence[str] = ()) -> Path:
    """`encoder.json` and `vocab.bpe`: those of `COT_SHARED_DATA`, or a small vocabulary learned from a corpus."""
    if shared := os.environ.get("COT_SHARED_DATA"):
        return Path(shared) / "tok_gpt2"
    folder.mkdir(parents=True, exist_ok=True)
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>"],
        show_progress=False,
    )
    learner.train_from_iterator([*corpus, *corpus, *corpus, *[" 0 1 2 3 4 5 6 7 8 9 + ( ) *"] * 50], trainer)
    vocab, merges = learner.model.save(str(folder))
    Path(vocab).rename(folder / "encoder.json")
    Path(merges).rename(folder / "vocab.bpe")
    return folder


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


def write_files(tokenizer: HFTokenizer, folder: Path) -> Path:
    """The folder that an export writes for a tokenizer made in memory."""
    folder.mkdir()
    for name, text in tokenizer.files.items():
        (folder / name).write_text(text)
    return folder
