"""Chat templates of every behaviour for the byte-level tokenizer, and short ways to write conversations."""

from __future__ import annotations

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
# As Qwen3 does it: earlier thoughts go, the last one is written anew, an answer without one gets an empty one.
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
