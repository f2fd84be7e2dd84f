"""The table of commands: the flow and config class of each, and how its words are read. Imports nothing heavy."""

import dataclasses
import difflib
import importlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from mhim_core.errors import ConfigError


class FlowCommand(NamedTuple):
    """A command: `flows.<module>.<function>(config)` runs it."""

    module: str
    config: str
    summary: str
    example: str
    function: str = "run"
    positional: tuple[str, ...] = ()
    """Keys that may be given as bare words, in this order: `mhim model show lung` means `name=lung`."""
    heading: str = ""
    """Above it in `mhim --help`, where a group of commands begins."""
    wraps_flow: bool = False
    """Words that are not its own keys are another flow's: checked as by that flow, and kept in `overrides`."""
    stays_here: bool = False
    """It serves whoever sits at this machine: no job of a cluster."""


IN_JOB = "MHIM_IN_JOB"
"""Set in a job of a cluster: the flow starts only after every node has been found to reach the places that it names."""


FLOWS = {
    "check": FlowCommand(
        "check",
        "CheckConfig",
        "validate a cohort table and its slides",
        "cohort=my.csv",
        heading="From slides to a report",
    ),
    "encoders": FlowCommand(
        "encoders",
        "encoders.EncodersConfig",
        "the tile encoders by name: dimension, scale, licence, needs",
        "uni2-h",
        positional=("name",),
    ),
    "embed": FlowCommand(
        "embed", "EmbedConfig", "slides → tile features in a store", "cohort=my.csv store=./features target_mpp=0.5"
    ),
    "train": FlowCommand(
        "train",
        "TrainConfig",
        "features → one model per fold and seed",
        "cohort=my.csv store=./features folds=5 out=runs/first",
    ),
    "sweep": FlowCommand(
        "sweep",
        "sweep.SweepConfig",
        "train under every combination of some keys' values, and rank them on validation",
        'cohort=my.csv store=./features out=sweeps/first vary="high_mask_ratio=.01,.03 random_mask_ratio=.1,.8"',
    ),
    "evaluate": FlowCommand("evaluate", "EvaluateConfig", "held-out predictions and metrics", "run=runs/first"),
    "predict": FlowCommand(
        "predict",
        "PredictConfig",
        "new slides through a run's models, or a registered model",
        "run=runs/first cohort=new.csv out=predictions/new",
    ),
    "report": FlowCommand("report", "ReportConfig", "one HTML page with heat maps", "run=runs/first"),
    "view": FlowCommand(
        "view",
        "view.ViewConfig",
        "slides, heat maps and what was mined, in the browser",
        "run=runs/first",
        stays_here=True,
    ),
    "hardness": FlowCommand(
        "hardness",
        "hardness.HardnessConfig",
        "hard slides, suspect labels, and what sampling by type would do",
        "run=runs/first",
    ),
    "compare": FlowCommand(
        "compare",
        "CompareConfig",
        "paired differences between runs, or between one run's models",
        "runs=[runs/first,runs/second] out=comparisons/first",
    ),
    "convert": FlowCommand(
        "convert",
        "ConvertConfig",
        "published checkpoints (MHIM-MIL, CLAM) into model files, and back",
        "checkpoint=theirs.pt out=model.safetensors classes=normal,tumour",
    ),
    "import": FlowCommand(
        "import_features",
        "interop.ImportConfig",
        "features of TRIDENT, CLAM, STAMP, MHIM-MIL or slide2vec into a store",
        "source=./features_uni_v1 format=trident cohort=my.csv store=./features",
    ),
    "export": FlowCommand(
        "export_features",
        "interop.ExportConfig",
        "a store's features as files of these tools, or the tiles as PNG or WebDataset",
        "store=./features format=clam out=./clam cohort=my.csv",
    ),
    "export geojson": FlowCommand(
        "export_slides",
        "slide_exports.GeojsonConfig",
        "attention, evidence, top tiles and tissue of each slide for QuPath",
        "run=runs/first out=./qupath shares=0.1,0.05",
        function="geojson",
    ),
    "export heatmap": FlowCommand(
        "export_slides",
        "slide_exports.HeatmapConfig",
        "attention of each slide as pyramidal OME-TIFF in the slide's pixels",
        "run=runs/first out=./heatmaps style=values downsample=8",
        function="heatmap",
    ),
    "pipeline": FlowCommand(
        "pipeline",
        "lifecycle.PipelineConfig",
        "embed, train, evaluate, report; makes the first champion of a name",
        "cohort=my.csv store=./features out=runs registry=./registry name=lung",
        heading="A model's life: retraining, schedules, versions",
    ),
    "retrain": FlowCommand(
        "retrain",
        "lifecycle.RetrainConfig",
        "new data → a challenger → the gate → promoted or not",
        "name=lung registry=./registry cohort=my.csv store=./features",
    ),
    "flow status": FlowCommand(
        "status",
        "lifecycle.FlowStatusConfig",
        "progress of the steps of a pipeline or retraining",
        "lung registry=./registry",
        positional=("name",),
    ),
    "schedule add": FlowCommand(
        "schedule",
        "schedules.ScheduleAddConfig",
        "run a flow on a schedule: here, from crontab or on Kubernetes",
        'retrain cron="0 2 * * 0" registry=./registry name=lung cohort=my.csv store=./features',
        function="add",
        positional=("flow",),
        wraps_flow=True,
    ),
    "schedule ls": FlowCommand(
        "schedule",
        "schedules.ScheduleLsConfig",
        "the schedules: what runs when, and how past runs ended",
        "registry=./registry",
        "ls",
    ),
    "schedule allow": FlowCommand(
        "schedule",
        "schedules.ScheduleAllowConfig",
        "let a schedule run on this machine",
        "retrain-1a2b3c4d registry=./registry",
        function="allow",
        positional=("schedule",),
    ),
    "schedule rm": FlowCommand(
        "schedule",
        "schedules.ScheduleRmConfig",
        "remove a schedule",
        "retrain-1a2b3c4d registry=./registry",
        function="rm",
        positional=("schedule",),
    ),
    "schedule run-now": FlowCommand(
        "schedule",
        "schedules.ScheduleRunNowConfig",
        "run a schedule once, now",
        "retrain-1a2b3c4d registry=./registry",
        function="run_now",
        positional=("schedule",),
    ),
    "schedule serve": FlowCommand(
        "scheduling.service",
        "schedules.ScheduleServeConfig",
        "run schedules when they are due, until stopped",
        "registry=./registry",
    ),
    "model ls": FlowCommand(
        "model",
        "models.ModelListConfig",
        "the models of a registry, and which is champion",
        "registry=./registry",
        function="ls",
        positional=("name",),
    ),
    "model show": FlowCommand(
        "model",
        "models.ModelShowConfig",
        "a model's card, and which versions were champion when",
        "lung registry=./registry",
        function="show",
        positional=("name",),
    ),
    "model register": FlowCommand(
        "model",
        "models.ModelRegisterConfig",
        "register a finished run as a model",
        "lung run=runs/first registry=./registry",
        function="register",
        positional=("name",),
    ),
    "model promote": FlowCommand(
        "model",
        "models.ModelPromoteConfig",
        "make a model champion by hand",
        "lung version=1f0c9a3e registry=./registry",
        function="promote_by_hand",
        positional=("name",),
    ),
    "model rollback": FlowCommand(
        "model",
        "models.ModelRollbackConfig",
        "make an earlier champion the champion again",
        "lung to=1f0c9a3e registry=./registry",
        function="rollback_to",
        positional=("name",),
    ),
    "model keygen": FlowCommand(
        "model",
        "models.ModelKeygenConfig",
        "make a pair of keys for signing",
        "out=keys/retraining.pem",
        function="keygen",
    ),
    "model sign": FlowCommand(
        "model",
        "models.ModelSignConfig",
        "sign promotions and cards that are not signed yet",
        "lung registry=./registry signing_key=keys/retraining.pem",
        function="sign",
        positional=("name",),
    ),
    "status": FlowCommand(
        "store_status",
        "store.StoreStatusConfig",
        "how far an embedding has come, from any terminal or machine",
        "store=./features",
        heading="Stores, clusters and the demo",
    ),
    "store verify": FlowCommand(
        "store",
        "store.StoreVerifyConfig",
        "find missing and damaged files of a store, by slide",
        "store=./features deep=true",
        function="verify",
    ),
    "store repair": FlowCommand(
        "store",
        "store.StoreRepairConfig",
        "embed the slides of those files again, to the same bytes",
        "store=./features cohort=my.csv",
        function="repair",
    ),
    "store ls": FlowCommand(
        "keep", "store.StoreLsConfig", "the feature sets of a store, or the slides of one", "store=./features", "ls"
    ),
    "store gc": FlowCommand(
        "keep",
        "store.StoreGcConfig",
        "list, or delete, what nobody needs in a store",
        "store=./features delete=true",
        function="gc",
    ),
    "store rm": FlowCommand(
        "keep",
        "store.StoreRmConfig",
        "take a slide, or a patient's slides, out of a store",
        "store=./features slide=s17 delete=true",
        function="rm",
    ),
    "doctor": FlowCommand(
        "doctor",
        "doctor.DoctorConfig",
        "whether this machine and the places named have what a run needs",
        "store=s3://bucket/features cohort=my.csv",
    ),
    "submit": FlowCommand(
        "submit",
        "jobs.SubmitConfig",
        "run any flow as a job of a Ray cluster",
        "embed cohort=my.csv store=s3://bucket/features ray_address=http://host:8265 --wait",
        positional=("flow",),
        wraps_flow=True,
    ),
    "jobs ls": FlowCommand(
        "jobs", "jobs.JobsLsConfig", "the jobs of a cluster", "ray_address=http://host:8265", function="ls"
    ),
    "jobs logs": FlowCommand(
        "jobs",
        "jobs.JobsLogsConfig",
        "the log of a job",
        "embed-0123456789ab-1 --follow ray_address=http://host:8265",
        function="logs",
        positional=("job",),
    ),
    "jobs stop": FlowCommand(
        "jobs",
        "jobs.JobsStopConfig",
        "end a job",
        "embed-0123456789ab-1 ray_address=http://host:8265",
        function="stop",
        positional=("job",),
    ),
    "demo": FlowCommand(
        "demo", "DemoConfig", "the whole path, embed to report and predict, on a painted cohort", "out=demo"
    ),
}


def group_of(word: str) -> list[str]:
    """The commands of two words that begin with this one."""
    return [name for name in FLOWS if name.split()[0] == word and name != word]


def find_command(names: Sequence[str]) -> str:
    """The command that the first one or two words name. Raises ConfigError with the nearest name."""
    if (both := " ".join(names[:2])) in FLOWS:
        return both
    members = [name.split()[1] for name in group_of(names[0])]
    if names[0] in FLOWS:
        if members and len(names) > 1 and "=" not in names[1] and not names[1].startswith("-"):
            raise ConfigError(f"mhim {names[0]} takes {', '.join(members)} or key=value, not {names[1]!r}")
        return names[0]
    if members:
        raise ConfigError(f"mhim {names[0]} needs one of {', '.join(members)}")
    close = difflib.get_close_matches(names[0], FLOWS, n=1)
    suggestion = f" (did you mean {close[0]!r}?)" if close else ""
    raise ConfigError(f"unknown command {names[0]!r}{suggestion}; commands: {', '.join(FLOWS)}")


def read_words(name: str, words: Sequence[str]) -> Any:
    """The command's config, from bare words, `--flag`s and `key=value`s, and the words of a flow that it wraps."""
    from flows.config.flat import keys_of
    from flows.config.words import parse

    command, kind = FLOWS[name], config_class(name)
    keys = keys_of(kind)
    own: list[str] = []
    others: list[str] = []
    for word in spelt_out(name, words):
        (others if command.wraps_flow and word.partition("=")[0] not in keys else own).append(word)
    config: Any = parse(kind, own, command=name)
    return dataclasses.replace(config, overrides=tuple(others)) if command.wraps_flow else config


def spelt_out(name: str, words: Sequence[str]) -> list[str]:
    """A command's words, each bare word and `--flag` of its own replaced by the `key=value` that it stands for."""
    from flows.config.flat import keys_of

    command, keys = FLOWS[name], keys_of(config_class(name))
    free = iter(key for key in command.positional if not any(word.startswith(f"{key}=") for word in words))
    spelt: list[str] = []
    for word in words:
        key, separator, _ = word.partition("=")
        flag = key.removeprefix("--").replace("-", "_")
        if word.startswith("--") and not separator and flag in keys and keys[flag].kind is bool:
            spelt.append(f"{flag}=true")
        elif not separator and not word.startswith("-") and (position := next(free, None)) is not None:
            spelt.append(f"{position}={word}")
        else:
            spelt.append(word)
    return spelt


def read_flow(name: str, words: Sequence[str]) -> Any:
    """A flow's config from the words that a wrapping command got for it. Raises ConfigError as the flow would."""
    if name not in plain_flows():
        raise ConfigError(f"{name!r} is no flow that can be run for you; flows: {', '.join(plain_flows())}")
    return read_words(name, words)


def plain_flows() -> list[str]:
    """The flows that `mhim submit` and `mhim schedule` can run: of one word, no wrapper, none that stays here."""
    left_out = {name for name, command in FLOWS.items() if command.wraps_flow or command.stays_here}
    return [name for name in FLOWS if " " not in name and name not in left_out]


def config_class(name: str) -> type:
    """In `flows.config.commands`, or in the module beside it that the command names, as in `jobs.SubmitConfig`."""
    module, _, kind = FLOWS[name].config.rpartition(".")
    config_type: type = getattr(importlib.import_module(f"flows.config.{module or 'commands'}"), kind)
    return config_type
