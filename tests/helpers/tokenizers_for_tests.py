"""A tokenizer of every kind, small enough to build in a test."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

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


def write_files(tokenizer: HFTokenizer, folder: Path) -> Path:
    """The folder that an export writes for a tokenizer made in memory."""
    folder.mkdir()
    for name, text in tokenizer.files.items():
        (folder / name).write_text(text)
    return folder
