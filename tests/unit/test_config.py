"""The signature is the schema: every wrong key is one sentence, before anything is built."""

import sys
import types
from collections.abc import Callable, Sequence
from typing import Literal

import pytest
import torch
from omegaconf import OmegaConf

from cot_components.config import (
    ConfigError,
    build,
    check,
    check_nodes,
    find_config,
    fits,
    shipped_configs,
    walk,
)
from cot_components.config.components import locate
from cot_components.errors import UserError

BUILT = []


class Optimizer:
    def __init__(self, params, *, lr: float, betas: tuple[float, float] = (0.9, 0.999)) -> None:
        BUILT.append("optimizer")
        self.params, self.lr = params, lr


def outer(*, inner: object, size: int = 1) -> tuple[object, int]:
    BUILT.append("outer")
    return inner, size


def inner(*, ratio: float = 0.2, mode: Literal["a", "b"] = "a") -> str:
    BUILT.append("inner")
    return f"inner {ratio}"


def lazy(*, node: dict | None = None) -> object:
    return node


def main(*, seed: int, model: dict, batch_size: int = 4, compile: bool = False, name: str | None = None) -> None: ...


VALID = "valid: batch_size, compile, model, name, seed"


@pytest.fixture(autouse=True)
def components(monkeypatch):
    module = types.ModuleType("config_components")
    module.Optimizer, module.outer, module.inner, module.lazy, module.broken = Optimizer, outer, inner, lazy, broken
    monkeypatch.setitem(sys.modules, "config_components", module)
    BUILT.clear()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"seed": 1, "model": {}, "batch_sise": 4}, "unknown key 'batch_sise'; did you mean 'batch_size'?"),
        ({"model": {}}, "missing key 'seed'"),
        ({"seed": None, "model": {}}, "seed must be int, got None"),
        ({"seed": "None", "model": {}}, "seed must be int, got the text 'None' (write null for no value)"),
        ({"seed": 1, "model": {}, "batch_size": "two"}, "batch_size must be int, got 'two' (str)"),
        ({"seed": True, "model": {}}, "seed must be int, got True (bool)"),
        ({"seed": 1, "model": {}, "compile": "yes"}, "compile must be bool, got 'yes' (str)"),
        ({"seed": 1, "model": {}, "name": 3}, "name must be str or None, got 3 (int)"),
        ({"seed": 1, "model": 3}, "model must be a mapping, got 3 (int)"),
        ({2: 1, "seed": 1, "model": {}}, f"unknown key '2'; {VALID}"),
        (
            {True: 1, "seed": 1, "model": {}},
            f"unknown key 'True'; YAML reads a bare on, off, yes or no as a truth value: put it in quotes; {VALID}",
        ),
    ],
)
def test_recipe_keys(given, sentence):
    with pytest.raises(ConfigError) as error:
        check(main, given)
    assert str(error.value) == sentence


def test_a_key_is_text_even_where_any_is_taken():
    with pytest.raises(ConfigError, match="unknown key 'True'; YAML reads"):
        check(lambda **anything: None, {"a": 1, True: 1})


def test_right_keys_pass():
    check(main, {"seed": 1, "model": {}, "batch_size": 2, "compile": True, "name": None})


@pytest.mark.parametrize(
    ("node", "sentence"),
    [
        (
            {"_component_": "config_components.inner", "ration": 1.0},
            "unknown key 'data.x.ration'; did you mean 'ratio'?",
        ),
        ({"_component_": "config_components.inner", "mode": "c"}, "data.x.mode must be 'a' or 'b', got 'c' (str)"),
        ({"_component_": "config_components.iner"}, "data.x: 'config_components' has no 'iner'; did you mean 'inner'?"),
        ({"_component_": "no_such_module.f"}, "data.x: no module 'no_such_module' for 'no_such_module.f'"),
        ({"_component_": 3}, "data.x._component_ must be a dotted path, got 3 (int)"),
        ({"_component_": "config_components.outer"}, "missing key 'data.x.inner'"),
    ],
)
def test_nodes_are_checked_before_anything_is_built(node, sentence):
    with pytest.raises(ConfigError) as error:
        walk({"data": {"x": node}})
    assert str(error.value) == sentence
    assert BUILT == []


def test_arguments_of_the_recipe_are_not_asked_for():
    node = {"optimizer": {"_component_": "config_components.Optimizer", "lr": 1}}
    walk(node, {"optimizer": ["params"]})
    with pytest.raises(ConfigError, match=r"missing key 'optimizer\.params'"):
        walk(node)


def test_inner_nodes_are_built_first():
    node = {
        "_component_": "config_components.outer",
        "inner": {"_component_": "config_components.inner", "ratio": 0.5},
        "size": 2,
    }
    walk({"node": node})
    assert build(node) == ("inner 0.5", 2)
    assert BUILT == ["inner", "outer"]
    assert build({"a": node["inner"], "b": [1, node["inner"]]}) == {"a": "inner 0.5", "b": [1, "inner 0.5"]}
    assert build({"_component_": "config_components.Optimizer", "lr": 1}, ["w"]).params == ["w"]


def test_a_component_that_takes_a_mapping_gets_its_node():
    node = {"_component_": "config_components.lazy", "node": {"_component_": "config_components.inner", "ratio": 0.5}}
    assert build(node) == node["node"] and BUILT == []
    with pytest.raises(ConfigError, match=r"unknown key 'x\.node\.size'"):
        walk({"x": {**node, "node": {**node["node"], "size": 1}}})


def test_fits_lets_components_stand_for_anything():
    assert fits({"_component_": "x.y"}, float)
    assert not fits({"x": 1}, float)


def test_only_a_component_stands_for_a_function():
    assert fits({"_component_": "x.y"}, Callable[[int], float] | None) and fits(None, Callable[[int], float] | None)
    assert not fits("x", float | Callable[[int], float]) and not fits({"x": 1}, Callable | None)
    with pytest.raises(ConfigError, match=r"^rule must be a component \(_component_\) or None, got 'x' \(str\)"):
        check(lambda_of_a_rule, {"rule": "x"})


def lambda_of_a_rule(*, rule: Callable[..., float] | None = None) -> None: ...


def test_a_node_of_a_recipe_names_a_component():
    check_nodes(recipe_of_nodes, {"model": {"_component_": "x.y"}, "tags": {"a": "b"}, "validation": {"a": 1}})
    check_nodes(recipe_of_nodes, {"model": {"_component_": "x.y"}, "logger": None})
    with pytest.raises(ConfigError, match=r"^model names no component: set model\._component_$"):
        check_nodes(recipe_of_nodes, {"model": {}})
    with pytest.raises(ConfigError, match=r"^logger names no component: set logger\._component_, or logger=null$"):
        check_nodes(recipe_of_nodes, {"logger": {"a": 1}})


def recipe_of_nodes(
    *, model: dict, logger: dict | None, tags: dict[str, str] | None, validation: float | dict | None
) -> None: ...


@pytest.mark.parametrize(
    ("node", "supplied", "sentence"),
    [
        (
            {"_component_": "torch.optim.AdamW", "betas": [0.9]},
            {},
            "torch.optim.AdamW refuses what it is given (IndexE",
        ),
        ({"_component_": "torch.optim.AdamW", "foreach": True, "fused": True}, {}, "`fused` and `foreach` cannot be"),
        ({"_component_": "torch.optim.SGD", "lr": -1}, {}, "Invalid learning rate: -1"),
        ({"_component_": "torch.optim.SGD"}, {"steps": 1}, "torch.optim.SGD refuses what it is given (TypeError: SGD"),
        ({"_component_": "torch.load", "f": "/no/such/file"}, {}, "[Errno 2] No such file or directory"),
    ],
)
def test_what_an_installed_component_refuses_is_one_sentence(node, supplied, sentence):
    weights = [torch.nn.Parameter(torch.zeros(1))] if "optim" in node["_component_"] else []
    with pytest.raises(UserError) as error:
        build(node, *(weights and [weights]), where="optimizer", **supplied)
    assert str(error.value).startswith(f"optimizer: {sentence}") and "\n" not in str(error.value)
    assert error.value.__cause__ is not None
    outer = {"_component_": "config_components.outer", "inner": node}
    if not weights:
        with pytest.raises(UserError, match=r"^x\.inner: "):
            build(outer, where="x")
        with pytest.raises(UserError, match=r"^torch\.load: "):
            build(outer)


@pytest.mark.parametrize("component", ["cot_components.clock.row_keys", "config_components.broken"])
def test_a_fault_of_a_component_of_ours_or_the_users_own_keeps_its_traceback(component):
    with pytest.raises(ValueError, match="invalid literal") as error:
        build({"_component_": component, "seed": "x", "epoch": 0, "ids": []})
    assert type(error.value) is ValueError


def broken(*, seed: str, epoch: int, ids: list) -> int:
    return int(seed)


def test_a_text_is_no_sequence_of_texts():
    assert fits(["a"], Sequence[str]) and not fits("a", Sequence[str]) and not fits(0.5, Sequence[float])


Part = Literal["q_proj", "k_proj", "v_proj", "output_proj"]


def with_lists(
    *,
    modules: list[Part] = [],  # noqa: B006
    rates: tuple[float, ...] = (),
    sizes: Sequence[int] | None = None,
    nested: list[list[str]] | None = None,
    free: list | None = None,
    betas: tuple[float, float] = (0.9, 0.99),
) -> None: ...


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"modules": ["q_proj", "vproj"]},
            "modules[1] must be 'q_proj' or 'k_proj' or 'v_proj' or 'output_proj', got 'vproj' (str)"
            "; did you mean 'v_proj'?",
        ),
        ({"modules": [3]}, "modules[0] must be 'q_proj' or 'k_proj' or 'v_proj' or 'output_proj', got 3 (int)"),
        ({"modules": "q_proj"}, "modules must be list, got 'q_proj' (str)"),
        ({"rates": [1, 0.5, True]}, "rates[2] must be float, got True (bool)"),
        ({"sizes": [1, 2.5]}, "sizes[1] must be int, got 2.5 (float)"),
        ({"sizes": "12"}, "sizes must be Sequence or None, got '12' (str)"),
        ({"nested": [["a"], ["b", None]]}, "nested[1][1] must be str, got None"),
    ],
)
def test_every_element_of_a_list_is_checked(given, sentence):
    with pytest.raises(ConfigError) as error:
        check(with_lists, given)
    assert str(error.value) == sentence


def test_lists_that_are_right():
    node = {"_component_": "config_components.inner"}
    check(with_lists, {"modules": ["q_proj", "v_proj"], "rates": [1, 0.5, node], "sizes": None, "nested": [[], ["a"]]})
    check(with_lists, {"modules": [], "sizes": [1, node], "free": ["a", 1, None, {"b": 2}], "betas": [0.9, 1]})
    check(with_lists, OmegaConf.create({"modules": ["q_proj"], "rates": [1, 2.0], "sizes": [1, node]}))


def test_locate_names_a_module_that_is_missing_inside():
    assert locate("math.sqrt", "x")(4) == 2
    with pytest.raises(ConfigError, match="not a component"):
        locate("math.pi", "x")


def test_find_config(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("seed: 1\n")
    assert find_config(str(path)) == path
    assert shipped_configs()
    with pytest.raises(
        ConfigError, match=r"bt_sft/quikstart: no such file or shipped config; did you mean 'bt_sft/quickstart'\?"
    ):
        find_config("bt_sft/quikstart")
