"""The signature is the schema: what fits it, what is built in which order; `test_messages.py` has what it refuses."""

import sys
import types
from collections.abc import Callable, Sequence
from typing import Literal

import pytest
import torch
from omegaconf import OmegaConf

from cot_components.config import ConfigError, build, check, check_nodes, find_config, fits, shipped_configs, walk
from cot_components.config.components import locate
from cot_components.config.files import read_keys
from cot_components.errors import UserError

BUILT = []
INNER = {"_component_": "config_components.inner"}


class Optimizer:
    def __init__(self, params, *, lr: float, betas: tuple[float, float] = (0.9, 0.999)) -> None:
        self.params = params


def outer(*, inner: object, size: int = 1) -> tuple[object, int]:
    BUILT.append("outer")
    return inner, size


def inner(*, ratio: float = 0.2) -> str:
    BUILT.append("inner")
    return f"inner {ratio}"


def lazy(*, node: dict | None = None) -> object:
    return node


def broken(*, seed: str, epoch: int, ids: list) -> int:
    return int(seed)


@pytest.fixture(autouse=True)
def components(monkeypatch):
    module = types.ModuleType("config_components")
    vars(module).update(Optimizer=Optimizer, outer=outer, inner=inner, lazy=lazy, broken=broken)
    monkeypatch.setitem(sys.modules, "config_components", module)
    BUILT.clear()


def test_keys_are_checked_by_the_signature():
    def main(*, seed: int, model: dict, batch_size: int = 4, compile: bool = False, name: str | None = None): ...

    check(main, {"seed": 1, "model": {}, "batch_size": 2, "compile": True, "name": None})


def test_nodes_are_checked_before_anything_is_built():
    with pytest.raises(ConfigError, match=r"'data\.x\.inner\.ration'"):
        walk({"data": {"x": {"_component_": "config_components.outer", "inner": {**INNER, "ration": 1.0}}}})
    with pytest.raises(ConfigError, match=r"missing key 'data\.x\.inner'"):
        walk({"data": {"x": {"_component_": "config_components.outer"}}})
    assert BUILT == []


def test_arguments_of_the_recipe_are_not_asked_for():
    node = {"optimizer": {"_component_": "config_components.Optimizer", "lr": 1}}
    walk(node, {"optimizer": ["params"]})
    with pytest.raises(ConfigError, match=r"missing key 'optimizer\.params'"):
        walk(node)
    assert build(node["optimizer"], ["w"]).params == ["w"]


def test_inner_nodes_are_built_first():
    half = {**INNER, "ratio": 0.5}
    node = {"_component_": "config_components.outer", "inner": half, "size": 2}
    walk({"node": node})
    assert build(node) == ("inner 0.5", 2)
    assert BUILT == ["inner", "outer"]
    assert build({"a": half, "b": [1, half]}) == {"a": "inner 0.5", "b": [1, "inner 0.5"]}


def test_a_component_that_takes_a_mapping_gets_its_node():
    node = {"_component_": "config_components.lazy", "node": {**INNER, "ratio": 0.5}}
    assert build(node) == node["node"] and BUILT == []
    with pytest.raises(ConfigError, match=r"'x\.node\.size'"):
        walk({"x": {**node, "node": {**node["node"], "size": 1}}})


@pytest.mark.parametrize(
    ("value", "wanted", "right"),
    [
        ({"_component_": "x.y"}, float, True),
        ({"x": 1}, float, False),
        ({"_component_": "x.y"}, Callable[[int], float] | None, True),
        (None, Callable[[int], float] | None, True),
        ("x", float | Callable[[int], float], False),
        ({"x": 1}, Callable | None, False),
        (["a"], Sequence[str], True),
        ("a", Sequence[str], False),
        (0.5, Sequence[float], False),
        ([["a"], []], list[list[str]], True),
        ([["a"], ["b", None]], list[list[str]], False),
    ],
)
def test_a_component_stands_for_anything_and_alone_for_a_function(value, wanted, right):
    assert fits(value, wanted) is right


def test_a_node_of_a_recipe_names_a_component():
    def main(
        *, model: dict, logger: dict | None, tags: dict[str, str] | None, validation: float | dict | None
    ) -> None: ...

    check_nodes(main, {"model": {"_component_": "x.y"}, "tags": {"a": "b"}, "validation": {"a": 1}})
    check_nodes(main, {"model": {"_component_": "x.y"}, "logger": None})


@pytest.mark.parametrize(
    ("node", "supplied", "said"),
    [
        ({"_component_": "torch.optim.AdamW", "betas": [0.9]}, {}, "IndexE"),
        ({"_component_": "torch.optim.AdamW", "foreach": True, "fused": True}, {}, "`fused` and `foreach`"),
        ({"_component_": "torch.optim.SGD"}, {"steps": 1}, "TypeError: SGD"),
    ],
)
def test_what_an_installed_component_refuses_is_one_sentence(node, supplied, said):
    with pytest.raises(UserError, match=f"^optimizer: .*{said}") as error:
        build(node, [torch.nn.Parameter(torch.zeros(1))], where="optimizer", **supplied)
    assert "\n" not in str(error.value) and error.value.__cause__ is not None


def test_a_refusal_names_the_node_where_there_is_one():
    node = {"_component_": "config_components.outer", "inner": {"_component_": "torch.load", "f": "/no/such/file"}}
    for where, key in (("x", r"x\.inner"), ("", r"torch\.load")):
        with pytest.raises(UserError, match=f"^{key}: "):
            build(node, where=where) if where else build(node)


@pytest.mark.parametrize("component", ["cot_components.clock.row_keys", "config_components.broken"])
def test_a_fault_of_a_component_of_ours_or_the_users_own_keeps_its_traceback(component):
    with pytest.raises(ValueError, match="invalid literal") as error:
        build({"_component_": component, "seed": "x", "epoch": 0, "ids": []})
    assert type(error.value) is ValueError


def test_lists_that_are_right():
    def with_lists(
        *,
        modules: list[Literal["q_proj", "v_proj"]] = (),
        rates: tuple[float, ...] = (),
        sizes: Sequence[int] | None = None,
        free: list | None = None,
        betas: tuple[float, float] = (0.9, 0.99),
    ) -> None: ...

    check(with_lists, {"modules": ["q_proj", "v_proj"], "rates": [1, 0.5, INNER], "sizes": None})
    check(with_lists, {"modules": [], "sizes": [1, INNER], "free": ["a", 1, None, {"b": 2}], "betas": [0.9, 1]})
    check(with_lists, OmegaConf.create({"modules": ["q_proj"], "rates": [1, 2.0], "sizes": [1, INNER]}))


def test_a_path_is_a_path_and_a_name_a_shipped_config(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("seed: 1\n")
    assert find_config(str(path)) == path and shipped_configs()
    assert locate("math.sqrt", "x")(4) == 2


def doubled(line, first, count):
    return first + "".join(line.format(i, i - 1) for i in range(1, count))


LAUGHS = doubled("a{0}: &a{0} [*a{1}, *a{1}, *a{1}, *a{1}]\n", "a0: &a0 [x, x]\n", 20)
BOMBS = {
    "deep keys": ("\n".join(" " * i + "a:" for i in range(2000)), "deep"),
    "laughs": (LAUGHS, "aliases"),
    "interpolations": (doubled("a{0}: ${{a{1}}}${{a{1}}}\n", "a0: x\n", 40), "interpolations"),
    "relative ones": (doubled("a{0}: ${{.a{1}}}${{.a{1}}}\n", "a0: x\n", 40), "interpolations"),
    "of a list": ("a0: [x, y]\n" + doubled("a{0}: ['${{a{1}}}', '${{a{1}}}']\n", "", 40), "interpolations"),
}


@pytest.mark.parametrize(("text", "said"), BOMBS.values(), ids=BOMBS)
def test_a_config_that_never_ends(tmp_path, text, said):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UserError, match=rf"c\.yaml is not a config: .*{said}"):
        read_keys(tmp_path / "c.yaml")


def test_aliases_and_interpolations_of_a_usual_config_are_read(tmp_path):
    (tmp_path / "c.yaml").write_text('a: &a {b: 1}\nc: *a\nd: ${c.b}\ne: ["${d}"]\nf: {g: 1, h: "${.g}"}\n')
    read = read_keys(tmp_path / "c.yaml")
    assert read.c.b == 1 and read.d == 1 and read.e[0] == 1 and read.f.h == 1
