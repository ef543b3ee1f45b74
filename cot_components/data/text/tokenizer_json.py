"""A Hugging Face `tokenizer.json` as a `TextTokenizer`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from cot_components.data.text.templates import read_json, read_template
from cot_components.data.text.text_tokenizer import Encoded, EncodeTexts, TextTokenizer
from cot_components.errors import GET_IT, UserError

NAMED = ("bos_token", "eos_token", "pad_token")


def read_hf_tokenizer(path: str | Path, *, end_of_text: str | None = None) -> TextTokenizer:
    """Tokenizer of a model folder (or of one `tokenizer.json`), with special tokens and chat template from the files
    next to it.

    Control tokens are the added tokens that the file calls special; the others, such as `<tool_call>`, are vocabulary.
    If neither tokenizer_config.json nor special_tokens_map.json names a begin or end token, `end_of_text` is used;
    without that, the end token is the stop token of generation_config.json. Raises UserError if there is no
    tokenizer.json, or if it or a file next to it cannot be read.
    """
    file = Path(path).expanduser()
    file = file / "tokenizer.json" if file.is_dir() else file
    if not file.is_file():
        raise UserError(f"tokenizer path {str(path)!r} holds no tokenizer.json ({GET_IT})")
    try:
        rules = json.loads(file.read_text(encoding="utf-8"))
        library = Tokenizer.from_str(json.dumps(_for_pieces(rules)))
        Tokenizer.from_str(json.dumps(_uncut(rules)))
    except Exception as error:  # the library raises bare Exception
        raise UserError(f"{file} is not a tokenizer.json: {error}") from error
    config, older = (_named_tokens(file.parent / f"{name}.json") for name in ("tokenizer_config", "special_tokens_map"))
    config = {"bos_token": end_of_text, "eos_token": end_of_text, **older, **config}
    added = {token["content"]: token["id"] for token in rules.get("added_tokens", [])}
    bos, eos, pad = (library.token_to_id(text) if text is not None else None for text in map(config.get, NAMED))
    stop_ids = {i for i in (eos, *_stop_ids(file.parent / "generation_config.json")) if i is not None}
    control = {token["content"]: token["id"] for token in rules.get("added_tokens", []) if token["special"]}
    named = {config[name]: i for name, i in zip(NAMED, (bos, eos, pad), strict=True) if i is not None}
    control |= {text: i for text, i in named.items() if text is not None}
    if eos is None and len(stop_ids) == 1 and stop_ids <= set(control.values()):
        (eos,) = stop_ids
    return TextTokenizer(
        encode_plain=lambda texts: [e.ids for e in library.encode_batch_fast(list(texts), add_special_tokens=False)],
        decode_plain=lambda ids: library.decode(list(ids), skip_special_tokens=False),
        control=control,
        added_tokens=added,
        bos_id=bos,
        eos_id=eos,
        pad_id=next((i for i in (pad, eos) if i is not None), 0),
        stop_ids=tuple(sorted(stop_ids)),
        vocab_size=1 + max(library.get_vocab(with_added_tokens=True).values()),
        content_hash=hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest(),
        chat_template=read_template(file.parent),
        places=partial(_places, rules),
        id_of=library.token_to_id,
    )


def _places(rules: dict[str, Any], control: Mapping[str, int], inside: bool) -> EncodeTexts:
    """The library with these control tokens, see `TextTokenizer.places`, including those whose ids are not the
    file's."""
    library = Tokenizer.from_str(json.dumps(_for_pieces(rules) if inside else _with_tokens(_uncut(rules), control)))
    theirs = {} if inside else {library.token_to_id(text): i for text, i in control.items()}
    ours = {found: i for found, i in theirs.items() if found != i}

    def encode(texts: Sequence[str]) -> list[Encoded]:
        results = []
        for found in library.encode_batch(list(texts), add_special_tokens=False):
            ids = [ours.get(i, i) for i in found.ids] if ours else found.ids
            starts, ends = zip(*found.offsets, strict=True) if ids else ((), ())
            results.append(Encoded(ids, list(starts), list(ends)))
        return results

    return encode


def _uncut(rules: dict[str, Any]) -> dict[str, Any]:
    return {**rules, "truncation": None, "padding": None}


def _with_tokens(rules: dict[str, Any], control: Mapping[str, int]) -> dict[str, Any]:
    """The rules with every control token as an added token; a reserved token with the same id gets its text."""
    added = rules.get("added_tokens", [])
    new = {i: text for text, i in control.items() if text not in {token["content"] for token in added}}
    renamed = [{**token, **new_token(new.pop(token["id"]))} if token["id"] in new else token for token in added]
    return {**rules, "added_tokens": [*renamed, *({"id": i, **new_token(new[i])} for i in sorted(new))]}


def new_token(text: str) -> dict[str, Any]:
    """An added token without an id: not special, so that `decode(skip_special_tokens=True)` keeps it."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return {"content": text, **flags}


def _for_pieces(rules: dict[str, Any]) -> dict[str, Any]:
    """The rules of a tokenizer.json without truncation, padding, and anything that adds to or strips the ends of a
    text.

    SentencePiece models put a space before a text and strip it when decoding; this must not happen to the pieces in
    which a row is encoded.
    """
    parts = {key: _keep_ends(rules.get(key)) for key in ("normalizer", "pre_tokenizer", "decoder")}
    return {**rules, **parts, "truncation": None, "padding": None}


def _keep_ends(node: Any) -> Any:
    if isinstance(node, list):
        return [_keep_ends(child) for child in node if not _edits_ends(child)]
    if not isinstance(node, dict):
        return node
    if _edits_ends(node):
        return None
    never: dict[str, dict[str, Any]] = {
        "Metaspace": {"prepend_scheme": "never"},
        "ByteLevel": {"add_prefix_space": False},
    }
    return {**{key: _keep_ends(child) for key, child in node.items()}, **never.get(node.get("type", ""), {})}


def _edits_ends(node: Any) -> bool:
    return isinstance(node, dict) and node.get("type") in ("Prepend", "Strip")


def _named_tokens(file: Path) -> dict[str, str | None]:
    """The special tokens that a file names, each by its text or by an object that holds it; null means none."""
    content = read_json(file)
    found = {key: content[key] for key in NAMED if key in content}
    texts = {key: token.get("content", token) if isinstance(token, dict) else token for key, token in found.items()}
    for key, text in texts.items():
        if not isinstance(text, str | None):
            raise UserError(f"{file}: {key} must be text, or an object whose content is text, got {found[key]!r}")
    return texts


def _stop_ids(file: Path) -> list[int | None]:
    stop = read_json(file).get("eos_token_id")
    ids = stop if isinstance(stop, list) else [stop]
    if not all(isinstance(i, int | None) for i in ids):
        raise UserError(f"{file}: eos_token_id must be a number or a list of numbers, got {stop!r}")
    return ids
