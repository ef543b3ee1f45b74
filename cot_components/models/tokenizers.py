"""torchtune tokenizers: one for any Hugging Face `tokenizer.json`, and all of them as a `TextTokenizer`."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial, singledispatch
from typing import Any

import numpy as np
from torchtune.data import Message, truncate
from torchtune.models.llama3 import Llama3Tokenizer
from torchtune.models.qwen2_5._tokenizer import Qwen2_5Tokenizer
from torchtune.modules.transforms import Transform
from torchtune.modules.transforms.tokenizers import ModelTokenizer

from cot_components.data.bad_rows import RowError
from cot_components.data.text.templates import BUILT_IN, Shield, load_template
from cot_components.data.text.text_tokenizer import TextTokenizer
from cot_components.data.text.tokenizer_json import read_hf_tokenizer
from cot_components.errors import UserError

# Ordinary vocabulary in Qwen2.5's own tokenizer.json ("special": false); torchtune's table does not distinguish them.
QWEN_ORDINARY = ("<tool_call>", "</tool_call>")

# torchtune splits texts of 400,000 characters and runs of 25,000 letters or blanks before passing them to tiktoken.
LONG_RUN = 20_000
RUN = re.compile(rf"\S{{{LONG_RUN}}}|\s{{{LONG_RUN}}}|[\s\S]{{400000}}")


class HFTokenizer(ModelTokenizer, Transform):
    """A Hugging Face tokenizer behind torchtune's `ModelTokenizer`; its chat template renders the conversations.

    text:  the same tokenizer, with the same template, for our own components
    files: name -> content of its files, if it was made in memory without a folder
    """

    def __init__(
        self,
        text: TextTokenizer,
        *,
        template: str | None = None,
        max_seq_len: int | None = None,
        date: str | None = None,
    ) -> None:
        self._template = load_template(template, text, date=date) if template or text.chat_template else None
        self.text = replace(text, chat_template=self._template.source) if self._template else text
        self.files: dict[str, str] = {}
        self.max_seq_len = max_seq_len
        self.special_tokens = dict(text.control)
        self.bos_id, self.eos_id, self.pad_id = text.bos_id, text.eos_id, text.pad_id
        self.stop_tokens = list(text.stop_ids)

    @property
    def vocab_size(self) -> int:
        return self.text.vocab_size

    def encode(self, text: str, add_bos: bool = True, add_eos: bool = True) -> list[int]:
        """Ids of plain text, with begin and end tokens if requested and if the tokenizer has them."""
        bos = [self.bos_id] if add_bos and self.bos_id is not None else []
        eos = [self.eos_id] if add_eos and self.eos_id is not None else []
        return bos + self.text.encode_text(text) + eos

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text of ids; control tokens are spelled out only on request."""
        ids = token_ids if not skip_special_tokens else [i for i in token_ids if i not in self.text.control_texts]
        return self.text.decode(ids)

    def tokenize_messages(
        self, messages: list[Message], *, add_end_tokens: bool = True
    ) -> tuple[list[int], list[bool]]:
        """Ids of the rendered conversation, and for each id whether its message is masked, as stock recipes expect.

        `add_end_tokens=False` writes the prompt of the assistant's next turn instead of a finished conversation.
        Raises UserError for a template that writes earlier messages differently once later ones follow.
        """
        if self._template is None:
            raise UserError(
                f"the tokenizer has no chat template; set template to one of {', '.join(BUILT_IN)} or to a path"
            )
        shield = Shield([m.text_content for m in messages], self.text.control_pattern)
        turns = [{"role": m.role, "content": shield.hide(m.text_content)} for m in messages]
        contents: list[str | int] = []
        ends, written = [], ""
        for i in range(len(messages)):
            opens_answer = not add_end_tokens and i == len(messages) - 1
            rendered = self._template.render(turns[: i + 1], add_generation_prompt=opens_answer)
            if not rendered.startswith(written):
                raise UserError(
                    "the chat template rewrites earlier messages; its conversations cannot be masked by message"
                )
            contents += self._contents(rendered[len(written) :], shield)
            ends.append(len(self.text.joined(contents)))
            written = rendered
        (encoded,) = self.text.encode_contents([contents])
        tokens = encoded.ids
        owners = np.minimum(np.searchsorted(ends, encoded.starts, side="right"), len(messages) - 1)
        mask = [messages[owner].masked for owner in owners]
        if self.max_seq_len is not None:
            eos = self.eos_id if add_end_tokens else None
            tokens, mask = truncate(tokens, self.max_seq_len, eos), truncate(mask, self.max_seq_len, None)
        return tokens, mask

    def __call__(self, sample: Mapping[str, Any], inference: bool = False) -> dict[str, Any]:
        """The sample with `tokens` and `mask` instead of `messages`."""
        rest = {key: value for key, value in sample.items() if key != "messages"}
        tokens, mask = self.tokenize_messages(sample["messages"], add_end_tokens=not inference)
        return {**rest, "tokens": tokens, "mask": mask}

    def _contents(self, text: str, shield: Shield) -> list[str | int]:
        pieces = self.text.control_pattern.split(text)
        control = self.text.control
        return [control[piece] if n % 2 else shield.restore(piece) for n, piece in enumerate(pieces)]


def hf_tokenizer(
    path: str, *, template: str | None = None, max_seq_len: int | None = None, date: str | None = None
) -> HFTokenizer:
    """Tokenizer of a model folder with the folder's chat template, or with `template` (a name or a path).

    `date` is the template's current date, see `load_template`; our own data sets set it with their own key.

    Raises UserError if the folder has no tokenizer.json, or an unreadable one.
    """
    return HFTokenizer(read_hf_tokenizer(path), template=template, max_seq_len=max_seq_len, date=date)


@singledispatch
def as_text_tokenizer(tokenizer: object) -> TextTokenizer:
    """A torchtune tokenizer as our components use it. Raises UserError for an unknown kind."""
    raise UserError(
        f"tokenizers of type {type(tokenizer).__name__} are not supported; use cot_components.models.hf_tokenizer"
    )


@as_text_tokenizer.register
def _(tokenizer: HFTokenizer) -> TextTokenizer:
    return tokenizer.text


@as_text_tokenizer.register
def _(tokenizer: Llama3Tokenizer) -> TextTokenizer:
    encoding = tokenizer.tt_model.tt_model
    # `<|image|>` has id 128256 in torchtune's table, one more than the models with this vocabulary have.
    control = {text: i for text, i in tokenizer.special_tokens.items() if text != "<|image|>"}
    ranks = sorted(encoding._mergeable_ranks.items())
    return TextTokenizer(
        encode_plain=partial(_encode_tiktoken, tokenizer),
        decode_plain=encoding.decode,
        control=control,
        added_tokens=control,
        bos_id=tokenizer.bos_id,
        eos_id=tokenizer.eos_id,
        pad_id=tokenizer.pad_id,
        stop_ids=tuple(tokenizer.stop_tokens),
        vocab_size=1 + max(*(rank for _, rank in ranks), *control.values()),
        content_hash=_sha256(encoding._pat_str, [(piece.hex(), rank) for piece, rank in ranks]),
        chat_template=BUILT_IN["llama3"],
        token_bytes=encoding.decode_single_token_bytes,
    )


@as_text_tokenizer.register
def _(tokenizer: Qwen2_5Tokenizer) -> TextTokenizer:
    added = dict(tokenizer.special_tokens)
    return TextTokenizer(
        encode_plain=partial(_encode_qwen, tokenizer),
        decode_plain=tokenizer.decode,
        control={text: i for text, i in added.items() if text not in QWEN_ORDINARY},
        added_tokens=added,
        bos_id=tokenizer.bos_id,
        eos_id=tokenizer.eos_id,
        pad_id=tokenizer.pad_id,
        stop_ids=tuple(sorted({tokenizer.eos_id, tokenizer.pad_id})),
        vocab_size=1 + max(*tokenizer.encoder.values(), *added.values()),
        content_hash=_sha256(sorted(tokenizer.encoder.items()), [" ".join(merge) for merge in tokenizer.bpe_ranks]),
        chat_template=BUILT_IN["chatml"],
        token_bytes=partial(_qwen_bytes, tokenizer),
    )


def _encode_tiktoken(tokenizer: Llama3Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """The result of `tokenizer.encode`, without its per-character check of texts that are far below its limits."""
    if any(len(text) > LONG_RUN and RUN.search(text) for text in texts):
        return [tokenizer.encode(text, add_bos=False, add_eos=False) for text in texts]
    return tokenizer.tt_model.tt_model.encode_ordinary_batch(list(texts))


def _encode_qwen(tokenizer: Qwen2_5Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    rows = [tokenizer.encode(text, add_bos=False, add_eos=False) for text in texts]
    if any(None in row for row in rows):
        raise RowError("a text has characters that are not in the vocabulary")
    return rows


def _qwen_bytes(tokenizer: Qwen2_5Tokenizer, token_id: int) -> bytes:
    text = tokenizer._convert_id_to_token(token_id)
    return text.encode() if text in tokenizer.special_tokens else bytes(tokenizer.byte_decoder[c] for c in text)


def _sha256(*facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
