"""The model card of every exported folder: a README.md that says how the weights were made, from which model and data.

It depends only on config, data and results, so a resumed run writes the same card, bit for bit: no date, no duration,
no name of the run's folder. Secrets are left out, and the home folder is `~`.
"""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from cot_components.config import COMPONENT
from cot_components.config.components import locate
from cot_components.data.rows.dataset import ReasoningDataset
from cot_components.evaluation.evaluate import Evaluation
from cot_components.evaluation.table import Cell, footnote, summary_rows
from cot_components.runs.same_config import FREE_TO_CHANGE
from cot_components.secrets import without_secrets
from cot_components.training.recipe import Running, running
from cot_components.training.setup import versions

CARD = "README.md"
TAG = "cot-components"
NOT_SHOWN = FREE_TO_CHANGE - {"batch_size", "gradient_accumulation_steps", "evaluation"}
LICENCES = ("license", "license_name", "license_link")
TEXTS = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
"""Files of a base model that must be passed on with it."""
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


class Base(NamedTuple):
    """The base model.

    folder: name of the folder, "" for random weights
    hub_id: its name on the hub, if the folder tells
    card:   the YAML on top of its README.md
    texts:  its licence files, name to bytes
    """

    folder: str = ""
    hub_id: str | None = None
    card: Mapping[str, Any] = MappingProxyType({})
    texts: Mapping[str, bytes] = MappingProxyType({})

    @property
    def name(self) -> str:
        """The base model as the card names it; "" for random weights."""
        return self.hub_id.rpartition("/")[2] if self.hub_id else self.folder

    @property
    def licence(self) -> dict[str, Any]:
        """The keys of a card that name a licence."""
        return {key: self.card[key] for key in LICENCES if key in self.card}


def write_card(
    folder: Path,
    model: Any,
    data: ReasoningDataset,
    evaluations: Sequence[tuple[int, Evaluation]],
    *,
    step: int,
    total_steps: int,
) -> None:
    """Write `README.md` into an exported folder, along with the base model's licence files.

    Args:
        folder: of the weights, or of adapters if it holds an `adapter_config.json`.
        model: its `hub`, if any, identifies the base model.
        data: the training data.
        evaluations: steps with their evaluations; the first and the last are shown.
        step, total_steps: optimizer steps done and planned.
    """
    base = read_base(getattr(model, "hub", None))
    now = running() or Running("cot_sft", (), {}, {})
    config = _without_home(without_secrets(now.config))
    adapters = (folder / "adapter_config.json").is_file()
    shown = _ends(evaluations)
    what = f"LoRA adapters of {base.name}" if adapters else base.name or "A model from random weights"
    text = _template().render(
        front=_yaml(_front_matter(base, now.name, adapters)),
        title=f"{base.name or 'Random weights'}, trained by {now.name}",
        opening=f"{what}, fine-tuned on chain-of-thought." if base.name else f"{what}, trained on chain-of-thought.",
        when="at the end of training" if step == total_steps else f"after step {step} of {total_steps}",
        base=_base_sentence(base),
        licence=_licence_sentence(base),
        recipe=now.name,
        **{name: _kind(config.get(name)) for name in ("loss", "curriculum", "reference", "trainable")},
        rule=_kind((config.get("loss") or {}).get("weight_rule")),
        transforms=", ".join(f"`{_kind(node)}`" for node in _transforms(config).values() if node),
        selectors=", ".join(f"`{_kind(node)}`" for node in _selectors(config).values() if node),
        sources=_sources(config.get("dataset", {})),
        rows=data.summary(),
        table=_table(shown),
        note=footnote(list(shown.values())).replace("\n", "; ") if shown else "",
        command=_without_home(_command(now.name, now.argv)),
        settings=_yaml(_differing(config, now.defaults)),
        versions=", ".join(f"{name} {version}" for name, version in versions().items() if name != "cpu threads"),
    )
    (folder / CARD).write_text(without_secrets(text), encoding="utf-8")
    for name, content in base.texts.items():
        (folder / name).write_bytes(content)


def read_base(hub: Any) -> Base:
    """The base model as described by its folder; `hub` is a model's, None for random weights."""
    if hub is None:
        return Base()
    folder, card, texts = hub.path.resolve(), front_matter(hub.path / CARD), {}
    for path in sorted({path for pattern in TEXTS for path in folder.glob(pattern) if path.is_file()}):
        with suppress(OSError):  # not worth losing the trained weights
            texts[path.name] = path.read_bytes()
    return Base(folder.name, _hub_id(folder, hub.config, card), card, texts)


def front_matter(path: Path) -> Mapping[str, Any]:
    """The YAML on top of a README; empty if there is none, or none that can be read."""
    try:
        found = re.match(r"---\s*\n(.*?)^---\s*$", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
        read = yaml.safe_load(found[1]) if found else {}
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return read if isinstance(read, dict) else {}


def _hub_id(folder: Path, config: Mapping[str, Any], card: Mapping[str, Any]) -> str | None:
    """From the layout of the hub's cache, or config.json; for the output of one of our own runs, its base model's."""
    cached = [part.removeprefix("models--").replace("--", "/") for part in folder.parts if part.startswith("models--")]
    ours = card.get("base_model") if TAG in (card.get("tags") or ()) else None
    named = [*cached, ours, config.get("_name_or_path")]
    return next((str(name) for name in named if name and HUB_ID.fullmatch(str(name))), None)


def _front_matter(base: Base, recipe: str, adapters: bool) -> dict[str, Any]:
    known = {"base_model": base.hub_id} if base.hub_id else {}
    return {
        **known,
        **base.licence,
        "library_name": "peft" if adapters else "transformers",
        "pipeline_tag": "text-generation",
        "tags": [TAG, "torchtune", "chain-of-thought", recipe],
    }


def _base_sentence(base: Base) -> str:
    if not base.name:
        return "None: training started from random weights."
    link = f"[{base.hub_id}](https://huggingface.co/{base.hub_id})" if base.hub_id else f"`{base.name}`"
    return f"{link}, as in the folder `{base.folder}`."


def _licence_sentence(base: Base) -> str:
    if not base.name:
        return ""
    if base.licence:
        name = base.licence.get("license_name") or base.licence.get("license")
        said = f"Its licence, which also applies to these weights: {name}."
    elif base.texts:
        said = "Its licence also applies to these weights."
    else:
        return "Its folder names no licence: look it up before you share these weights."
    return said + "".join(f" See [{name}]({name})." for name in base.texts)


def _kind(node: Any) -> str:
    """The last part of the component a node names, "" for no node."""
    return str(node[COMPONENT]).rpartition(".")[2] if isinstance(node, Mapping) and COMPONENT in node else ""


def _selectors(config: Mapping[str, Any]) -> Mapping[str, Any]:
    return config.get("dataset", {}).get("select") or {}


def _transforms(config: Mapping[str, Any]) -> Mapping[str, Any]:
    return config.get("dataset", {}).get("transforms") or {}


def _sources(dataset: Mapping[str, Any]) -> list[str]:
    """Where the rows come from, with split and subset."""
    source = dataset.get("source", _kind(dataset))
    named = source.values() if isinstance(source, Mapping) else [{"source": source}]
    parts = ("source", "subset", "split")
    return [", ".join(str(v) for k in parts if (v := one.get(k, dataset.get(k))) is not None) for one in named]


def _ends(evaluations: Sequence[tuple[int, Evaluation]]) -> dict[str, Evaluation]:
    chosen = evaluations if len(evaluations) < 2 else [evaluations[0], evaluations[-1]]
    return {f"after step {step}" if step else "before training": result for step, result in chosen}


def _table(evaluations: Mapping[str, Evaluation]) -> str:
    """The evaluations in Markdown; "" if there are none."""

    def text(cell: Cell) -> str:
        return f"{cell.value} ({cell.detail})" if cell.detail else cell.value

    if not evaluations:
        return ""
    rows = [(title, *map(text, cells)) for title, cells in summary_rows(list(evaluations.values()))]
    lines = [("", *evaluations), ("---",) * (1 + len(evaluations)), *(row for row in rows if any(row[1:]))]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _command(name: str, arguments: Sequence[str]) -> str:
    """The command without the keys for the run's folder and saving."""
    kept = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if key.split(".")[-1] not in NOT_SHOWN and key.split(".")[0] not in NOT_SHOWN:
            kept.append(f"{key}={_safe(value, key.rpartition('.')[2])}" if equals else argument)
    return shlex.join(["tune", "run", name, *kept])


def _safe(value: str, key: str) -> str:
    """The value of an override without secrets, including those inside `{...}`."""
    try:
        node = yaml.safe_load(value)
    except yaml.YAMLError:
        node = value
    if isinstance(node, (dict, list)) and without_secrets(node, key) != node:
        return yaml.safe_dump(without_secrets(node, key), default_flow_style=True, width=10**9).strip()
    return str(without_secrets(value, key))


def _differing(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A config, or a node of it, without the keys that have their default values."""
    kept = {}
    for key, value in config.items():
        if key in NOT_SHOWN or (key in defaults and value == defaults[key]):
            continue
        if isinstance(value, Mapping):
            value = _differing(value, _defaults_of(value))
        kept[key] = value
    return kept


def _defaults_of(node: Mapping[str, Any]) -> dict[str, Any]:
    """Argument -> default of the component that a node names."""
    if COMPONENT not in node:
        return {}
    parameters = inspect.signature(locate(node[COMPONENT], "")).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _yaml(node: Mapping[str, Any]) -> str:
    return yaml.safe_dump(node, sort_keys=False, allow_unicode=True) if node else "{}\n"


def _without_home(node: Any) -> Any:
    """The home folder as `~` in a text, or in all texts of a config."""
    if isinstance(node, Mapping):
        return {key: _without_home(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_without_home(value) for value in node]
    home = str(Path.home())
    if not isinstance(node, str) or home == "/":
        return node
    return re.sub(rf"(?<![\w/]){re.escape(home)}(?=[/\s'\"]|$)", "~", node)


@cache
def _template() -> Template:
    loader = FileSystemLoader(Path(__file__).parent)
    made = Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
    return made.get_template("card.jinja")
