"""Sentences of a model card on how an adapter was trained and checked."""

from hf_lorameta.cards.results import Outcome, Training
from hf_lorameta.tables import plural


def steps_chosen(training: Training) -> str:
    """Say which rows the number of steps was chosen on; nothing if the recipe stated it.

    Example:
        >>> steps_chosen(Training(rows=152, held_out=48, start=0.2, end=0.8, steps=96))
        'The number of steps was chosen on 48 other rows.'
        >>> steps_chosen(Training(rows=16, held_out=16, start=0.2, end=0.8, steps=24, folds=4))
        'The number of steps was chosen in 4 folds: for each, an adapter was trained on the other \
folds, and answered the rows of this one.'
        >>> steps_chosen(Training(rows=16, held_out=0, start=None, end=None, steps=24))
        ''
    """
    if training.folds:
        return (
            f"The number of steps was chosen in {plural(training.folds, 'fold')}: for each, an "
            "adapter was trained on the other folds, and answered the rows of this one."
        )
    if not training.held_out:
        return ""
    return f"The number of steps was chosen on {plural(training.held_out, 'other row')}."


def rows_checked(outcome: Outcome) -> str:
    """Say which rows right answers were counted on, after ``of the dataset``.

    Example:
        >>> from hf_lorameta.cards.results import Check, RightAnswers
        >>> check = Check(16, 2.0, 1.0, RightAnswers(most_frequent=7, base=2, end=12))
        >>> rows_checked(Outcome(check=check))
        'that were not trained on'
        >>> trained = Training(rows=16, held_out=16, start=0.2, end=0.8, steps=24, folds=4)
        >>> rows_checked(Outcome(trained, check))
        'that were answered in folds, each by an adapter that was not trained on them; this one \
was trained on all of them'
        >>> trained = Training(rows=152, held_out=48, start=0.2, end=0.8, steps=96)
        >>> rows_checked(Outcome(trained, check))
        'that were not trained on, but chose the number of steps, which flatters it slightly'
    """
    training, check = outcome.training, outcome.check
    asked = outcome.drawn and outcome.drawn.check
    if check is None or training is None or not training.held_out or asked:
        return "that were not trained on"
    if training.folds:
        rest = "; this one was trained on all of them" if training.steps else ""
        return f"that were answered in folds, each by an adapter that was not trained on them{rest}"
    return "that were not trained on, but chose the number of steps, which flatters it slightly"
