"""Config files that would never end, or fill the memory, are one sentence."""

import pytest

from cot_components.cli.main import main
from cot_components.config.files import read_keys
from cot_components.errors import UserError


def doubled(line, first, count):
    return first + "".join(line.format(i, i - 1) for i in range(1, count))


BOMBS = {
    "deep lists": ("a: " + "[" * 3000 + "]" * 3000, "nests too deep"),
    "deep keys": ("\n".join(" " * i + "a:" for i in range(2000)), "nests too deep"),
    "laughs": (
        doubled("a{0}: &a{0} [*a{1}, *a{1}, *a{1}, *a{1}]\n", "a0: &a0 [x, x]\n", 20),
        "aliases are written out",
    ),
    "an alias of itself": ("a: 1\nb: &b [*b]\n", "line 2 holds itself"),
    "interpolations": (doubled("a{0}: ${{a{1}}}${{a{1}}}\n", "a0: x\n", 40), "interpolations"),
    "relative ones": (doubled("a{0}: ${{.a{1}}}${{.a{1}}}\n", "a0: x\n", 40), "interpolations"),
    "of a list": ("a0: [x, y]\n" + doubled("a{0}: ['${{a{1}}}', '${{a{1}}}']\n", "", 40), "interpolations"),
}


@pytest.mark.parametrize("name", list(BOMBS))
def test_a_config_that_never_ends(tmp_path, capsys, name):
    text, said = BOMBS[name]
    (tmp_path / "c.yaml").write_text(text)
    assert main(["validate", str(tmp_path / "c.yaml")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path}/c.yaml is no config: ") and said in error and error.count("\n") == 1


@pytest.mark.parametrize("text", ["seed: ${seed}\n", "seed: ${epochs}\nepochs: ${seed}\n"])
def test_an_interpolation_of_itself(tmp_path, capsys, text):
    (tmp_path / "c.yaml").write_text(text)
    assert main(["validate", str(tmp_path / "c.yaml"), "--recipe", "bt_sft"]) == 2
    assert capsys.readouterr().err == "error: config: Recursive interpolation detected\n"


def test_an_override_that_nests_too_deep(capsys):
    assert main(["validate", "bt_sft/quickstart", "dataset=" + "[" * 2000 + "]" * 2000]) == 2
    assert capsys.readouterr().err == "error: an override nests too deep\n"


def test_aliases_and_interpolations_of_a_usual_config_are_read(tmp_path):
    (tmp_path / "c.yaml").write_text('a: &a {b: 1}\nc: *a\nd: ${c.b}\ne: ["${d}"]\nf: {g: 1, h: "${.g}"}\n')
    read = read_keys(tmp_path / "c.yaml")
    assert read.c.b == 1 and read.d == 1 and read.e[0] == 1 and read.f.h == 1
    (tmp_path / "list.yaml").write_text("[1]")
    with pytest.raises(UserError, match="holds a list"):
        read_keys(tmp_path / "list.yaml")
