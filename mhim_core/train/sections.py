"""The options that a run's record and a model's card hold, by section: which class says what each key means."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from mhim_core.cohort.task_options import SplitOptions, TaskOptions
from mhim_core.fingerprint import neutral_values
from mhim_core.mil.model_options import MhimOptions, ModelOptions
from mhim_core.records import with_neutral
from mhim_core.train.fit_options import FitOptions
from mhim_core.train.prediction import PredictOptions

SECTIONS: Mapping[str, type] = MappingProxyType(
    {
        "model": ModelOptions,
        "mhim": MhimOptions,
        "fit": FitOptions,
        "prediction": PredictOptions,
        "splits": SplitOptions,
        "target": TaskOptions,
    }
)


def flat_options(record: Mapping[str, Any]) -> dict[str, Any]:
    """Every key of a record, sections flattened, with the keys that a section leaves out at their neutral value.

    For comparing records of two versions: neither lacks a key because it is older. Keys that this version does not know
    are kept, so that a difference in them has a name.
    """
    filled = {key: {**_neutral(key), **item} if isinstance(item, Mapping) else item for key, item in record.items()}
    return flat(filled)


def known_options(record: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The same. Raises IntegrityError naming `where` and the keys of a section that this version does not know."""
    for name, kind in SECTIONS.items():
        if isinstance(record.get(name), Mapping):
            with_neutral(kind, record[name], where)
    return flat_options(record)


def flat(record: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of nested mappings, without the mappings' own names."""
    leaves: dict[str, Any] = {}
    for key, item in record.items():
        leaves |= flat(item) if isinstance(item, Mapping) else {key: item}
    return leaves


def neutral_options() -> dict[str, Any]:
    """Of every option added since 0.1, its neutral value: what a record without its section says of it."""
    return {key: value for section in SECTIONS for key, value in _neutral(section).items()}


def _neutral(section: str) -> Mapping[str, Any]:
    kind = SECTIONS.get(section)
    return {} if kind is None else neutral_values(kind)
