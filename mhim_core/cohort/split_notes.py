"""Notes on the user's own splits: what takes no part, what validation is taken from, what is not tested."""

from collections.abc import Iterator, Sequence

from mhim_core.cohort.findings import quote, quote_all
from mhim_core.cohort.splits import resolve_scheme
from mhim_core.cohort.table import Cohort, CohortRow
from mhim_core.cohort.task_options import SplitOptions, SplitScheme
from mhim_core.cohort.tasks import targets_of
from mhim_core.errors import SplitError
from mhim_core.task import Task, TaskKind


def require_split_column(cohort: Cohort, options: SplitOptions) -> None:
    """Refuse to draw folds where a column seems to hold the table's own. Raises SplitError naming it."""
    if options.scheme is SplitScheme.auto and cohort.likely_splits:
        raise SplitError(
            f"{cohort.name}: {quote_all(cohort.likely_splits)} seems to hold train, val and test, or folds, and is not "
            "read: call it split or fold, or set scheme=folds to draw folds without it"
        )


def split_notes(rows: Sequence[CohortRow], task: Task, options: SplitOptions) -> tuple[str, ...]:
    """One sentence each on the splits that `splits.make_splits` makes of the same rows; drawn folds have none.

    Raises SplitError where both the split and the fold column are filled, or neither and the scheme asks for one.
    """
    targets = targets_of(rows, task)
    rows = [row for row in rows if row.slide_id in targets]
    if resolve_scheme(rows, options.scheme) is not SplitScheme.column:
        return ()
    column = "split" if any(row.split for row in rows) else "fold"
    assigned = [row for row in rows if getattr(row, column) is not None]
    notes = list(_left_out(rows, assigned, column))
    if column == "split":
        return (*notes, *part_notes(assigned, task, options, "the split column"))
    for fold in sorted({row.fold for row in assigned if row.fold is not None}):
        notes += _untested([row for row in assigned if row.fold == fold], task, f"fold {fold} of the fold column")
    return tuple(notes)


def part_notes(rows: Sequence[CohortRow], task: Task, options: SplitOptions, source: str) -> Iterator[str]:
    """Notes on one train, val and test. Every row has a `split` and a target; `source` begins the sentences."""
    if not any(row.split == "val" for row in rows):
        yield f"{source} has no val: validation is taken from its train, {options.val_fraction:g} of it"
    yield from _untested([row for row in rows if row.split == "test"], task, source)


def _left_out(rows: Sequence[CohortRow], assigned: Sequence[CohortRow], column: str) -> Iterator[str]:
    kept = {row.slide_id for row in assigned}
    missing = [row.slide_id for row in rows if row.slide_id not in kept]
    if missing:
        yield (
            f"{len(missing)} of {len(rows)} slides have no value in the {column} column and take no part: "
            f"{quote_all(missing)}"
        )


def _untested(test: Sequence[CohortRow], task: Task, source: str) -> Iterator[str]:
    if not test:
        yield f"{source} has no test: nothing is held out to evaluate the models on"
    elif task.kind is TaskKind.classification:
        present = {row.label for row in test}
        missing = ", ".join(quote(label) for label in task.classes if label not in present)
        if missing:
            yield f"{source} tests no slide of class {missing}: metrics that need one are null there"
