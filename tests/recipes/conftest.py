"""A folder like a user's: a tiny checkpoint in hub layout, a data set in hub layout, and room for runs."""

from pathlib import Path

import pytest

from cot_components.data.tasks import write_hub_dataset
from cot_components.models.tiny import write_tiny_checkpoint


@pytest.fixture(scope="session")
def hub(tmp_path_factory) -> Path:
    """A folder with `model/` and `data/`, as a hub download leaves them."""
    folder = tmp_path_factory.mktemp("hub with a space")
    write_tiny_checkpoint(folder / "model")
    write_hub_dataset(folder / "data", train=64, held_out=16)
    return folder
