import pytest

from kernomics.models import YOTO
from kernomics.models.tasks import Task
from kernomics.models.yoto.diagnostics import TrainingWarning, training_warnings
from kernomics.train import History

TYPE, AGE = Task("type", "categorical", ("a", "b")), Task("age", "continuous")


def history(*, variance: float = 1.0, **last: float) -> History:
    """Losses that start at 1 and end at what is given."""
    first = {"split": "train", "score_variance": 0.0}
    end = {"split": "train", "score_variance": variance}
    names = [f"loss/{name}" for name in last]
    return History(
        [
            {**first, **dict.fromkeys(names, 1.0)},
            {"split": "validation"},
            {**end, **dict(zip(names, last.values(), strict=True))},
        ]
    )


def test_sound_training_gives_no_warning():
    assert training_warnings(history(type=0.3, age=0.5), [TYPE, AGE]) == []
    assert training_warnings(History([{"split": "train"}]), [TYPE]) == []


def test_scores_that_never_parted_are_noticed_when_there_was_a_choice():
    (found,) = training_warnings(history(variance=1e-12, type=0.3), [TYPE])
    assert "gene scores are nearly all the same (standard deviation 1.0e-06)" in found
    assert training_warnings(history(variance=0, type=0.3), [TYPE], free=False) == []


def test_task_left_behind_by_another_is_named_with_both_ratios():
    (found,) = training_warnings(history(type=0.2, age=0.99), [TYPE, AGE])
    assert "'age' did not learn (its loss went to 99% of the first)" in found
    assert "'type' did (20%)" in found
    assert "task_weights" in found


def test_no_task_learning_is_told_otherwise():
    (found,) = training_warnings(history(type=1.0, age=1.1), [TYPE, AGE])
    assert "The loss of 'type', 'age' did not fall" in found


def test_task_of_weight_0_is_not_expected_to_learn():
    ignored = Task("age", "continuous", weight=0.0)
    assert training_warnings(history(type=0.2, age=0.99), [TYPE, ignored]) == []


def test_model_keeps_the_warnings_and_gives_them(adata):
    model = YOTO(adata, "cell_type", 8, score_learning_rate=1e-9, marker_prior=0.0)
    with pytest.warns(TrainingWarning, match="gene scores are nearly all the same") as given:
        model.train(max_epochs=2, progress=False)
    assert [str(warning.message) for warning in given] == model.warnings
