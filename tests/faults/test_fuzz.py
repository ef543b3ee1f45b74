"""A few cases of `fuzz_folder`, drawn by a seed; `make soak` has all of them."""

import json
import random
import shutil

import pytest
from fuzz_folder import COMMANDS, Fuzz, cases
from tally import count

READ = ("config.yaml", "log.jsonl", "versions.json", "classes.json", "evaluations/", "manifest.json", "config.json")
CLASSES = {"threshold": 0.0, "num_tokens": 10, "num_reasoning": 4, "confusion": [[3, 1], [2, 4]]}
CLASSES |= {"boilerplate": [["a", -1.0, 3]], "reasoning": [["b", 1.0, 2]]}


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in ("speed", "view")])
def test_a_broken_file_ends_a_command_in_one_sentence(bt_sft, tmp_path, command):
    run = tmp_path / "whole"
    shutil.copytree(bt_sft.out, run, ignore=shutil.ignore_patterns("step_000000*", "*.safetensors"))
    (run / "classes.json").write_text(json.dumps(CLASSES))
    fuzz = Fuzz(run, tmp_path)
    found = [case for case in cases(run) if case.command == command and any(name in case.file for name in READ)]
    for case in random.Random(0).sample(found, 12):
        count("faults injected")
        assert fuzz.try_one(case) is None, case
