"""Combinations that are refused, and why, before anything is read, loaded or written.

docs/tables.py generates the table in docs/commands.md from `REFUSALS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from cot_components.data.rows.batches import Transform
from cot_components.models.reference import NO_ADAPTERS
from cot_components.training.trained import WITH_ADAPTERS

IN_EVERY_BATCH = ("reference", "roles", "sample")
"""Columns that every run provides; `groups` needs a transform."""


class Combination(NamedTuple):
    """The parts of a config whose combination is checked, built from their nodes alone.

    loss:       a `losses.Loss`, or any other component the config names
    selectors:  of the training data, by name, in order
    transforms: those of the training data, by name, in order
    curriculum: `Stepwise` or `NoCurriculum`
    trainable:  which weights learn, or None
    reference:  a `ReferenceSource`, or None
    packed:     whether rows are packed
    parts:      micro-batches of one optimizer step, over all processes
    adapters:   whether the model has LoRA adapters; None if its node does not say
    evaluation: whether the run answers prompts
    held_out:   whether it has validation rows
    """

    loss: Any
    selectors: Mapping[str, Any]
    transforms: Mapping[str, Transform]
    curriculum: Any
    trainable: Any
    reference: Any
    packed: bool
    parts: int
    adapters: bool | None
    evaluation: bool
    held_out: bool

    def transforms_that(self, flag: str) -> list[str]:
        """Config keys of the transforms with this flag, in order."""
        return [f"dataset.transforms.{name}" for name, t in self.transforms.items() if getattr(t, flag, False)]

    def steps_that(self, flag: str) -> list[str]:
        """As `transforms_that`, preceded by the curriculum."""
        return ["curriculum"] * getattr(self.curriculum, flag, False) + self.transforms_that(flag)

    def makes_groups(self) -> bool:
        return bool(self.transforms_that("makes_groups"))


Refusal = Callable[[Combination], str | None]
"""Returns the sentence that refuses a combination, None if it is fine. The docstring is a row of the docs: what is
refused, and in a second paragraph why.
"""


def loss_on_logits(c: Combination) -> str | None:
    """A loss that takes logits, such as `torch.nn.CrossEntropyLoss`

    The head runs inside the loss, on supervised rows only; full logits never exist.
    """
    if hasattr(c.loss, "fused"):
        return None
    return (
        f"loss: a {type(c.loss).__name__} takes logits, which never exist in full here; use one of "
        "cot_components.losses (sft is cross-entropy), or cot_components.losses.Loss with your own target"
    )


def per_token_gradient(c: Combination) -> str | None:
    """`loss.per_token_grad`

    It is for loops that weight tokens after the loss; ours weights them before.
    """
    if not getattr(c.loss, "per_token_grad", False):
        return None
    return f"{c.loss.name}: per_token_grad is for loops that weight tokens after the loss; remove it"


def split_step(c: Combination) -> str | None:
    """`loss.weight_rule.group_by: batch` with several micro-batches or processes

    The rule compares all tokens of a step, but no part sees all of them.
    """
    if not getattr(c.loss, "whole_step", False) or c.parts == 1:
        return None
    return (
        f"{c.loss.name}: group_by: batch needs a whole step in one micro-batch, but this run has {c.parts} (gradient_"
        "accumulation_steps x processes); use group_by: sample"
    )


def missing_or_unused_reference(c: Combination) -> str | None:
    """`asft`, `target_sft`, `distill`, ... without `reference`; `sft`, `dft`, ... with one

    A loss with a second distribution needs a model for it; any other loss would ignore the model.
    """
    if c.loss.needs_reference == (c.reference is not None):
        return None
    verb = "needs a reference; set one" if c.reference is None else "takes no reference; remove it"
    return f"the loss {c.loss.name} {verb} in the key 'reference'"


def no_classes(c: Combination) -> str | None:
    """`loss.weight_rule` without a transform that classifies tokens (`Highlight`, `ByPattern`)

    The rule weights classes of tokens, and there are none.
    """
    if "groups" not in c.loss.needs or c.makes_groups():
        return None
    return (
        "loss.weight_rule weights classes of tokens, but no transform makes any; put cot_components.transforms."
        "Highlight or ByPattern into dataset.transforms, or set loss.weight_rule=null"
    )


def unknown_column(c: Combination) -> str | None:
    """A loss that reads a special column, such as `old_logp`

    The recipe does not make such a column; the loss is for loops that do.
    """
    missing = [name for name in c.loss.needs if name not in (*IN_EVERY_BATCH, "groups")]
    if not missing:
        return None
    return (
        f"loss: {c.loss.name} reads the column '{missing[0]}', which this recipe does not make; it is for loops that do"
    )


def factors_without_classes(c: Combination) -> str | None:
    """`ByGroup` without a transform before it that classifies tokens

    Its factors are looked up by class, and there are none yet.
    """
    classified = False
    for name, transform in c.transforms.items():
        if getattr(transform, "needs_groups", False) and not classified:
            return (
                f"dataset.transforms.{name} weights classes of tokens, but no transform before it makes any; put "
                "Highlight or ByPattern before it"
            )
        classified = classified or getattr(transform, "makes_groups", False)
    return None


def two_planes(c: Combination) -> str | None:
    """The transform `QTuning` with a selector `QTuning` that has other scores or another share of rows

    Tokens would be pruned with a different plane and budget than rows are selected with.
    """
    planes = {part.plane for part in (*c.selectors.values(), *c.transforms.values()) if hasattr(part, "plane")}
    if len(planes) < 2:
        return None
    return (
        "dataset.transforms: QTuning and the selector QTuning differ in their plane; give both the same scores and "
        "columns, and keep_rows the value of the selector's keep"
    )


def packed_and_shortened(c: Combination) -> str | None:
    """`packed_tokens` with a curriculum, or with a transform that changes lengths (`Cap`, `Truncate`, `Prune`)

    Rows are packed by their lengths as encoded; shortened rows would leave packs half empty.
    """
    shortening = c.steps_that("changes_lengths")
    if not c.packed or not shortening:
        return None
    return (
        f"packed_tokens cannot be set with {shortening[0]}: rows are packed by their lengths, which it changes; leave "
        "packed_tokens out; rows of similar length then share a micro-batch"
    )


def looked_up_too_late(c: Combination) -> str | None:
    """Stored scores (`Threshold`, `Prune`, `Highlight`, ...) looked up after rows were shortened (`Cap`, `Truncate`)

    Scores belong to rows as encoded.
    """
    shortening: str | None = None
    for name, transform in c.transforms.items():
        if getattr(transform, "needs_whole_rows", False) and shortening is not None:
            return (
                f"dataset.transforms.{name} looks up scores of whole rows, but {shortening} before it changes their "
                f"lengths; put {name} first"
            )
        shortening = name if getattr(transform, "changes_lengths", False) else shortening
    return None


def stored_teacher(c: Combination) -> str | None:
    """A `TopKFile` as reference with a curriculum, or with a transform that removes tokens

    The stored distributions belong to rows as encoded; a `FrozenModel` reads the current rows.
    """
    removing = c.steps_that("removes_tokens")
    if not getattr(c.reference, "needs_whole_rows", False) or not removing:
        return None
    return f"reference: the file's top k are of rows as encoded, but {removing[0]} removes tokens; use a frozen model"


def no_adapters(c: Combination) -> str | None:
    """`AdaptersOff` as reference of a model without LoRA adapters

    There is nothing to switch off; the reference would be the student itself.
    """
    if not getattr(c.reference, "needs_adapters", False) or c.adapters is not False:
        return None
    return NO_ADAPTERS


def trained_beside_adapters(c: Combination) -> str | None:
    """`trainable` with `model.lora`

    With adapters, all other weights are frozen.
    """
    return WITH_ADAPTERS if c.trainable is not None and c.adapters else None


def taken_name(c: Combination) -> str | None:
    """A transform named `remove` with a curriculum

    The curriculum's own transform has that name.
    """
    if not c.curriculum.removes_tokens or "remove" not in c.transforms:
        return None
    return "dataset.transforms.remove has the name of the curriculum's own transform; rename it"


def answers_with_gaps(c: Combination) -> str | None:
    """`curriculum.keep_position` with `evaluation`

    Generated answers lack the gap in positions that the model was trained with.
    """
    if not getattr(c.curriculum, "keep_position", False) or not c.evaluation:
        return None
    return (
        "curriculum.keep_position: generation uses positions without the gap that the model was trained with, so its "
        "answers would not show what it learnt; set keep_position: false or evaluation: null"
    )


def paced_by_nothing(c: Combination) -> str | None:
    """`curriculum.pace: accuracy` without `dataset_val`

    A stage ends when enough validation rows are answered right, and there are none.
    """
    if not getattr(c.curriculum, "needs_held_out", False) or c.held_out:
        return None
    return "curriculum.pace: accuracy is measured on validation rows; set dataset_val, or use pace: exact"


REFUSALS: tuple[Refusal, ...] = (  # in the order in which they are tried
    loss_on_logits,
    per_token_gradient,
    missing_or_unused_reference,
    no_classes,
    unknown_column,
    split_step,
    factors_without_classes,
    looked_up_too_late,
    two_planes,
    packed_and_shortened,
    stored_teacher,
    no_adapters,
    trained_beside_adapters,
    taken_name,
    answers_with_gaps,
    paced_by_nothing,
)
