"""An audit as about ten lines in the terminal, and as an HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from cot_components.viz.page import render
from cot_components.viz.visible import one_line

WIDTH = 13


def audit_lines(found: Any, model: Any = None) -> list[str]:
    """The lines that print a `tools.audit.Audit` and, if given, a `tools.audit_model.ModelView`."""
    return [one_line(f"{name:<{WIDTH}}{text}") for name, text in (*_lines(found), *_of_model(model))]


def audit_page(found: Any, *, title: str, model: Any = None, model_name: str = "") -> str:
    """The same as HTML, with more places per finding."""
    total = max(sum(found.roles.values()), 1)
    title = f"What {title} trains on"
    return render("audit.jinja", title=title, found=found, model=model, model_name=model_name, total=total)


def shortened(places: Sequence[str], most: int = 3) -> str:
    """The first places, without their folders, and how many more."""
    places = [place.rpartition("/")[2] for place in places]
    more = f" and {len(places) - most:,} more" if len(places) > most else ""
    return "; ".join(places[:most]) + more


def _lines(found: Any) -> Iterator[tuple[str, str]]:
    yield "rows", found.read
    for name, fault in (("wrong", True), ("to check", False)):
        these = [finding for finding in found.findings if finding.fault == fault]
        for finding in these:
            yield name, f"{len(finding.places):,} x {finding.about}: {shortened(finding.places)}"
            name = ""
        if not these:
            yield name, "nothing"
    if found.compared:
        yield "test rows", f"also in the training data: {', '.join(found.compared)}"
    spread = [f"{name} {' / '.join(f'{n:,}' for n in numbers)}" for name, numbers in found.lengths.items()]
    yield "tokens", f"in {'; '.join(spread)} (min / 50 / 90 / 99 % / max)"
    total = max(sum(found.roles.values()), 1)
    yield "roles", ", ".join(f"{role} {number / total:.1%}" for role, number in found.roles.items())
    yield "template", "; ".join(found.habits) or "adds nothing and leaves nothing out"
    yield "in the loss", "; ".join(stage_text(stage) for stage in found.stages)


def stage_text(stage: Any) -> str:
    """One line about a stage."""
    share = stage.supervised / max(stage.tokens, 1)
    mean = stage.weight / max(stage.supervised, 1)
    weight = "" if abs(mean - 1) < 1e-6 else f" of mean weight {mean:.3g}"
    return f"{stage.name}: {share:.1%} of {stage.tokens:,} tokens{weight}"


def _of_model(model: Any) -> Iterator[tuple[str, str]]:
    if model is None:
        return
    for name, f in model.figures.items():
        yield (
            "the model" if name == "all" else "",
            f"{name}: mean probability {f.probability:.3f}, entropy {f.entropy:.3f}, {f.sure:.1%} above 0.9, "
            f"{f.unsure:.1%} below 0.1",
        )
    least = [f"{shortened([place])} ({mean:.2f})" for place, mean in model.unlikely[:5]]
    yield "unlikely", f"{', '.join(least)} (mean log-probability)"
    for note in model.notes:
        yield "studied", note
