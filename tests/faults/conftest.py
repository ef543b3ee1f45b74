"""One undisturbed run per recipe, with a checkpoint after every step: what every disturbed run must equal."""

from pathlib import Path

import pytest
from contract import Seen, overrides_for, run, training_recipes

from cot_components.models.tiny import write_tiny_checkpoint


@pytest.fixture(scope="session")
def hub(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    write_tiny_checkpoint(folder / "model")
    write_tiny_checkpoint(folder / "teacher", seed=1)
    return folder


class Undisturbed:
    """The arguments of a recipe's tiny run, its folder, and what it did."""

    def __init__(self, name: str, arguments: list[str], out: Path, seen: Seen) -> None:
        self.name, self.arguments, self.out, self.seen = name, arguments, out, seen

    def again(self, out: Path, *more: str) -> Seen:
        return run(self.name, [*self.arguments, f"output_dir={out}", *more])


@pytest.fixture(scope="session", params=training_recipes())
def reference(request, hub, tmp_path_factory) -> Undisturbed:
    out = tmp_path_factory.mktemp(request.param) / "undisturbed"
    arguments = [*overrides_for(request.param, hub), "save_every_n_steps=1", "keep_checkpoints=100"]
    return Undisturbed(request.param, arguments, out, run(request.param, [*arguments, f"output_dir={out}"]))
