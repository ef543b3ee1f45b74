"""Shared settings of all tests, and what they count (see `tally`)."""

import os
from pathlib import Path

import pytest
import tally
import torch
from hypothesis import HealthCheck, settings

settings.register_profile("test", max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("nightly", max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck))
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "test"))

torch.set_num_threads(min(2, torch.get_num_threads()))

TABLE = tally.Table()


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
