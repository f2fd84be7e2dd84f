"""The models of a run's finished fits, loaded when they are asked for."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from flows.runs.fits import model_names
from flows.runs.folder import Run
from flows.viewing.source import ModelChoice, Recent, kept_models
from mhim_core.errors import InputError
from mhim_core.train.plan import Stage, fit_name
from mhim_core.train.results import FitResult, read_model, read_result

if TYPE_CHECKING:
    from mhim_core.train.inference import Voter
    from mhim_core.train.model_file import LoadedModel

_TITLES = {"student": "student", "teacher": "teacher", "plain": "stage-1 model"}
_STAGES = {"student": Stage.mhim, "teacher": Stage.mhim, "plain": Stage.plain}


class RunModels:
    """The finished fits of a run, loaded when they are asked for."""

    def __init__(self, run: Run) -> None:
        self.run = run
        stages = (Stage.mhim, Stage.plain) if run.method == Stage.mhim else (Stage.plain,)
        names = [fit_name(seed, split.fold, stage) for seed in run.seeds for split in run.splits for stage in stages]
        results = {name: read_result(run.storage, name) for name in names}
        self.results: dict[str, FitResult] = {name: result for name, result in results.items() if result is not None}
        self.missing = [name for name in names if name not in self.results]
        self._loaded: Recent[str, LoadedModel] = Recent(self._load, kept_models())

    def choices(self, relation_to: Mapping[int, str]) -> list[ModelChoice]:
        """Every model; first those that do not know the slide, of the roles in the order of the run's report."""
        first = {"mhim": "student", "mhim teacher": "teacher", "plain": "plain"}.get(
            model_names(self.run)[0], "student"
        )
        roles = [first, *(role for role in _TITLES if role != first)]
        found = []
        for seed in self.run.seeds:
            for split in self.run.splits:
                for role in roles:
                    if fit_name(seed, split.fold, _STAGES[role]) not in self.results:
                        continue
                    title = f"fold {split.fold} · {_TITLES[role]}"
                    if len(self.run.seeds) > 1:
                        title += f" · seed {seed}"
                    relation = relation_to.get(split.fold, "new")
                    found.append(ModelChoice(f"{role}-{seed}-{split.fold}", title, split.fold, seed, role, relation))
        order = {"held_out": 0, "new": 0, "validation": 1, "train": 2}
        return sorted(found, key=lambda choice: (order[choice.relation], roles.index(choice.role)))

    def voter(self, key: str) -> "Voter":
        """Raises InputError where there is none of that key."""
        from mhim_core.train.inference import Voter

        role, _, place = key.partition("-")
        seed, _, fold = place.rpartition("-")
        if role not in _STAGES or not fold.isdecimal():
            raise InputError(f"there is no model {key}")
        loaded = self.loaded(f"seed-{seed}/fold-{fold}/{_STAGES[role]}")
        if role == "teacher":
            if loaded.teacher is None:
                raise InputError(f"there is no model {key}")
            return Voter(loaded.teacher, False, loaded.card.task)  # it never sees recycled tokens
        return Voter(loaded.student, loaded.card.append_recycled, loaded.card.task)

    def loaded(self, name: str) -> "LoadedModel":
        """The model file of a fit. Raises InputError where there is none."""
        if name not in self.results:
            raise InputError(f"there is no finished fit {name}")
        return self._loaded.get(name)

    def _load(self, name: str) -> "LoadedModel":
        from mhim_core.train.model_file import load_model

        return load_model(read_model(self.run.storage, self.results[name]))
