"""Chat templates: a model's jinja template rendered so that only the template itself can write a control token."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2

from cot_components.data.bad_rows import RowError, one_line
from cot_components.data.read.turns import THOUGHT_KEYS
from cot_components.data.text.empty_thoughts import SWITCHES
from cot_components.data.text.sandbox import TooMuchError, compile_template, fields_in, names_in, render_template
from cot_components.data.text.text_tokenizer import TextTokenizer
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
"""Errors that functions called by a template raise for bad arguments: `.index`, `//`, `.format`."""


_TOOL = {"type": "function", "function": {"name": "f", "description": "", "parameters": {}}}

DEFAULT_DATE = "2024-07-26"
"""The date `strftime_now` returns if none is set: the default of Llama 3's own templates."""


@dataclass(frozen=True)
class ChatTemplate:
    """Jinja source with its name for messages, the special tokens it may use, and the date it sees as today.

    date: `YYYY-MM-DD`; fixed, so that a row is the same on any day
    """

    name: str
    source: str
    bos_token: str = ""
    eos_token: str = ""
    pad_token: str = ""
    date: str = DEFAULT_DATE

    def render(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        add_generation_prompt: bool = False,
        thinking: bool | None = None,
    ) -> str:
        """The conversation as text. Raises RowError for messages that the template refuses, or cannot write.

        thinking: whether the template is to ask for a thought, see `empty_thoughts.SWITCHES`; None sets no switch

        Raises UserError for a template that loops for too long or creates something too large.
        """
        asked = {} if thinking is None else dict.fromkeys(SWITCHES, thinking)
        told = {"messages": messages, "add_generation_prompt": add_generation_prompt, **asked}
        try:
            return self._render(told, tools=None)
        except TooMuchError as error:
            raise UserError(f"chat template {self.name}: {error}; set dataset.template to another") from error
        except (jinja2.TemplateError, *_BY_PYTHON) as error:
            if self._needs_tools(told):
                raise RowError("the chat template requires tools, but gets none; set dataset.template") from error
            raise RowError("the chat template refuses the messages", one_line(error)) from error

    def _needs_tools(self, told: Mapping[str, Any]) -> bool:
        """Whether the template renders the messages if given tools; ours are in the system prompt."""
        if "tools" not in self._names:
            return False
        try:
            self._render(told, tools=[_TOOL])
        except (jinja2.TemplateError, *_BY_PYTHON):
            return False
        return True

    def _render(self, told: Mapping[str, Any], *, tools: Sequence[Any] | None) -> str:
        named = {"bos_token": self.bos_token, "eos_token": self.eos_token, "pad_token": self.pad_token}
        return render_template(
            self.source,
            tools=tools,
            documents=None,
            strftime_now=self._strftime,
            **{name: text for name, text in named.items() if text},
            **told,
        )

    @cached_property
    def reads_thoughts(self) -> bool:
        """Whether the template reads a message's thought from a field of its own."""
        return not fields_in(self.source).isdisjoint(THOUGHT_KEYS)

    def fingerprint(self) -> str:
        """Everything that determines how messages are rendered."""
        facts = [self.source, self.date if "strftime_now" in self._names else None]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    @cached_property
    def _names(self) -> set[str]:
        return names_in(self.source)

    def _strftime(self, format: str) -> str:
        return datetime.fromisoformat(self.date).strftime(format)


def load_template(template: str | None, tokenizer: TextTokenizer, *, date: str | None = None) -> ChatTemplate:
    """The template of that name (`llama3`, `chatml`) or path, or the tokenizer's own for None.

    A path names a jinja file, a `tokenizer_config.json`, or a folder that holds either. `date`: the template's current
    date, `YYYY-MM-DD`; None is `DEFAULT_DATE`. Raises UserError for anything else.
    """
    date = DEFAULT_DATE if date is None else date
    if not _is_date(date):
        raise UserError(f"dataset.date must be a date such as {DEFAULT_DATE}, in quotes, got {date!r}")
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
        compile_template(source)
    except jinja2.TemplateSyntaxError as error:
        raise UserError(f"chat template {name}, line {error.lineno}: {error.message}") from error
    except jinja2.TemplateError as error:
        raise UserError(f"chat template {name}: {error}") from error
    texts = {i: text for text, i in tokenizer.control.items()}
    bos, eos, pad = (
        texts.get(i, "") if i is not None else "" for i in (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
    )
    return ChatTemplate(name, source, bos, eos, pad, date)


def _is_date(text: object) -> bool:
    try:
        return isinstance(text, str) and datetime.strptime(text, "%Y-%m-%d").strftime("%Y-%m-%d") == text
    except ValueError:
        return False


def read_template(path: Path) -> str | None:
    """Jinja source from a file or a model folder; None if there is none. Raises UserError for a file that is not text,
    or an invalid `chat_template`.
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
            raise UserError(f"chat template {path} is not text: {error}") from error
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
    except RecursionError:
        raise UserError(f"{path} is nested too deeply to be read") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no object")
    return content


class Shield:
    """Replaces texts that only a template may write by placeholders; `restore` turns them back into plain text.

    texts: all texts of the messages; the placeholders' mark is a character that occurs in none of them
    hidden: matches what to hide
    """

    def __init__(self, texts: Iterable[str], hidden: re.Pattern[str]) -> None:
        everything = "".join(texts)
        self._mark = next(mark for mark in map(chr, range(0xE000, 0xF900)) if mark not in everything)  # private use
        self._hidden = hidden
        self._found: list[str] = []

    def hide(self, text: str, only: re.Pattern[str] | None = None) -> str:
        """The text with a placeholder for everything hidden, or for what `only` matches."""
        return (only or self._hidden).sub(self._placeholder, text)

    def cover(self, text: str) -> str:
        """A placeholder for the whole text."""
        return self._place(text)

    def restore(self, text: str) -> str:
        return re.sub(f"{self._mark}([0-9]+){self._mark}", lambda number: self._found[int(number[1])], text)

    def _placeholder(self, match: re.Match[str]) -> str:
        return self._place(match[0])

    def _place(self, text: str) -> str:
        self._found.append(text)
        return f"{self._mark}{len(self._found) - 1}{self._mark}"
