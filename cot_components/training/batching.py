"""Plans and data loader of a run: which rows go into which step, and finished batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import DataLoader

from cot_components.data.rows.batches import Step
from cot_components.data.rows.dataset import ReasoningDataset
from cot_components.data.rows.plans import Plans
from cot_components.data.rows.selection import selection_hash
from cot_components.errors import UserError
from cot_components.models.export import adapted_modules
from cot_components.models.load import weights_key
from cot_components.runs.folder import Earlier
from cot_components.stages import Stages
from cot_components.training.setup import Run


def plan_steps(data: ReasoningDataset, run: Run, **settings: Any) -> Plans:
    """All optimizer steps of a run for this process; a resumed run starts at the first step not yet done.

    Args:
        data: the training data.
        run: this process.
        settings: of `Plans` (`batch_size`, `gradient_accumulation_steps`, `epochs`, ...).

    Raises:
        UserError: see `Plans`; a resumed run whose data or steps have changed.
    """
    world, lengths = run.world, data.rows.lengths
    plans = Plans(
        lengths, shares=data.shares, rank=world.rank, world_size=world.size, start_step=run.start_step, **settings
    )
    facts = plan_facts(data, plans)
    world.agree({_FACTS[name]: value for name, value in facts.items()})
    if run.earlier is not None:
        refuse_other_plan(run.earlier, facts)
    return plans


_FACTS = {
    "step_size": "the size of a step (batch_size * gradient_accumulation_steps * processes)",
    "total_steps": "the number of steps",
    "selection": "the rows that dataset.select keeps, or their weights (their hash)",
    "data": "the content of the data (its hash)",
    "scores": "the scores that a transform reads (their hash)",
    "base": "the content of the frozen weights (the hash of model.path's files)",
    "reference": "the content of the reference's weights (the hash of its files)",
    "products": "the number format of weights and products, which depends on the device,",
    "micro_batches": "the split of a step (batch_size x gradient_accumulation_steps), which a transform counts,",
}


def plan_facts(data: ReasoningDataset, plans: Plans) -> dict[str, Any]:
    """Facts that must not change when a run is resumed, by name."""
    facts: dict[str, Any] = {"selection": selection_hash(data.choices)} if data.choices else {}
    facts |= {"step_size": plans.step_size, "total_steps": plans.total_steps, "data": data.rows.training_hash()}
    scores = {name: found() for name, t in data.transforms.items() if (found := getattr(t, "fingerprint", None))}
    if scores:
        facts["scores"] = scores
    if any(getattr(transform, "counts_micro_batches", False) for transform in data.transforms.values()):
        facts["micro_batches"] = f"{plans.batch_size} x {plans.gradient_accumulation_steps}"
    return facts


def frozen_facts(model: torch.nn.Module, reference: Any, config: Mapping[str, Any]) -> dict[str, str]:
    """Hashes of the weights that a run needs but no checkpoint contains, by name: those under adapters, and those of a
    reference model. Empty for plain fine-tuning.
    """
    facts = {}
    if adapted_modules(model):
        facts["base"] = weights_key(config.get("model", {}))
    if (key := getattr(reference, "key", None)) is not None:
        facts["reference"] = key()
    return facts


def refuse_other_plan(earlier: Earlier, now: Mapping[str, Any]) -> None:
    """Raises UserError if the run to resume recorded a different value for a fact; facts it did not record are
    ignored."""
    before = earlier.state["plan"]
    for fact, value in now.items():
        if before.get(fact, value) != value:
            raise UserError(f"resume: {_FACTS[fact]} of {earlier.path} was {before[fact]}, now it is {value}")


def load_batches(data: ReasoningDataset, plans: Plans, run: Run, *, num_workers: int = 0) -> DataLoader:
    """A loader that yields one finished `Step` for every plan.

    Args:
        data: the training data, with all its transforms.
        plans: which rows go into which step.
        run: this process and its device.
        num_workers: processes that make batches ahead of the loop; 0 makes them in the loop.
    """
    batches: Any = data.batches(packed_tokens=plans.packed_tokens)  # indexed by plans where torch expects ints
    pin = run.device.type == "cuda"
    own = torch.Generator()  # a loader draws a seed when it starts; this keeps it off the stream dropout uses
    return DataLoader(batches, sampler=plans, batch_size=None, num_workers=num_workers, pin_memory=pin, generator=own)


def load_stages(
    data: ReasoningDataset, plans: Plans, run: Run, stages: Stages, *, num_workers: int = 0
) -> Iterator[Step]:
    """Every finished `Step` of `load_batches`, in order; steps that a worker prepared before a measurement began a new
    stage are made again.
    """
    while len(plans):
        known = stages.boundaries
        for step in load_batches(data, plans, run, num_workers=num_workers):
            yield step
            plans = replace(plans, start_step=step.clock.step + 1)
            if stages.boundaries != known:
                break
