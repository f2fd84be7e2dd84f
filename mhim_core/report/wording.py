"""The sentences of a report: the task, the protocol of the evaluation, the intended use."""

from collections.abc import Sequence

from mhim_core.task import Task, TaskKind


def title_of(cohort: str, task: Task) -> str:
    """The page's title."""
    names = {TaskKind.survival: "survival", TaskKind.regression: "regression"}
    return f"{cohort}: {names.get(task.kind) or ', '.join(task.classes)}"


def what_is_predicted(task: Task, unit: str) -> str:
    """Such as `Telling normal, tumour apart from whole slides`. `unit`: of bags, slide or patient."""
    source = "whole slides" if unit == "slide" else "all whole slides of a patient"
    if task.kind is TaskKind.survival:
        return f"Predicting the risk of an earlier event, in {task.time_bins} time bins, from {source}"
    if task.kind is TaskKind.regression:
        return f"Predicting a number from {source}"
    return f"Telling {', '.join(task.classes)} apart from {source}"


def protocol_of(
    *, unit: str, num_folds: int, seeds: Sequence[int], replicates: int, selected_by: str, uno_tau: float | None = None
) -> str:
    """How a run's numbers were obtained.

    `selected_by`: the metric that chose the epoch on validation; empty: the last epoch was kept.
    """
    scheme = "One split" if num_folds == 1 else f"{num_folds} patient-level folds"
    judged = "slide is judged by a model that saw no slide of its patient"
    if unit == "patient":
        judged = "patient is judged by a model that saw none of the patient's slides"
    epoch = f"whose epoch was chosen by {selected_by} on validation patients alone"
    sentences = [f"{scheme}; every {judged} and {epoch if selected_by else 'whose last epoch was kept'}."]
    if len(seeds) > 1:
        sentences.append(
            f"Every fold was trained {len(seeds)} times, with {_seeds(seeds)}: a pooled value is the mean over seeds "
            f"of each seed's value, so that it says how good one model is expected to be, not the mean of several."
        )
    if replicates:
        sentences.append(
            f"Intervals are 95 % percentiles of {replicates} bootstrap replicates over patients on the pooled held-out "
            "predictions" + ("; a draw of patients is the same for all seeds." if len(seeds) > 1 else ".")
        )
    if uno_tau is not None:
        sentences.append(
            f"Uno's C counts events before time {uno_tau:g}, to which every fold's training patients were followed."
        )
    return " ".join(sentences)


def intended_use(kind: TaskKind, unit: str) -> str:
    """What the model's output is, for its card."""
    output = {
        TaskKind.classification: "probabilities of the classes",
        TaskKind.survival: "risks, which rank patients but are not survival times",
        TaskKind.regression: "numbers in the unit of the table's labels",
    }[kind]
    return (
        f"Research on digitised slides prepared and scanned like those below. Predictions are {unit}-level {output}, "
        "with an attention map; attention shows what the model weighed, not where disease is."
    )


OUT_OF_SCOPE = (
    "Out of scope: diagnosis, triage or treatment of patients, and other stains, organs, scanners, sites or "
    "resolutions than those it was tested on."
)


def _seeds(seeds: Sequence[int]) -> str:
    listed = sorted(seeds)
    if listed == list(range(listed[0], listed[-1] + 1)):
        return f"seeds {listed[0]} to {listed[-1]}"
    return f"seeds {', '.join(map(str, listed))}"
