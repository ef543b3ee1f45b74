"""One undisturbed run per recipe, with a checkpoint after every step: what every disturbed run must equal."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_runs import Seen, overrides_for, run


class Undisturbed:
    """The arguments of a recipe's tiny run, its folder, and what it did."""

    def __init__(self, name: str, arguments: list[str], out: Path) -> None:
        self.name, self.arguments, self.out = name, arguments, out
        self.seen = self.again(out)

    def again(self, out: Path | str, *more: str) -> Seen:
        return run(self.name, [*self.arguments, f"output_dir={out}", *more])


@pytest.fixture(scope="session")
def undisturbed(hub, tmp_path_factory) -> Callable[[str], Undisturbed]:
    made: dict[str, Undisturbed] = {}

    def of(name: str) -> Undisturbed:
        if name not in made:
            arguments = [*overrides_for(name, hub), "save_every_n_steps=1", "keep_checkpoints=100"]
            made[name] = Undisturbed(name, arguments, tmp_path_factory.mktemp(name) / "undisturbed")
        return made[name]

    return of


@pytest.fixture(scope="session", params=["cot_sft", "icot_sft"])
def reference(request, undisturbed) -> Undisturbed:
    """Methods combined with a frozen teacher, a GPT-2 with dropout whose optimizer is reset: all that a run can lose.
    The soak breaks every recipe.
    """
    return undisturbed(request.param)


@pytest.fixture
def bt_sft(undisturbed) -> Undisturbed:
    return undisturbed("bt_sft")
