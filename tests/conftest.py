"""Shared settings of all tests, and what they count (see `tally`)."""

import os
import shutil
from pathlib import Path

import pytest
import tally
import torch
from adapters_for_tests import WIDE
from hypothesis import HealthCheck, settings

from cot_components.data.generated.tasks import write_hub_dataset
from cot_components.models.export import save_pretrained
from cot_components.models.tiny import tiny_llama, write_tiny_checkpoint

settings.register_profile("test", max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("nightly", max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck))
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "test"))

torch.set_num_threads(min(2, torch.get_num_threads()))

TABLE = tally.Table()


@pytest.fixture(scope="session")
def hub(tmp_path_factory) -> Path:
    """A folder like a user's, as hub downloads leave it: `model/`, `teacher/` and `data/`."""
    folder = tmp_path_factory.mktemp("hub with a space")
    write_tiny_checkpoint(folder / "model")
    write_tiny_checkpoint(folder / "teacher", seed=1)
    write_hub_dataset(folder / "data", train=64, held_out=16)
    return folder


@pytest.fixture(scope="session")
def wide(hub, tmp_path_factory) -> Path:
    """As `hub`, with a model wide enough for NF4."""
    folder = tmp_path_factory.mktemp("wide")
    shutil.copytree(hub / "model", folder / "model")
    save_pretrained(tiny_llama(384, **WIDE), folder / "model")
    return folder


def pytest_addoption(parser):
    parser.addoption("--counts", type=Path, metavar="FILE", help="write tests and what they counted, by file")


@pytest.fixture(autouse=True)
def _counted(record_property):
    tally.take()
    yield
    for what, number in tally.take().items():
        record_property(what, number)


def pytest_runtest_logreport(report):
    if report.when == "call" or report.outcome == "failed":
        TABLE.add(report.nodeid, passed=report.passed, counts={})
    if report.when == "teardown":
        counts = {what: number for what, number in report.user_properties if what in tally.COUNTED}
        TABLE.rows[report.nodeid.partition("::")[0].removeprefix("tests/")].update(counts)


def pytest_terminal_summary(terminalreporter, config):
    if TABLE.total():
        terminalreporter.write_line(TABLE.total())
    if config.getoption("--counts"):
        TABLE.write(config.getoption("--counts"))
