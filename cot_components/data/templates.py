"""Chat templates: a model's jinja template rendered so that only the template itself can write a control token."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from cot_components.data.errors import RowError
from cot_components.data.text_tokenizer import TextTokenizer
from cot_components.errors import UserError

BUILT_IN = {
    # Token for token what torchtune 0.6.1 writes for the Llama-3 family: content stripped, no date, tools as `ipython`.
    "llama3": """\
{{ bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' ~ ('ipython' if message.role == 'tool' else message.role) ~ '<|end_header_id|>\\n\\n' }}
    {{- message.content | trim ~ '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}""",
    # Token for token what torchtune 0.6.1 writes for Qwen2.5: no default system prompt, tool results share a user turn.
    "chatml": """\
{%- for message in messages %}
    {%- if message.role == 'tool' %}
        {{- '\\n' if loop.previtem is defined and loop.previtem.role == 'tool' else '<|im_start|>user\\n' }}
        {{- '<tool_response>\\n' ~ message.content ~ '\\n</tool_response>' }}
        {{- '' if loop.nextitem is defined and loop.nextitem.role == 'tool' else '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' ~ message.role ~ '\\n' ~ message.content ~ '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}""",
}


_BY_PYTHON = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError)
"""How what a template calls refuses its arguments: `.index`, `//`, `.format`."""


@dataclass(frozen=True)
class ChatTemplate:
    """Jinja source with its name for messages, and the special tokens it may name."""

    name: str
    source: str
    bos_token: str = ""
    eos_token: str = ""
    pad_token: str = ""

    def render(self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = False) -> str:
        """The conversation as text. Raises RowError for messages that the template refuses, or cannot write."""
        try:
            return _compile(self.source).render(
                messages=messages,
                add_generation_prompt=add_generation_prompt,
                bos_token=self.bos_token,
                eos_token=self.eos_token,
                pad_token=self.pad_token,
                tools=None,
                documents=None,
            )
        except (jinja2.TemplateError, *_BY_PYTHON) as error:
            raise RowError("the chat template refuses the messages", str(error)) from error


def load_template(template: str | None, tokenizer: TextTokenizer) -> ChatTemplate:
    """The template of that name (`llama3`, `chatml`) or path, or the tokenizer's own for None.

    A path names a jinja file, a `tokenizer_config.json`, or a folder that holds either.
    Raises UserError for anything else.
    """
    if template is None:
        if tokenizer.chat_template is None:
            raise UserError(
                f"the tokenizer has no chat template; set template to one of {', '.join(BUILT_IN)} or to a path"
            )
        name, source = "of the tokenizer", tokenizer.chat_template
    elif template in BUILT_IN:
        name, source = template, BUILT_IN[template]
    elif (found := read_template(Path(template).expanduser())) is not None:
        name, source = template, found
    else:
        raise UserError(
            f"template {template!r} is neither a file with a chat template nor one of {', '.join(BUILT_IN)}"
        )
    try:
        _compile(source)
    except jinja2.TemplateSyntaxError as error:
        raise UserError(f"chat template {name}, line {error.lineno}: {error.message}") from error
    texts = {i: text for text, i in tokenizer.control.items()}
    special = [
        texts.get(i, "") if i is not None else "" for i in (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
    ]
    return ChatTemplate(name, source, *special)


def read_template(path: Path) -> str | None:
    """Jinja source from a file or a model folder; None where there is none. Raises UserError for a file that is
    no text, or whose `chat_template` is none.
    """
    if path.is_dir():
        found = (read_template(path / name) for name in ("chat_template.jinja", "tokenizer_config.json"))
        return next((source for source in found if source is not None), None)
    if not path.is_file():
        return None
    if path.suffix != ".json":
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"chat template {path} is no text: {error}") from error
    source = read_json(path).get("chat_template")
    if source is None or isinstance(source, str):
        return source
    if isinstance(source, list) and all(map(_is_named, source)):  # several templates
        return {entry["name"]: entry["template"] for entry in source}.get("default")
    raise UserError(f"{path}: chat_template must be text, or a list of objects with name and template")


def _is_named(entry: Any) -> bool:
    return isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in ("name", "template"))


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is no file. Raises UserError for anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    except RecursionError:
        raise UserError(f"{path} is not read: its JSON nests too deep") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no object")
    return content


class Shield:
    """Puts placeholders in the place of texts that only a template may write; `restore` brings them back as plain text.

    texts: everything a person wrote, so that the placeholders' mark is a character none of it holds
    hidden: matches what to hide
    """

    def __init__(self, texts: Iterable[str], hidden: re.Pattern[str]) -> None:
        everything = "".join(texts)
        self._mark = next(mark for mark in map(chr, range(0xE000, 0xF900)) if mark not in everything)  # private use
        self._hidden = hidden
        self._found: list[str] = []

    def hide(self, text: str) -> str:
        return self._hidden.sub(self._placeholder, text)

    def restore(self, text: str) -> str:
        return re.sub(f"{self._mark}([0-9]+){self._mark}", lambda number: self._found[int(number[1])], text)

    def _placeholder(self, match: re.Match[str]) -> str:
        self._found.append(match[0])
        return f"{self._mark}{len(self._found) - 1}{self._mark}"


class _GenerationBlock(Extension):
    """`{% generation %} ... {% endgeneration %}` marks the assistant's text in some templates; it renders as is."""

    tags = {"generation"}  # noqa: RUF012 (jinja's own interface)

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(value: Any, indent: int | None = None) -> str:
    """Unlike jinja's own filter this leaves `<`, `>` and `&` alone, as chat templates expect."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


@cache
def _compile(source: str) -> jinja2.Template:
    """Templates come with downloaded models, hence the sandbox. No `strftime_now`: a row must be the same tomorrow."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    return environment.from_string(source)
