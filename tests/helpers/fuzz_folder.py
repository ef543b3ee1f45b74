"""Every file of a run's folder broken in every way, and every command that reads it: exit 0, or a sentence and exit 2.

`cases` lists what can be done, `Fuzz.try_one` does one of it in this process, on a copy. `make soak` tries all of it,
`tests/faults/test_fuzz.py` a few that a seed draws.
"""

from __future__ import annotations

import io
import json
import random
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from cot_components.cli.main import main

SECONDS = 60
"""A command that takes longer hangs."""


def _json(path: Path, change: Callable[[Any, random.Random], Any], chance: random.Random) -> None:
    """Change one value of a JSON file, a JSON line of a log, or a YAML file that happens to be neither."""
    lines = (
        path.read_text(errors="replace").split("\n") if path.suffix == ".jsonl" else [path.read_text(errors="replace")]
    )
    index = chance.randrange(max(1, len(lines) - 1))
    try:
        content = json.loads(lines[index])
    except ValueError:
        content = {"a": lines[index][:20]}
    lines[index] = json.dumps(_changed(content, change, chance))
    path.write_text("\n".join(lines))


def _changed(content: Any, change: Callable[[Any, random.Random], Any], chance: random.Random) -> Any:
    inner = (
        list(content) if isinstance(content, dict) else list(range(len(content))) if isinstance(content, list) else []
    )
    if not inner or chance.random() < 0.2:
        return change(content, chance)
    key = chance.choice(inner)
    content[key] = _changed(content[key], change, chance)
    return content


OTHERS = (None, True, -1, 10**400, 1e308, "", "text", "\ud800", [], [1], {}, {"a": 1}, [[[]]], "${oc.env:NOWHERE}")


def _cut(path: Path, chance: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: chance.randrange(max(1, len(content)))])


def _flip(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(chance.choice((1, 3))):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def _folder(path: Path, chance: random.Random) -> None:
    path.unlink()
    path.mkdir()


HARMS: dict[str, Callable[[Path, random.Random], Any]] = {
    "cut": _cut,
    "emptied": lambda path, chance: path.write_bytes(b""),
    "flipped": _flip,
    "another value": lambda path, chance: _json(path, lambda old, c: c.choice(OTHERS), chance),
    "another value, again": lambda path, chance: _json(path, lambda old, c: c.choice(OTHERS), chance),
    "not text": lambda path, chance: path.write_bytes(b"\xff\xfe\x00\x01" * 9),
    "deep": lambda path, chance: path.write_text("[" * 100_000),
    "missing": lambda path, chance: path.unlink(),
    "a folder": _folder,
    "unreadable": lambda path, chance: None,  # see `Fuzz.try_one`
}
COMMANDS: dict[str, list[str]] = {
    "report": ["report", "{run}", "--out", "{out}/report.html"],
    "compare": ["compare", "{run}", "--out", "{out}/curves.png"],
    "samples": ["samples", "{run}"],
    "validate": ["validate", "{run}/config.yaml"],
    "view": ["view", "{run}/config.yaml", "--n", "1"],
    "speed": ["speed", "{run}", "--rows", "1", "--batch-size", "1"],
}


class Case(NamedTuple):
    """A command, a file of the run by its place, and what happens to it."""

    command: str
    file: str
    harm: str


def cases(run: Path) -> Iterator[Case]:
    """Every command with every harm to every file."""
    for path in sorted(run.rglob("*")):
        if path.is_file() and path.stat().st_size:
            yield from (Case(c, path.relative_to(run).as_posix(), h) for c in COMMANDS for h in HARMS)


class Fuzz:
    """Tries cases on copies of a whole run.

    Args:
        run: the run's folder, left as it is.
        work: folder for the copies.
    """

    def __init__(self, run: Path, work: Path, *, seed: int = 0) -> None:
        self.run, self.work, self.seed = run, work, seed

    def try_one(self, case: Case) -> str | None:
        """None where the command ends as it must; else what it did instead."""
        copy, out = self.work / "run", self.work / "out"
        for folder in (copy, out):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.run, copy)
        path, chance = copy / case.file, random.Random(f"{self.seed} {case}")
        HARMS[case.harm](path, chance)
        words = [word.format(run=copy, out=out) for word in COMMANDS[case.command]]
        with ExitStack() as stack:
            said, _ = (stack.enter_context(to(io.StringIO())) for to in (redirect_stderr, redirect_stdout))
            if case.harm == "unreadable":
                stack.enter_context(closed(path))
            stack.enter_context(alarm(SECONDS))
            try:
                code = main(words)
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1
            except BaseException:
                return traceback.format_exc()
        errors = [line for line in said.getvalue().splitlines() if line.startswith("error: ")]
        fine = (code == 0 and not errors) or (code == 2 and len(errors) == 1)
        return None if fine and "Traceback" not in said.getvalue() else f"exit {code}: {said.getvalue()[-2000:]}"


@contextmanager
def closed(path: Path) -> Iterator[None]:
    """Inside, the file cannot be opened: as for another user, whoever runs the tests."""
    original = io.open

    def refuse(file: Any, *args: Any, **kwargs: Any) -> Any:
        if str(file) == str(path):
            raise PermissionError(13, "Permission denied", str(file))
        return original(file, *args, **kwargs)

    with mock.patch("io.open", refuse), mock.patch("builtins.open", refuse):
        yield


@contextmanager
def alarm(seconds: int) -> Iterator[None]:
    """Raise BaseException in what takes longer than so many seconds."""

    def ring(*args: object) -> None:
        raise BaseException(f"still running after {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
