"""The benchmark command: a ratio, a verdict, an exit code, a file; and the rule that what did not run is said."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from commands import ROOT, must, run

import benchmarks
import benchmarks.__main__ as command
from benchmarks import report, table
from benchmarks.measure import seconds
from benchmarks.report import Row

KEPT = Row("time", "peer", "s", 1.0, 2.0, 0.6)
MISSED = Row("time", "peer", "s", 1.0, 2.0, 0.4)
ABSENT = Row("time", "peer", "s", note="not installed")
INFORMS = Row("time", "peer", "s", 3.0, 2.0)


def test_verdicts() -> None:
    assert [row.verdict for row in (KEPT, MISSED, ABSENT, INFORMS)] == ["ok", "MISSED", "NOT RUN", ""]
    faster = Row("speed", "peer", "x", 6.0, 2.0, 4.0, at_most=False)
    assert faster.verdict == "MISSED" and ">= 4" in faster.line()
    assert "0.500" in KEPT.line() and "<= 0.6 ok" in KEPT.line() and ABSENT.line().endswith("NOT RUN  not installed")


@pytest.mark.parametrize(
    ("rows", "options", "code"),
    [
        ([KEPT, INFORMS], [], 0),
        ([KEPT, MISSED], [], 1),
        ([KEPT, ABSENT], [], 0),
        ([KEPT, ABSENT], ["--strict"], 1),
        ([ABSENT], [], 0),
    ],
)
def test_exit_code_and_file(
    rows: list[Row],
    options: list[str],
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(benchmarks, "BENCHMARKS", {"some": "some.module"})
    monkeypatch.setattr(command, "BENCHMARKS", {"some": "some.module"})
    monkeypatch.setattr(command.importlib, "import_module", lambda name: SimpleNamespace(rows=lambda: rows))
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    threads = torch.get_num_threads()
    assert command.main(["some", *options]) == code
    torch.set_num_threads(threads)
    assert rows[0].line() in capsys.readouterr().out
    written = tmp_path / "some_cpu.json"
    assert written.exists() == (rows != [ABSENT]), "what was not measured leaves no file"
    if not written.exists():
        return
    kept = json.loads(written.read_text())
    assert [row["verdict"] for row in kept["rows"]] == [row.verdict for row in rows]
    assert kept["command"] == "python -m benchmarks some" and kept["versions"]["torch"] == torch.__version__


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.main(["lost"])
    assert stopped.value.code == 2 and "no benchmark lost; there are loss" in capsys.readouterr().err


def test_time_is_the_processors_and_steps_take_turns() -> None:
    order: list[str] = []
    found = seconds({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, "cpu", rounds=2)
    assert order == ["a", "b"] * 3 and set(found) == {"a", "b"}
    order.clear()
    assert seconds({"a": lambda: order.append("a")}, "cpu", rounds=2, warm=True) and order == ["a", "a"]


def test_a_step_that_is_far_behind_is_taken_once() -> None:
    order: list[str] = []

    def busy(name: str, turns: int) -> None:
        order.append(name)
        for _ in range(turns):
            sum(range(1000))

    steps = {name: partial(busy, name, turns) for name, turns in {"a": 20, "b": 20, "slow": 2000}.items()}
    found = seconds(steps, "cpu", rounds=3, warm=True, far=20)
    assert order.count("slow") == 1 and order.count("a") == order.count("b") == 3
    assert found["slow"] > 20 * found["a"]


def test_peak_memory_is_what_a_step_takes_at_most() -> None:
    """In a process of its own: memory that other tests have freed would serve the step unseen."""
    step = "first = torch.ones(32 * mib, dtype=u8); second = torch.ones(16 * mib, dtype=u8); del first, second"
    code = f"""
import torch
from benchmarks.measure import peak_bytes
mib, u8 = 2**20, torch.uint8
def step():
    {step}
    torch.ones(24 * mib, dtype=u8)
torch.ones(512, 512) @ torch.ones(512, 512)  # OpenMP threads exist before the fork
print(peak_bytes(step, "cpu") / mib, peak_bytes(step, "cpu", rehearsal=lambda: torch.ones(mib, dtype=u8)) / mib)
"""
    told = must(run(sys.executable, "-W", "ignore", "-c", code, cwd=ROOT, env={"OMP_NUM_THREADS": "2"}))
    assert len(told.split()) == 2 and all(47 <= float(peak) <= 52 for peak in told.split())


def test_the_page_shows_the_kept_results() -> None:
    page = table.PAGE.read_text(encoding="utf-8")
    assert table.rewritten(page) == page, "python -m benchmarks.table writes the tables anew"
    missed = [line for line in page.splitlines() if "**MISSED**" in line]
    files = [*report.RESULTS.glob("*.json"), *table.GPU_RESULTS.glob("*.json")]
    kept = [json.loads(file.read_text()).get("rows", []) for file in files]
    assert len(missed) == sum(row["verdict"] == "MISSED" for rows in kept for row in rows)
    assert ("No gate is missed" in page) == (not missed)
    row = {**vars(MISSED), "ratio": MISSED.ratio, "verdict": MISSED.verdict, "note": "why", "unit": "ms"}
    assert table._line(row) == "| time | peer | 1 ms | 2 ms | 0.50 | at most 0.4 | **MISSED**; why |"
    assert table._line({**row, "ours": 123456.0, "unit": ""}).startswith("| time | peer | 123,456 | 2 |")
    part = {"part": "step", "state": "stopped", "note": "at its limit", "commit": "abc", "driver": "580"}
    shown = table._of_file({**part, "command": "this", "chip": "H200", "versions": {"trl": "absent"}, "rows": [row]})
    assert shown.startswith("`this`, H200; . Part `step`: stopped, at its limit; commit abc, driver 580.\n")
    assert shown.endswith(table._line(row))
