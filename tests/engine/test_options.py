import pytest

from snrmix.engine.options import Finetuning, Training


@pytest.mark.parametrize(
    "option",
    [
        {"max_epochs": 0}, {"max_epochs": 2.5}, {"max_epochs": True}, {"patience": 0}, {"hidden": 0}, {"dropout": 1.0},
        {"dropout": -0.1}, {"learning_rate": 0}, {"learning_rate": float("nan")}, {"weight_decay": -1},
        {"weight_average": 1.1}, {"stem_boost": 0.5}, {"steps_per_epoch": 0}, {"largest_batch": 0},
    ],
)  # fmt: skip
def test_training_out_of_range_is_refused(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        Training(**option)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"part": "first"}, "part='first' is unknown; choose one of 'all', 'last'"),
        ({"precision": "fp16"}, "precision='fp16' is unknown"),
        ({"start": "random"}, "start='random' is unknown"),
        ({"max_epochs": 0}, "max_epochs=0 must be a whole number from 1 up"),
        ({"batch_size": 1}, "batch_size=1 must be a whole number from 2 up"),
        ({"size": 12.5}, "size=12.5 must be a whole number"),
        ({"learning_rate": 0}, "learning_rate=0 must be positive"),
        ({"clip": -1}, "clip=-1 must be positive"),
        ({"min_learning_rate": 1.0}, "min_learning_rate=1.0 must lie between 0 and learning_rate"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1 must not be negative"),
        ({"devices": 2}, "devices=2: one device trains all networks"),
        ({"weight_average": 1}, "weight_average=1 must lie between 0 and 1"),
        ({"dropout": 1.0}, "dropout=1.0 must be a share"),
    ],
)
def test_finetuning_out_of_range_is_refused(option, sentence):
    with pytest.raises(ValueError, match=sentence):
        Finetuning(**option)
