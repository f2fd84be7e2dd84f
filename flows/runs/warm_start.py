"""Another model's weights as the start of a training: found, pinned in the run's identity, copied into its folder.

The patients that model was trained on count as known to the new one, in the gate and wherever new slides are judged.
"""

from collections.abc import Callable, Sequence, Set
from typing import Any, NamedTuple

from flows.config.commands import TrainConfig
from flows.runs.fits import results_of, trained_on
from flows.runs.folder import Run, known_key, read_run
from flows.runs.signed_registry import open_registry
from mhim_core.errors import ConfigError
from mhim_core.fingerprint import canonical_json, fingerprint
from mhim_core.registry.card import TrainedOn
from mhim_core.registry.lookup import find_model
from mhim_core.registry.models import read_member_file
from mhim_core.registry.names import is_reference
from mhim_core.store.feature_sets import FeatureSet
from mhim_core.task import Task
from mhim_core.train.card import load_card
from mhim_core.train.prediction import PredictWith
from mhim_core.train.results import initial_differences, initial_key, read_model


class Start(NamedTuple):
    """A model to start from."""

    origin: str
    """name@version, or the run's fingerprint."""
    digests: dict[int, str]
    """sha256 of the model file, by seed."""
    trained_on: TrainedOn
    read: Callable[[int], bytes]
    """The file of a seed, verified."""

    def identity(self) -> dict[str, Any]:
        """What it adds to the run's: plain JSON."""
        models = {str(seed): digest for seed, digest in self.digests.items()}
        return {"models": models, "trained_on": fingerprint(self.trained_on)}


def find_start(config: TrainConfig, seeds: Sequence[int]) -> Start:
    """The model that `warm_start=` means.

    Raises ConfigError where it has no model of a seed, or one a fold; InputError where there is none or it is not
    finished.
    """
    start = _of_registry(config) if is_reference(config.warm_start) else _of_run(config.warm_start, config.store)
    if missing := sorted(set(seeds) - start.digests.keys()):
        raise ConfigError(f"warm_start={config.warm_start} has no model of the seeds {', '.join(map(str, missing))}")
    return start._replace(digests={seed: start.digests[seed] for seed in seeds})


def check_start(start: Start, config: TrainConfig, task: Task, features: FeatureSet) -> None:
    """Raises ConfigError, before the run is created, where the model is of other features, another task or options."""
    provenance = {"feature_set": features.fingerprint, "encoder": features.encoder_fingerprint}
    for seed in start.digests:
        wrong = initial_differences(load_card(start.read(seed)), features.dim, task, config.model, provenance)
        if wrong:
            raise ConfigError(f"warm_start={config.warm_start} does not match what is trained; {'; '.join(wrong)}")


def take_start(run: Run, config: TrainConfig, start: Start | None) -> None:
    """Copy the models and the record of their training data into the run, unless they are there: it stands on its own.

    `start`: the model, where it was looked up when the run was created; None: it is looked up if anything is missing.

    Raises ConfigError where the model is no longer the one that the run was created with.
    """
    pinned = run.identity["warm_start"]
    wanted = {initial_key(digest) for digest in pinned["models"].values()} | {known_key(pinned["trained_on"])}
    if wanted <= {entry.key for entry in run.storage.list("initial")}:
        return
    start = start or find_start(config, run.seeds)
    if start.identity() != pinned:
        raise ConfigError(
            f"warm_start={config.warm_start} is {start.origin} now, and the run was created with "
            f"{run.record['started_from']}; name that one, or choose another out="
        )
    for seed, digest in start.digests.items():
        run.storage.put_if_absent(initial_key(digest), start.read(seed))
    run.storage.put_if_absent(known_key(pinned["trained_on"]), canonical_json(start.trained_on))


def _of_registry(config: TrainConfig) -> Start:
    registry = open_registry(config.registry, config.trust)
    model = find_model(registry, config.warm_start)
    members = {member.seed: member for member in model.card.members}
    _check_one_a_seed(config.warm_start, len(model.card.members), len(members))
    _say_who({member.predict_with for member in members.values()}, config.warm_start)
    digests = {seed: member.sha256 for seed, member in members.items()}
    return Start(
        f"{model.name}@{model.version}",
        digests,
        model.card.trained_on,
        lambda seed: read_member_file(registry, model, members[seed].file),
    )


def _of_run(uri: str, store: str) -> Start:
    other = read_run(uri, spare_store=store)
    fits = results_of(other)
    results = {fold_fits.seed: fold_fits.results[other.method] for fold_fits in fits}
    _check_one_a_seed(uri, len(fits), len(results))
    _say_who({other.predict_with}, uri)
    digests = {seed: result.model_sha256 for seed, result in results.items()}
    known = trained_on(other, {fold_fits.fold for fold_fits in fits})
    return Start(other.record["fingerprint"], digests, known, lambda seed: read_model(other.storage, results[seed]))


def _say_who(predicting: Set[PredictWith], source: str) -> None:
    if others := sorted(predicting - {PredictWith.student}):
        print(f"note: warm_start={source} predicts with {', '.join(others)}; the training starts from its student")


def _check_one_a_seed(source: str, num_models: int, num_seeds: int) -> None:
    if num_models > num_seeds:
        raise ConfigError(
            f"warm_start={source} holds {num_models} models of {num_seeds} seeds, one a fold; only a model of "
            "scheme=final can be started from"
        )
