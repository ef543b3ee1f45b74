"""The ids that are trained on and evaluated are those that `transformers` makes of the same conversation: 500 random
ones here, 10,000 with HYPOTHESIS_PROFILE=nightly."""

import datetime
import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tally import count
from templates_for_tests import FAMILY
from tokenizers_like_models import MAKERS, write_like

from cot_components.data.bad_rows import RowError
from cot_components.data.read.formats import Message
from cot_components.data.rows.encode import EncodedRow, encode_in_one_go
from cot_components.data.rows.flat import is_supervised
from cot_components.data.text.chat import ChatFormat
from cot_components.data.text.segments import Tags, assistant_text
from cot_components.data.text.templates import DEFAULT_DATE, ChatTemplate
from cot_components.data.text.text_tokenizer import TextTokenizer
from cot_components.data.text.tokenizer_json import read_hf_tokenizer
from cot_components.models.think_tokens import with_tag_tokens, write_tag_tokens

MANY = settings(max_examples=max(500, settings.default.max_examples))


@functools.cache
def pair(kind: str, tags_as: str = "text") -> tuple[TextTokenizer, Any]:
    """Our tokenizer and that of `transformers` from the same folder, with the tags entered as an export does."""
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        ours = read_hf_tokenizer(write_like(kind, Path(folder)))
        if tags_as == "token":
            ours = with_tag_tokens(ours, Tags())
            write_tag_tokens(Path(folder), {tag: ours.control[tag] for tag in ("<think>", "</think>")})
        return ours, AutoTokenizer.from_pretrained(folder)


def their_messages(messages: Sequence[Message], format: ChatFormat) -> list[dict[str, str]]:
    """What a user would hand to `apply_chat_template`: thoughts beside where the template looks, else inside."""
    beside = format.template.reads_thoughts
    return [
        {"role": m.role, "content": m.content, "reasoning_content": m.thought}
        if m.thought is not None and beside
        else {"role": m.role, "content": assistant_text(m, Tags()) if m.role == "assistant" else m.content}
        for m in messages
    ]


class Theirs:
    """`transformers` on the day that our templates take for today."""

    def __init__(self, tokenizer: Any, source: str) -> None:
        self.tokenizer, self.source = tokenizer, source

    def render(self, messages: list[dict[str, str]], *, prompt: bool) -> str:
        day = datetime.datetime.fromisoformat(DEFAULT_DATE)
        return self.tokenizer.apply_chat_template(
            messages,
            chat_template=self.source.replace("strftime_now('%d %B %Y')", repr(day.strftime("%d %B %Y"))),
            tokenize=False,
            add_generation_prompt=prompt,
        )

    def ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


TEXTS = [
    "12 + 7 = 19.",
    "\n",
    "\n\n",
    "  two  blanks",
    "Answer: 3",
    "hens",
    "",
    " ",
    "é",
    "\u4f60\u597d",
    "'s",
    "### ",
    "?",
]
text = st.lists(st.sampled_from(TEXTS), max_size=4).map("".join)
said = text.map(lambda t: t if t.strip() else f"a{t}")
inside = st.tuples(text, said, st.sampled_from(["", "\n"])).map(
    lambda p: f"<think>{p[2]}{p[0]}{p[2]}</think>{p[2] * 2}{p[1]}"
)
answers = st.one_of(
    said.map(lambda t: Message("assistant", t)),
    inside.map(lambda t: Message("assistant", t)),
    st.tuples(text, said).map(lambda pair: Message("assistant", pair[1], thought=pair[0])),
)
asked = said.map(lambda t: Message("user", t))
exchanges = st.tuples(asked, answers).map(list)
loops = st.tuples(asked, answers, said.map(lambda t: Message("tool", t)), answers).map(list)
conversations = st.tuples(
    st.sampled_from([[], [Message("system", "Be brief.")]]),
    st.lists(st.one_of(exchanges, loops), min_size=1, max_size=3),
).map(lambda pair: [*pair[0], *(message for part in pair[1] for message in part)])


@MANY
@given(
    st.sampled_from(sorted(MAKERS)), st.sampled_from(["text", "token"]), st.sampled_from(sorted(FAMILY)), conversations
)
def test_ids_are_those_of_transformers(kind, tags_as, name, messages):
    count("inputs generated")
    ours, theirs = pair(kind, tags_as)
    check_conversation(
        ChatFormat(ours, ChatTemplate(name, FAMILY[name]), Tags()), Theirs(theirs, FAMILY[name]), messages
    )


def check_conversation(format: ChatFormat, theirs: Theirs, messages: Sequence[Message]) -> int:
    """Compare prompt and row of every turn; the number of rows that equal the encoding of the whole conversation."""
    format = ChatFormat(
        format.tokenizer, ChatTemplate("t", format.template.source, bos_token="<s>", eos_token="</s>"), format.tags
    )
    whole = 0
    for end, message in enumerate(messages):
        if message.role != "assistant":
            continue
        rendered = theirs.render(their_messages(messages[:end], format), prompt=True)
        prompt = theirs.ids(rendered)
        assert format.prompt_ids(messages[:end]) == prompt
        try:
            turn = format.turn(messages[: end + 1])
            (row,) = encode_in_one_go([turn], format.tokenizer)
        except RowError:
            continue
        if isinstance(row, RowError):
            continue
        assert row.tokens[: len(prompt)].tolist() == prompt
        assert is_supervised(row.roles[len(prompt) :]).all()
        whole += check_whole(row, prompt, rendered, theirs, their_messages(messages[: end + 1], format))
    return whole


def check_whole(
    row: EncodedRow, prompt: list[int], rendered: str, theirs: Theirs, messages: list[dict[str, str]]
) -> bool:
    """Whether the template writes the answer behind the prompt and no token crosses the border: then the row must be
    the beginning of the whole conversation's ids."""
    full = theirs.render(messages, prompt=False)
    ids = theirs.ids(full)
    if not full.startswith(rendered) or ids[: len(prompt)] != prompt:
        return False
    if "</think>" in assistant(messages[-1]) and "</think>" not in full[len(rendered) :]:
        return False  # a template that takes the thought out
    assert row.tokens.tolist() in (ids[: len(row.tokens)], [*ids, theirs.tokenizer.eos_token_id])
    return True


def assistant(message: dict[str, str]) -> str:
    return message["content"] + ("</think>" if "reasoning_content" in message else "")


TOOL_LOOP = [
    Message("user", "How many hens?"),
    Message(
        "assistant", '<tool_call>\n{"name": "count", "arguments": {}}\n</tool_call>', thought="ask.", calls="tagged"
    ),
    Message("tool", "3"),
    Message("assistant", "Answer: 3", thought="It lists 3."),
]


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("tags_as", ["text", "token"])
def test_every_template_of_the_family_on_a_tool_loop(kind, tags_as):
    ours, theirs = pair(kind, tags_as)
    whole = 0
    for name, source in FAMILY.items():
        whole += check_conversation(
            ChatFormat(ours, ChatTemplate(name, source), Tags()), Theirs(theirs, source), TOOL_LOOP
        )
    assert whole > 60
