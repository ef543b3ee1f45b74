"""Config files that would never end, or fill the memory, are one sentence."""

import pytest

from cot_components.cli.main import main
from cot_components.config.files import read_keys
from cot_components.errors import UserError


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
    with pytest.raises(UserError, match=rf"c\.yaml is no config: .*{said}"):
        read_keys(tmp_path / "c.yaml")


def test_an_interpolation_that_goes_round(tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("seed: ${epochs}\nepochs: ${seed}\n")
    assert main(["validate", str(tmp_path / "c.yaml"), "--recipe", "bt_sft"]) == 2
    assert "Recursive interpolation" in capsys.readouterr().err


def test_aliases_and_interpolations_of_a_usual_config_are_read(tmp_path):
    (tmp_path / "c.yaml").write_text('a: &a {b: 1}\nc: *a\nd: ${c.b}\ne: ["${d}"]\nf: {g: 1, h: "${.g}"}\n')
    read = read_keys(tmp_path / "c.yaml")
    assert read.c.b == 1 and read.d == 1 and read.e[0] == 1 and read.f.h == 1
