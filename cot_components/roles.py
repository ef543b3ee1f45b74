"""The part of a trace that a token belongs to.

A trace is `prompt`, `thought`, `answer`; the tags around the thought have roles of their own, so that a transform never
has to look for `<think>` in token ids. Roles are made once, while encoding, and travel with the tokens.
"""

from enum import IntEnum

IGNORE = -100
"""Label of a target that is not supervised: the `ignore_index` of `torch.nn.functional.cross_entropy`."""


class Role(IntEnum):
    """The role of a token; fits into uint8."""

    PROMPT = 0
    THINK_OPEN = 1
    THOUGHT = 2
    THINK_CLOSE = 3
    ANSWER = 4
    CALL = 5
    OBSERVATION = 6
    PAD = 7

    @property
    def label(self) -> str:
        """Lower-case name, as used in logs and pages: `think_open`."""
        return self.name.lower()


SUPERVISED_ROLES = (Role.THINK_OPEN, Role.THOUGHT, Role.THINK_CLOSE, Role.ANSWER, Role.CALL)
"""Roles whose tokens carry a label before any transform; prompts, observations and padding never do."""
