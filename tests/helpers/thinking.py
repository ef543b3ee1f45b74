"""Chat templates that think, each as a family of models does it, for the byte-level tokenizer; how rows come out."""

from __future__ import annotations

from chats import OPENS, PLAIN, REWRITES

from cot_components.data.text.segments import Tags

BLOCK = "<think>\n\n</think>\n\n"
CHANNELS = Tags("<|reserved_0|>analysis<|reserved_1|>", "<|end|><|assistant|><|reserved_0|>final<|reserved_1|>")
_OFF = "enable_thinking is defined and enable_thinking is false"
_END = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
_SPLIT = "{% set p = m.content.split('</think>') %}"
_PARTS = "{% set t = m.thinking if m.thinking is string else '' %}"

THINKING = {
    "no thoughts": PLAIN,
    "rewrites": "{%- set opening = '' %}" + REWRITES,
    # Qwen3: a block in the last answer, always; with thinking off it ends the prompt.
    "switched": f"{{%- set opening = '{BLOCK}' if {_OFF} else '' %}}".replace("\n", "\\n") + REWRITES,
    # Qwen3.5: the same, and with thinking on the prompt opens a thought.
    "opens or closes": f"{{%- set opening = '{BLOCK}' if {_OFF} else '<think>\n' %}}".replace("\n", "\\n") + REWRITES,
    # DeepSeek-V3.1: off by default, a lone closing tag; thoughts are taken out.
    "on request": PLAIN.replace("{{ m.content }}", _SPLIT + "{{ '</think>' if m.role == 'assistant' }}{{ p[-1] }}")
    .replace(_END, "{% if add_generation_prompt %}<|assistant|>{{ '<think>' if thinking else '</think>' }}{% endif %}")
    .replace("<|{{ m.role }}|>{%", "<|{{ m.role }}|>{%"),
    # SmolLM3: a flag in the system prompt switches, too; with thinking off every answer gets a block.
    "flagged": "{% set on = enable_thinking | default(true) and '/no_think' not in messages[0].content %}"
    + PLAIN.replace("{{ m.content", f"{{{{ {BLOCK!r} if m.role == 'assistant' and not on }}}}{{{{ m.content").replace(
        "<|assistant|>{% endif", f"<|assistant|>{{{{ {BLOCK!r} if not on }}}}{{% endif"
    ),
    # GLM-4.5: words behind the question.
    "suffixed": PLAIN.replace("|>{{ m.content }}", "|>{{ m.content }}{{ '/nothink' if m.role == 'user' and OFF }}")
    .replace("<|assistant|>{% endif", "<|assistant|>{{ '<think></think>' if OFF }}{% endif")
    .replace("{{ m.content }}", "{{ '<think></think>' if m.role == 'assistant' and OFF }}{{ m.content }}", 1)
    .replace("OFF", f"({_OFF})"),
    # R1-Distill: every prompt opens a thought, and thoughts are taken out.
    "always opens": OPENS.replace("m.content", "m.content.split('</think>')[-1]"),
    # gpt-oss: a thought is a message of its own, in another channel.
    "channels": "{% for m in messages %}{% if m.role == 'assistant' %}"
    + _PARTS
    + "{% if t and loop.last %}<|assistant|><|reserved_0|>analysis<|reserved_1|>{{ t }}<|end|>{% endif %}"
    "<|assistant|><|reserved_0|>final<|reserved_1|>{{ m.content }}{{ '<|reserved_2|>' if loop.last else '<|end|>' }}"
    "{% else %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endif %}{% endfor %}" + _END,
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
    "suffixed": (("", THOUGHT), ("<think></think>", "a"), ("<think></think>", "a"), ("", "a")),
    "always opens": (("<think>\n", OPENED), None, ("<think>\n", "\n</think>\n\na"), None),
}
"""Name -> what ends the prompt and what the model writes, of an answer with a thought; without one and with an empty
one under `template`; without one under `none`. None where the row is refused."""
