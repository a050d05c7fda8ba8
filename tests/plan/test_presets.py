import pytest

import snrmix
from snrmix.engine.options import Finetuning
from snrmix.plan.presets import PRESETS, apply_preset


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_are_the_published_recipe(name):
    chosen = apply_preset(name, {})
    assert chosen["encoder"] == "timm:vit_large_patch16_224" and chosen["genes"] == 250
    assert chosen["finetune"] is True and chosen["kriging"] is False and chosen["n_folds"] == 1
    assert 0.5 * chosen["validation"] == pytest.approx(0.2)  # of all spots, when half are measured
    training = chosen["finetuning"]
    assert (training.max_epochs, training.batch_size, training.dropout) == (200, 8, 0.2)
    assert training.learning_rate == training.head_learning_rate == 3e-5 and training.min_learning_rate == 1e-7
    assert (training.betas, training.eps, training.weight_decay) == ((0.9, 0.98), 1e-6, 1e-4)
    assert (training.start, training.augment, training.clip, training.weight_average) == ("zero", False, None, 0.0)
    assert training.early_stopping and training.patience >= training.max_epochs  # the best epoch of all


def test_the_two_differ_in_what_paper_and_program_differ():
    paper, code = (apply_preset(name, {}) for name in ("paper", "authors_code"))
    assert {name for name in paper if paper[name] != code[name]} == {"mix", "losses"}
    assert (paper["mix"].graph, paper["mix"].kernel, paper["mix"].k) == ("spatial", "gaussian", 30)
    assert code["mix"] == snrmix.SNRMixing(10, 0.5, 1.0, "expression", "exponential", True, "all")
    assert code["losses"] == snrmix.Losses(1, 0.5, 50, 0.05)


def test_what_is_given_wins():
    own = Finetuning(max_epochs=3)
    chosen = apply_preset("paper", {"genes": 20, "finetuning": own, "measured": "m"})
    assert chosen["genes"] == 20 and chosen["finetuning"] is own and chosen["measured"] == "m"
    assert chosen["n_folds"] == 1


def test_an_unknown_preset_is_refused():
    with pytest.raises(
        ValueError, match="unknown preset='papr'; available: 'paper', 'authors_code'. Did you mean 'paper'?"
    ):
        apply_preset("papr", {})
