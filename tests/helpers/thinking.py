"""Chat templates that think, each as a family of models does it, for the byte-level tokenizer; how rows come out."""

from __future__ import annotations

from chats import OPENS, PLAIN, REWRITES

from cot_components.data.text.segments import Tags
from experiments.thinking import SWITCH

BLOCK = "<think>\n\n</think>\n\n"
CHANNELS = Tags("<|reserved_0|>analysis<|reserved_1|>", "<|end|><|assistant|><|reserved_0|>final<|reserved_1|>")
_OFF = "enable_thinking is defined and enable_thinking is false"
_ENDS = "{% if add_generation_prompt %}<|assistant|>GIVEN{% endif %}"
_TURNS = "{% for m in messages %}<|{{ m.role }}|>WRITTEN<|end|>{% endfor %}" + _ENDS


def _turns(written: str, given: str) -> str:
    """A template: what it writes of a message `m`, and at the end of a prompt."""
    return _TURNS.replace("WRITTEN", written).replace("GIVEN", given)


def _opening(given: str) -> str:
    return f"{{%- set opening = {given} %}}{REWRITES}"


THINKING = {
    "no thoughts": PLAIN,
    "rewrites": _opening("''"),
    # Qwen3: a block in the last answer, always; with thinking off it ends the prompt.
    "switched": _opening(f"{BLOCK!r} if {_OFF} else ''"),
    # Qwen3.5: the same, and with thinking on the prompt opens a thought.
    "opens or closes": _opening(f"{BLOCK!r} if {_OFF} else '<think>\\n'"),
    # Qwen3-Thinking: every prompt opens a thought, and an answer without one gets its end.
    "opens and rewrites": _opening("'<think>\\n'"),
    # DeepSeek-V3.1: off by default, a lone closing tag; thoughts are taken out.
    "on request": _turns(
        "{{ '</think>' if m.role == 'assistant' }}{{ m.content.split('</think>')[-1] }}",
        "{{ '<think>' if thinking else '</think>' }}",
    ),
    # SmolLM3: a flag in the system prompt switches, too; with thinking off every answer gets a block.
    "flagged": "{% set off = not enable_thinking | default(true) or '/no_think' in messages[0].content %}"
    + _turns(f"{{{{ {BLOCK!r} if off and m.role == 'assistant' }}}}{{{{ m.content }}}}", f"{{{{ {BLOCK!r} if off }}}}"),
    "given a switch": PLAIN + SWITCH,
    # GLM-4.5: words behind the question.
    "suffixed": f"{{% set off = {_OFF} %}}"
    + _turns(
        "{{ '<think></think>' if off and m.role == 'assistant' }}{{ m.content }}"
        "{{ '/nothink' if off and m.role == 'user' }}",
        "{{ '<think></think>' if off }}",
    ),
    # R1-Distill: every prompt opens a thought, and thoughts are taken out.
    "always opens": OPENS.replace("m.content", "m.content.split('</think>')[-1]"),
    # gpt-oss: a thought is a message of its own, in another channel.
    "channels": "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{% if m.thinking and loop.last %}<|assistant|><|reserved_0|>analysis<|reserved_1|>{{ m.thinking }}<|end|>"
    "{% endif %}"
    "<|assistant|><|reserved_0|>final<|reserved_1|>{{ m.content }}{{ '<|reserved_2|>' if loop.last else '<|end|>' }}"
    "{% else %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}",
}
"""Name -> source."""

THOUGHT, OPENED = "<think>\nt\n</think>\n\na", "t\n</think>\n\na"
SHAPES = {
    "no thoughts": (("", THOUGHT), ("", "a"), ("", BLOCK + "a"), ("", "a")),
    "rewrites": (("\n", THOUGHT), ("\n", BLOCK + "a"), ("\n", BLOCK + "a"), ("\n", "a")),
    "switched": (("\n", THOUGHT), ("\n" + BLOCK, "a"), ("\n" + BLOCK, "a"), ("\n", "a")),
    "opens or closes": (("\n<think>\n", OPENED), ("\n" + BLOCK, "a"), ("\n" + BLOCK, "a"), None),
    "on request": (("<think>", "\n" + OPENED), ("</think>", "a"), ("</think>", "a"), None),
    "flagged": (("", THOUGHT), (BLOCK, "a"), (BLOCK, "a"), ("", "a")),
    "given a switch": (("", THOUGHT), (BLOCK, "a"), (BLOCK, "a"), ("", "a")),
    "suffixed": (("", THOUGHT), ("<think></think>", "a"), ("<think></think>", "a"), ("", "a")),
    "opens and rewrites": (("\n<think>\n", OPENED), *[("\n<think>\n", "\n</think>\n\na")] * 2, None),
    "always opens": (("<think>\n", OPENED), None, ("<think>\n", "\n</think>\n\na"), None),
}
"""Name -> what ends the prompt and what the model writes, of an answer with a thought; without one and with an empty
one under `template`; without one under `none`. None where the row is refused."""
