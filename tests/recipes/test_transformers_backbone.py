"""Commands on a folder that no family file fits: what a user types, and what comes out."""

import pytest
import torch
from commands import cot, must, tune, user_error
from families import distance, write_case
from tiny_runs import records, run

from cot_components.cli.main import main
from cot_components.data.generated.byte_tokenizer import write_byte_tokenizer
from cot_components.data.rows.scores import open_scores
from cot_components.evaluation.saved import read_evaluation, saved_evaluations
from cot_components.models import from_folder
from cot_components.models.adapter import adapt, logits
from cot_components.viz.learnt import learnt

FEW = """
dataset.source=generated dataset.max_rows=16 dataset.max_seq_len=400 dataset_val=null epochs=1 optimizer.lr=1e-2
evaluation.max_rows=2 evaluation.max_new_tokens=3 packed_tokens=null batch_size=8 gradient_accumulation_steps=1
lr_scheduler=null device=cpu dtype=fp32
"""
TOKENS = torch.randint(0, 20, (2, 12), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory):
    """Folders by case, each with a tokenizer."""
    made = tmp_path_factory.mktemp("hub")

    def written(case):
        if not (made / case).exists():
            write_case(made / case, case, vocab_size=384, max_position_embeddings=512)
            write_byte_tokenizer(made / case)
        return made / case

    return written


@torch.no_grad()
def test_a_model_that_convolves_is_trained_on_padded_rows(folder, tmp_path):
    """The shipped config packs, which is refused before a row is read; the export answers alike everywhere."""
    from transformers import AutoModelForCausalLM

    words = [f"model.path={folder('lfm2')}", *FEW.split()]
    packing = ["packed_tokens=900" if word == "packed_tokens=null" else word for word in words]
    assert "packed_tokens" in user_error(cot("validate bt_sft/any", *packing, cwd=tmp_path))
    words = ["dataset_val=0.25" if word == "dataset_val=null" else word for word in words]
    said = must(tune("bt_sft --config bt_sft/any", *words, f"output_dir={tmp_path / 'out'}", cwd=tmp_path))
    assert "Lfm2ForCausalLM" in said and "transformers backbone (no family file fits: model_type 'lfm2'" in said
    trained = adapt(from_folder(path=str(tmp_path / "out" / "model"), quiet=True)).eval()
    theirs, before = (AutoModelForCausalLM.from_pretrained(f) for f in (tmp_path / "out" / "model", folder("lfm2")))
    assert distance(logits(trained, TOKENS), theirs.eval()(TOKENS).logits) < 1e-5
    assert distance(before.eval()(TOKENS).logits, theirs(TOKENS).logits) > 1e-2
    first, last = (read_evaluation(path) for path in saved_evaluations(tmp_path / "out").values())
    found = learnt(first, last)
    assert found is not None and len(found.rows) == 4 and all(one.after < one.before for one in found.roles)
    assert "<h2>What was learnt</h2>" in (tmp_path / "out" / "report.html").read_text()


def test_scores_of_a_base_under_adapters_are_those_of_the_base(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["score", "bt_sft/any", f"model.path={folder('granite')}", *FEW.split(), "output_dir=out", "--columns"]
    for lora, out in (("null", "plain"), ("{rank: 4, alpha: 8}", "adapted")):
        assert main([*words, "nll", "--out", out, f"model.lora={lora}"]) == 0, capsys.readouterr().err
    plain, adapted = (open_scores(out) for out in ("plain", "adapted"))
    assert plain.meta["columns"] == adapted.meta["columns"]
    assert plain.finished("nll").tolist() == adapted.finished("nll").tolist() and plain.finished("nll").any()


def test_a_teacher_on_either_backbone_is_one_teacher(folder, tmp_path):
    """And so is a student."""
    llama, found = folder("llama, tied, as SmolLM2"), []
    for student, teacher in (("torchtune", "torchtune"), ("torchtune", "transformers"), ("transformers", "torchtune")):
        node = f"{{_component_: cot_components.models.from_folder, path: '{llama}', backbone: {teacher}, quiet: true}}"
        words = [f"model.path={llama}", f"model.backbone={student}", "loss._component_=cot_components.losses.asft"]
        words += ["reference._component_=cot_components.models.FrozenModel", f"reference.model={node}"]
        out = tmp_path / f"{student} {teacher}"
        assert (
            run("bt_sft", [*words, *FEW.split(), "evaluation=null", f"output_dir={out}"], config="bt_sft/any").code == 0
        )
        found.append([record["objective"] for record in records(out) if "objective" in record])
    assert len(found[0]) == 2 and found[0][0] != found[0][1]
    assert found[1] == pytest.approx(found[0], rel=1e-5) and found[2] == pytest.approx(found[0], rel=1e-4)
