"""What a stage restarts, and what goes on: rates are those of a schedule that was left alone or began there."""

from types import SimpleNamespace

import pytest
import torch

from cot_components.clock import Clock
from cot_components.losses import sft
from cot_components.training import restarts
from cot_components.training.distributed import World
from cot_components.training.loop import Trainer
from cot_components.training.precision import Precision
from cot_components.training.setup import build_optimizer

COSINE = "torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup"
NODES = {
    "optimizer": {"_component_": "torch.optim.AdamW", "lr": 0.1},
    "lr_scheduler": {"_component_": COSINE, "num_warmup_steps": 2},
}
RUN = SimpleNamespace(precision=Precision(), world=World())
STAGE = 6


def run(num_steps: int, *, reset: bool = False, again: bool = False) -> tuple[list[float], list[int]]:
    """Rate of every step, and how many updates the moments knew before it; a stage begins at step `STAGE`."""
    stages = SimpleNamespace(
        resets_optimizer=lambda clock: reset and clock.step == STAGE,
        restarts_schedule=lambda clock: again and clock.step == STAGE,
        last_restart=lambda *, before: STAGE if again and before > STAGE else 0,
    )
    model = torch.nn.Linear(3, 1)
    built = build_optimizer(*NODES.values(), model, RUN, num_steps=num_steps)
    trainer = Trainer(model, sft().fused, *built, torch.device("cpu"), World())
    rates, updates = [], []
    for step in range(num_steps):
        restarts.restart(trainer, stages, Clock(0, step), **NODES, run=RUN, total_steps=num_steps)
        updates.append(int(trainer.optimizer.state[model.weight].get("step", 0)))
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        model(torch.ones(1, 3)).sum().backward()
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    return rates, updates


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("again", [False, True])
def test_reset_and_restart_do_each_its_own(reset: bool, again: bool) -> None:
    rates, updates = run(10, reset=reset, again=again)
    undisturbed, shorter = run(10)[0], run(10 - STAGE)[0]
    assert rates == undisturbed[:STAGE] + (shorter if again else undisturbed[STAGE:])
    assert updates == [*range(STAGE), *(range(4) if reset else range(STAGE, 10))]
    assert max(shorter) == 0.1 > max(undisturbed[STAGE:])
