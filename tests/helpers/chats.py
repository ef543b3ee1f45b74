"""Chat templates of every behaviour for the byte-level tokenizer, and short ways to write conversations."""

from __future__ import annotations

import itertools

from cot_components.data.read.formats import Message
from cot_components.data.text.chat import ChatFormat, Part
from cot_components.data.text.segments import Tags
from cot_components.data.text.templates import ChatTemplate
from cot_components.data.text.text_tokenizer import TextTokenizer
from cot_components.models.think_tokens import with_tag_tokens

TAGS = Tags()
PLAIN = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
OPENS = PLAIN.replace("<|assistant|>", "<|assistant|><think>\n")
# As Qwen3 does it: earlier thoughts go, the last one is written again, an answer without one gets an empty one.
REWRITES = """\
{%- for m in messages %}
    {%- if m.role == 'assistant' %}
        {%- set parts = m.content.split('</think>') %}
        {%- set thought = parts[0].split('<think>')[-1].strip('\\n') if parts | length > 1 else '' %}
        {{- '<|assistant|>\\n' }}
        {%- if loop.last %}{{- '<think>\\n' ~ thought ~ '\\n</think>\\n\\n' }}{% endif %}
        {{- parts[-1].lstrip('\\n') ~ '<|end|>\\n' }}
    {%- else %}
        {{- '<|' ~ m.role ~ '|>\\n' ~ m.content ~ '<|end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\\n' ~ opening }}{% endif %}"""
REWRITES_AND_OPENS = "{%- set opening = '<think>\\n' %}" + REWRITES


def chat(tokenizer: TextTokenizer, source: str = PLAIN, *, tags: Tags = TAGS, tags_as: str = "text") -> ChatFormat:
    chosen = with_tag_tokens(tokenizer, tags) if tags_as == "token" else tokenizer
    return ChatFormat(chosen, ChatTemplate("test", source), tags)


def ask(*contents: str) -> list[Message]:
    """User and assistant in turn."""
    return [Message("assistant" if i % 2 else "user", content) for i, content in enumerate(contents)]


def texts(parts: list[Part], tokenizer: TextTokenizer) -> list[tuple[str, str]]:
    """Label and text of each part, control tokens in square brackets."""
    names = tokenizer.control_texts
    return [(p.role.label, p.content if isinstance(p.content, str) else f"[{names[p.content]}]") for p in parts]


LAYOUTS = {
    "chatml": ("", "<|im_start|>{role}\n", "{content}", "<|im_end|>\n"),
    "llama3": ("{{{{ bos_token }}}}", "<|start_header_id|>{role}<|end_header_id|>\n\n", "{content}", "<|eot_id|>"),
    "tags": ("", "<|{role}|>", "{content}", "<|end|>"),
    "plain": ("{{{{ bos_token }}}}", "{role}: ", "{content}", "{{{{ eos_token }}}}"),
}
THOUGHTS = ("keeps", "strips", "keeps after the last user", "rewrites the last", "reads beside")
OPENINGS = ("", "<think>\n")
DATES = (False, True)

_CONTENT = {
    "keeps": "{%- set text = m.content %}",
    "strips": "{%- set text = m.content.split('</think>')[-1].lstrip('\\n') %}",
    "keeps after the last user": (
        "{%- set p = m.content.split('</think>') %}{%- set text = p[-1].lstrip('\\n') %}"
        "{%- if p | length > 1 and loop.index0 > u.last %}"
        "{%- set t = p[0].split('<think>')[-1].strip('\\n') %}"
        "{%- set text = '<think>\\n' ~ t ~ '\\n</think>\\n\\n' ~ text %}{% endif %}"
    ),
    "rewrites the last": (
        "{%- set p = m.content.split('</think>') %}{%- set text = p[-1].lstrip('\\n') %}"
        "{%- if loop.last %}{%- set t = p[0].split('<think>')[-1].strip('\\n') if p | length > 1 else '' %}"
        "{%- set text = '<think>\\n' ~ t ~ '\\n</think>\\n\\n' ~ text %}{% endif %}"
    ),
    "reads beside": (
        "{%- set text = m.content %}{%- if m.reasoning_content is string %}"
        "{%- set text = '<think>\\n' ~ m.reasoning_content ~ '\\n</think>\\n\\n' ~ text %}{% endif %}"
    ),
}
_LAST = (
    "{%- set u = namespace(last=-1) %}{%- for m in messages %}{%- if m.role == 'user' %}"
    "{%- set u.last = loop.index0 %}{%- endif %}{%- endfor %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content | trim }}{{ eos_token }}"
    "{% elif m.role == 'tool' %}[TOOL] {{ m.content }} [/TOOL]{% else %}[INST] {{ m.content }} [/INST]{% endif %}"
    "{% endfor %}"
)


def _write(layout: str, thoughts: str, opening: str, dated: bool) -> str:
    start, before, _, after = (
        part.replace("{{{{", "{{").replace("}}}}", "}}") if "{{{{" in part else part for part in LAYOUTS[layout]
    )
    header = "{{- " + repr(before).replace("{role}", "' ~ m.role ~ '") + " }}"
    end = after if "{{" in after else "{{- " + repr(after) + " }}"
    prompt = before.replace("{role}", "assistant") + opening
    day = "{{- 'Today is ' ~ strftime_now('%d %B %Y') ~ '.\\n' }}" if dated else ""
    return (
        f"{start}{day}{_LAST}{{%- for m in messages %}}{header}"
        f"{{%- if m.role == 'assistant' %}}{_CONTENT[thoughts]}{{%- else %}}{{%- set text = m.content %}}{{%- endif %}}"
        f"{{{{- text }}}}{end}{{%- endfor %}}{{%- if add_generation_prompt %}}{{{{- {prompt!r} }}}}{{%- endif %}}"
    )


FAMILY = {
    f"{layout}, {thoughts}{', opens' * bool(opening)}{', dated' * dated}": _write(layout, thoughts, opening, dated)
    for layout, thoughts, opening, dated in itertools.product(LAYOUTS, THOUGHTS, OPENINGS, DATES)
} | {"mistral": MISTRAL}
