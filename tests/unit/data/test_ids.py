"""The ids that are trained on and evaluated are those that `transformers` makes of the same conversation: 500 random
ones here, 10,000 with HYPOTHESIS_PROFILE=nightly."""

import datetime
import functools
import tempfile
from pathlib import Path

import pytest
from chats import FAMILY
from hypothesis import given, settings
from hypothesis import strategies as st
from tally import count
from tiny_tokenizers import MAKERS, write_like
from transformers import AutoTokenizer

from cot_components.data.bad_rows import RowError
from cot_components.data.read.formats import Message
from cot_components.data.rows.encode import encode_in_one_go
from cot_components.data.rows.flat import is_supervised
from cot_components.data.text.chat import ChatFormat
from cot_components.data.text.segments import Tags, assistant_text
from cot_components.data.text.templates import DEFAULT_DATE, ChatTemplate
from cot_components.data.text.tokenizer_json import read_hf_tokenizer
from cot_components.models.think_tokens import with_tag_tokens, write_tag_tokens

MANY = settings(max_examples=max(500, settings.default.max_examples))


@functools.cache
def pair(kind, tags_as):
    """Our tokenizer and that of `transformers` from the same folder, with the tags entered as an export does."""
    with tempfile.TemporaryDirectory() as folder:
        ours = read_hf_tokenizer(write_like(kind, Path(folder)))
        if tags_as == "token":
            ours = with_tag_tokens(ours, Tags())
            write_tag_tokens(Path(folder), {tag: ours.control[tag] for tag in ("<think>", "</think>")})
        return ours, AutoTokenizer.from_pretrained(folder)


class Theirs:
    """`transformers` on the day that our templates take for today."""

    def __init__(self, tokenizer, source, reads_thoughts):
        day = datetime.datetime.fromisoformat(DEFAULT_DATE).strftime("%d %B %Y")
        self.source = source.replace("strftime_now('%d %B %Y')", repr(day))
        self.tokenizer, self.reads_thoughts = tokenizer, reads_thoughts

    def message(self, m):
        """What a user would hand to `apply_chat_template`: thoughts beside where the template looks, else inside."""
        if m.thought is not None and self.reads_thoughts:
            return {"role": m.role, "content": m.content, "reasoning_content": m.thought}
        return {"role": m.role, "content": assistant_text(m, Tags()) if m.role == "assistant" else m.content}

    def render(self, messages, *, prompt):
        options = {"chat_template": self.source, "tokenize": False, "add_generation_prompt": prompt}
        return self.tokenizer.apply_chat_template(list(map(self.message, messages)), **options)

    def ids(self, text):
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


TEXTS = ["12 + 7 = 19.", "\n", "\n\n", "  two  blanks", "Answer: 3", "hens", "", " ", "é", "\u4f60\u597d", "'s", "?"]
TEXTS.append("### ")
text = st.lists(st.sampled_from(TEXTS), max_size=4).map("".join)
said = text.map(lambda t: t if t.strip() else f"a{t}")
inside = st.tuples(text, said, st.sampled_from(["", "\n"])).map(
    lambda p: f"<think>{p[2]}{p[0]}{p[2]}</think>{p[2] * 2}{p[1]}"
)
answers = (said | inside).map(lambda t: Message("assistant", t)) | st.tuples(text, said).map(
    lambda pair: Message("assistant", pair[1], thought=pair[0])
)
asked, told = (said.map(functools.partial(Message, role)) for role in ("user", "tool"))
exchanges = st.tuples(asked, answers) | st.tuples(asked, answers, told, answers)
conversations = st.tuples(
    st.sampled_from([[], [Message("system", "Be brief.")]]), st.lists(exchanges, min_size=1, max_size=3)
).map(lambda pair: [*pair[0], *(message for part in pair[1] for message in part)])


@MANY
@given(*(st.sampled_from(sorted(names)) for names in (MAKERS, ["text", "token"], FAMILY)), conversations)
def test_ids_are_those_of_transformers(kind, tags_as, name, messages):
    count("inputs generated")
    check_conversation(kind, tags_as, FAMILY[name], messages)


def check_conversation(kind, tags_as, source, messages):
    """Compare prompt and row of every turn; the number of rows that equal the encoding of the whole conversation."""
    ours, theirs = pair(kind, tags_as)
    format = ChatFormat(ours, ChatTemplate("t", source, bos_token="<s>", eos_token="</s>"), Tags())
    theirs, whole = Theirs(theirs, source, format.template.reads_thoughts), 0
    for end in (end for end, message in enumerate(messages) if message.role == "assistant"):
        rendered = theirs.render(messages[:end], prompt=True)
        prompt = theirs.ids(rendered)
        assert format.prompt_ids(messages[:end]) == prompt
        try:
            (row,) = encode_in_one_go([format.turn(messages[: end + 1])], ours)
        except RowError:
            continue
        if not isinstance(row, RowError):
            assert row.tokens[: len(prompt)].tolist() == prompt
            assert is_supervised(row.roles[len(prompt) :]).all()
            whole += check_whole(row, prompt, rendered, theirs, messages[: end + 1])
    return whole


def check_whole(row, prompt, rendered, theirs, messages):
    """Whether the template writes the answer behind the prompt and no token crosses the border: then the row must be
    the beginning of the whole conversation's ids."""
    full = theirs.render(messages, prompt=False)
    ids, last = theirs.ids(full), messages[-1]
    if not full.startswith(rendered) or ids[: len(prompt)] != prompt:
        return False
    if (last.thought is not None or "</think>" in last.content) and "</think>" not in full[len(rendered) :]:
        return False  # a template that takes the thought out
    assert row.tokens.tolist() in (ids[: len(row.tokens)], [*ids, theirs.tokenizer.eos_token_id])
    return True


CALL = '<tool_call>\n{"name": "count", "arguments": {}}\n</tool_call>'
TOOL_LOOP = [
    Message("user", "How many hens?"),
    Message("assistant", CALL, thought="ask.", calls="tagged"),
    Message("tool", "3"),
    Message("assistant", "Answer: 3", thought="It lists 3."),
]


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("tags_as", ["text", "token"])
def test_every_template_of_the_family_on_a_tool_loop(kind, tags_as):
    assert sum(check_conversation(kind, tags_as, source, TOOL_LOOP) for source in FAMILY.values()) > 60
