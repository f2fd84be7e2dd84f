"""Every flow's configuration: a dataclass of typed parts, those of `keys.py` and the core's options.

On the command line the keys of all parts stand side by side with the config's own: `flat.py` goes from the one to the
other. Two parts of a config never hold keys of one name.
"""

from dataclasses import dataclass, field
from typing import Any

from flows.config.estimate import EstimateKeys
from flows.config.flat import split_list
from flows.config.hardness import SamplingKeys
from flows.config.keys import (
    ChosenModel,
    CohortKeys,
    DecodeKeys,
    EmbedExecution,
    EncoderFiles,
    EncoderKeys,
    FailurePolicy,
    FeatureChoice,
    LabelledCohort,
    Method,
    PageKeys,
    PluginFile,
    ProtocolKeys,
    RayKeys,
    RegionKeys,
    SelectionKeys,
    TrainExecution,
    check_least,
    check_method,
    check_workers,
)
from flows.config.roles import Role, part, role
from flows.config.tracking import TrackingKeys
from flows.config.trust import TrustKeys
from mhim_core.cohort.task_options import SplitOptions, SplitScheme, TableOptions, TaskOptions
from mhim_core.embed.prices import Prices
from mhim_core.errors import ConfigError
from mhim_core.mil.checkpoint_format import DEFAULT_FORMAT, formats_to_write
from mhim_core.mil.model_options import Activation, MhimOptions, ModelOptions
from mhim_core.mil.pt_file import SUFFIXES
from mhim_core.registry.names import is_reference
from mhim_core.slides.spec import SlidePolicy, TileSpec
from mhim_core.train.fit_options import FitOptions
from mhim_core.train.plan import Stage
from mhim_core.train.prediction import PredictOptions


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """mhim check: the cohort table and its slides, row by row."""

    data: LabelledCohort = part(LabelledCohort, Role.identity)
    table: TableOptions = part(TableOptions, Role.identity)
    target: TaskOptions = part(TaskOptions, Role.identity)
    tiles: TileSpec = part(TileSpec, Role.identity)
    regions: RegionKeys = part(RegionKeys, Role.identity)
    policy: SlidePolicy = part(SlidePolicy, Role.identity)
    failures: FailurePolicy = part(FailurePolicy, Role.identity)
    decode: DecodeKeys = part(DecodeKeys, Role.execution)
    encoder: EncoderKeys = part(EncoderKeys, Role.identity)
    estimate: EstimateKeys = part(EstimateKeys, Role.execution)
    prices: Prices = part(Prices, Role.execution)
    pictures: str = field(default="", metadata=role(Role.output))
    """A folder or s3:// prefix for pictures of each slide with its tissue and tile grid; empty: none."""

    def __post_init__(self) -> None:
        if self.estimate.estimate:
            self.encoder.require_one("check estimate=true")


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """mhim embed: slides → one Parquet file of tile features per slide."""

    data: CohortKeys = part(CohortKeys, Role.identity)
    table: TableOptions = part(TableOptions, Role.identity)
    store: str = field(metadata=role(Role.output))
    """The feature store: a folder or s3://bucket/prefix."""
    encoder: EncoderKeys = part(EncoderKeys, Role.identity)
    tiles: TileSpec = part(TileSpec, Role.identity)
    regions: RegionKeys = part(RegionKeys, Role.identity)
    selection: SelectionKeys = part(SelectionKeys, Role.identity)
    policy: SlidePolicy = part(SlidePolicy, Role.identity)
    failures: FailurePolicy = part(FailurePolicy, Role.identity)
    ray: RayKeys = part(RayKeys, Role.execution)
    decode: DecodeKeys = part(DecodeKeys, Role.execution)
    embedding: EmbedExecution = part(EmbedExecution, Role.execution)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """mhim train: bags → one model per fold and seed."""

    data: LabelledCohort = part(LabelledCohort, Role.identity)
    table: TableOptions = part(TableOptions, Role.identity)
    store: str = field(metadata=role(Role.features))
    """The feature store: a folder or s3://bucket/prefix."""
    out: str = field(metadata=role(Role.output))
    """The run: a folder or s3://bucket/prefix. The same configuration resumes it; a different one is refused."""
    features: FeatureChoice = part(FeatureChoice, Role.identity)
    splits: SplitOptions = part(SplitOptions, Role.identity)
    target: TaskOptions = part(TaskOptions, Role.identity)
    plugin: PluginFile = part(PluginFile, Role.identity)  # before the model, whose aggregator it may register
    method: Method = field(default=Method.mhim, metadata=role(Role.identity))
    """mhim: masked hard instance mining in two stages; plain: the aggregator alone (stage 1)."""
    model: ModelOptions = part(ModelOptions, Role.identity)
    mhim: MhimOptions = part(MhimOptions, Role.identity)
    fit: FitOptions = part(FitOptions, Role.identity)
    prediction: PredictOptions = part(PredictOptions, Role.identity)
    protocol: ProtocolKeys = part(ProtocolKeys, Role.identity)
    sampling: SamplingKeys = part(SamplingKeys, Role.identity)
    ray: RayKeys = part(RayKeys, Role.execution)
    execution: TrainExecution = part(TrainExecution, Role.execution)
    tracking: TrackingKeys = part(TrackingKeys, Role.execution)
    trust: TrustKeys = part(TrustKeys, Role.execution)
    warm_start: str = field(default="", metadata=role(Role.model))
    """With scheme=final: start from the weights of this model, the out= of a run, or lung@champion with registry=;
    empty: start from scratch."""
    registry: str = field(default="", metadata=role(Role.place))
    """With warm_start=lung@champion: the registry of that model, a folder or s3://bucket/prefix; otherwise unused."""
    asked: tuple[str, ...] = field(default=("*",), metadata={"is_key": False}, compare=False)
    """The keys that the user gave; *: all of them, if the config was made in Python."""

    def __post_init__(self) -> None:
        check_workers(self.execution, self.fit)
        check_method(self.method, self.model, self.protocol.teacher, self.prediction)
        if self.sampling.sampling_by_hardness and self.fit.balanced_sampling:
            raise ConfigError("sampling_by_hardness= and balanced_sampling=true both say how often bags are drawn")
        self._check_warm_start()

    def _check_warm_start(self) -> None:
        if is_reference(self.warm_start) and not self.registry:
            raise ConfigError(f"warm_start={self.warm_start} needs registry=, the registry that holds it")
        if self.warm_start and self.splits.scheme is not SplitScheme.final:
            raise ConfigError(
                f"warm_start={self.warm_start} needs scheme=final: a model that has seen a fold's test patients cannot "
                "be estimated on them"
            )
        if self.warm_start and self.protocol.teacher:
            raise ConfigError("warm_start= starts stage 1, which teacher= takes from another run; give one of them")

    @classmethod
    def by_recipe(cls, **keys: Any) -> "TrainConfig":
        """The config that `mhim train key=value …` makes of these keys."""
        from flows.config.words import with_recipe

        return with_recipe(cls, keys)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """mhim evaluate: each slide by the model that held it out."""

    run: str = field(metadata=role(Role.run))
    """The training run: the out= of mhim train."""
    store: str = field(default="", metadata=role(Role.features) | {"neutral": ""})
    """The store that holds the run's features now; empty: where the run recorded it, relative to the run's folder."""
    chosen: ChosenModel = part(ChosenModel, Role.identity)
    plugin: PluginFile = part(PluginFile, Role.identity)
    tracking: TrackingKeys = part(TrackingKeys, Role.execution)
    bootstrap_replicates: int = field(default=2000, metadata=role(Role.identity))
    """Replicates of the patient-clustered bootstrap intervals; 0: no intervals."""
    explanation: bool = field(default=False, metadata=role(Role.identity) | {"neutral": False})
    """Measure as well what the attention explains (docs/explanation.md), which takes some eighty passes over every
    held-out slide; the report shows it then."""

    def __post_init__(self) -> None:
        check_least(self, 0, "bootstrap_replicates")


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """mhim predict: new slides through a run's fold models, or through a registered model."""

    data: CohortKeys = part(CohortKeys, Role.identity)
    table: TableOptions = part(TableOptions, Role.identity)
    out: str = field(metadata=role(Role.output))
    """The predictions: a folder or s3://bucket/prefix. Running again does nothing; predictions of another model are
    refused."""
    plugin: PluginFile = part(PluginFile, Role.identity)
    run: str = field(default="", metadata=role(Role.run))
    """The training run whose fold models predict (the out= of mhim train); empty: use model=."""
    model: str = field(default="", metadata=role(Role.identity))
    """The registered model that predicts: lung@champion or lung@<version>; empty: use run=."""
    registry: str = field(default="", metadata=role(Role.place))
    """With model=: the registry, a folder or s3://bucket/prefix; otherwise unused."""
    chosen: ChosenModel = part(ChosenModel, Role.identity)
    store: str = field(default="", metadata=role(Role.output))
    """The feature store of the new slides; empty: the run's store if it is where the run recorded it, relative to the
    run's folder; otherwise, and with model=, the folder features/ in out=."""
    robustness: bool = field(default=False, metadata=role(Role.identity) | {"neutral": False})
    """With run=: write robustness.csv as well, how far each prediction is from another class (docs/explanation.md),
    which takes hundreds of passes with gradients over every slide."""
    robustness_known: int = field(default=20, metadata=role(Role.identity) | {"neutral": 20})
    """With robustness=true: slides of the run's training that predictions are compared with, at most."""
    page: PageKeys = part(PageKeys, Role.identity)
    regions: RegionKeys = part(RegionKeys, Role.identity)
    selection: SelectionKeys = part(SelectionKeys, Role.identity)
    policy: SlidePolicy = part(SlidePolicy, Role.identity)
    failures: FailurePolicy = part(FailurePolicy, Role.identity)
    encoder: EncoderFiles = part(EncoderFiles, Role.identity)
    ray: RayKeys = part(RayKeys, Role.execution)
    decode: DecodeKeys = part(DecodeKeys, Role.execution)
    embedding: EmbedExecution = part(EmbedExecution, Role.execution)
    trust: TrustKeys = part(TrustKeys, Role.execution)

    def __post_init__(self) -> None:
        check_least(self, 1, "robustness_known")

    def check_source(self) -> None:
        """Raises ConfigError unless there is one source of models."""
        if bool(self.run) == bool(self.model):
            raise ConfigError(
                "give run=, a training run, or model=, such as lung@champion with its registry=: one of the two"
            )
        if self.model and not self.registry:
            raise ConfigError(f"model={self.model} needs registry=, the registry that holds it")
        if self.robustness and self.model:
            raise ConfigError("robustness=true needs run=, with whose slides predictions are compared; leave it out")
        if self.model and self.chosen.predict_with is not None:
            raise ConfigError(
                f"predict_with={self.chosen.predict_with} is for run=; a registered model predicts as it was registered"
            )


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """mhim report: the HTML page of a run, with its pictures."""

    run: str = field(metadata=role(Role.run))
    """The training run: the out= of mhim train."""
    store: str = field(default="", metadata=role(Role.features) | {"neutral": ""})
    """The store that holds the run's features now; empty: where the run recorded it, relative to the run's folder."""
    chosen: ChosenModel = part(ChosenModel, Role.identity)
    plugin: PluginFile = part(PluginFile, Role.identity)
    page: PageKeys = part(PageKeys, Role.identity)
    tracking: TrackingKeys = part(TrackingKeys, Role.execution)


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """mhim demo: the whole path on a painted cohort."""

    ray: RayKeys = part(RayKeys, Role.execution)
    out: str = field(default="demo", metadata=role(Role.output))
    """The folder for slides, features, run, predictions and page."""
    num_slides: int = field(default=84, metadata=role(Role.identity))
    """Slides of the labelled cohort: of every seven, three for training, one for choosing the epoch, three for
    testing."""
    num_new: int = field(default=6, metadata=role(Role.identity))
    """Slides to predict afterwards, of patients unseen in training."""
    encoder: str = field(default="efficientnet-lite0", metadata=role(Role.identity))
    """The tile encoder: efficientnet-lite0, hed-texture or timm/<model>."""
    aggregator: str = field(default="abmil", metadata=role(Role.identity))
    """The bag aggregator."""
    method: Method = field(default=Method.mhim, metadata=role(Role.identity))
    """mhim: masked hard instance mining in two stages; plain: the aggregator alone (stage 1)."""
    full_view_weight: float = field(default=0.5, metadata=role(Role.identity))
    """Weight of the unmasked bag's task loss in the student's loss, 0 to below 1; 0: the student sees only the masked
    bag."""
    epochs: int = field(default=20, metadata=role(Role.identity))
    """Training epochs of each stage."""
    seed: int = field(default=2021, metadata=role(Role.identity))
    """Seed of training."""
    demo_seed: int = field(default=0, metadata=role(Role.identity))
    """Seed of the painted slides."""

    def __post_init__(self) -> None:
        if not self.out or "://" in self.out:
            raise ConfigError(f"out={self.out}: the demo needs a local folder")
        EncoderKeys(encoder=self.encoder).require_one("demo")
        check_least(self, 28, "num_slides")
        check_least(self, 2, "num_new")
        check_least(self, 0, "demo_seed")
        # what a later step would refuse is refused before slides are painted
        model = ModelOptions(aggregator=self.aggregator)
        if self.method is Method.mhim:
            model.require_mining()
        MhimOptions(full_view_weight=self.full_view_weight)
        FitOptions(epochs=self.epochs)


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """mhim convert: published checkpoints from and to model files."""

    out: str = field(metadata=role(Role.output))
    """The file to write, a path or s3:// URI: .safetensors (a model file, from checkpoint=….pt) or .pt (published)."""
    format: str = field(
        default=DEFAULT_FORMAT,
        metadata=role(Role.identity) | {"neutral": "mhim-mil", "choices": tuple(formats_to_write())},
    )
    """Format of the written file unless it is a model file; mhim-mil: a .pt with the tensor names of the published
    code."""
    checkpoint: str = field(default="", metadata=role(Role.place))
    """The file to read: a published .pt, or a model file .safetensors; empty: a fit of run=."""
    classes: tuple[str, ...] = field(default=(), metadata=role(Role.identity))
    """From a .pt: the names of its classes in the order of the logits, separated by commas."""
    embed_activation: Activation = field(default=Activation.gelu, metadata=role(Role.identity))
    """From a .pt: non-linearity after the embedding layer, which is stored in no tensor: gelu (v2), relu (v1) or
    tanh."""
    attention_activation: Activation = field(default=Activation.relu, metadata=role(Role.identity))
    """From a .pt: non-linearity inside ABMIL's attention, which is stored in no tensor: relu, gelu or tanh."""
    run: str = field(default="", metadata=role(Role.run))
    """Export a fit of this training run (its out=); empty: read checkpoint=."""
    fold: int | None = field(default=None, metadata=role(Role.identity))
    """With run=: the fold of the fit; none: the run has only one."""
    seed: int | None = field(default=None, metadata=role(Role.identity))
    """With run=: the seed of the fit; none: the run has only one."""
    stage: Stage | None = field(default=None, metadata=role(Role.identity))
    """With run=: plain (stage 1) or mhim (the student, with its teacher); none: the run has only one."""

    def __post_init__(self) -> None:
        check_least(self, 0, "fold")

    def check_direction(self) -> None:
        """Raises ConfigError unless there is one source, and a target of the other kind."""
        if bool(self.checkpoint) == bool(self.run):
            raise ConfigError("give checkpoint=, the file to read, or run=, the training run whose fit is written")
        written = formats_to_write()
        if self.format not in written:
            raise ConfigError(f"format={self.format} is not one of {', '.join(written)}")
        suffixes = written[self.format]
        theirs, ours = SUFFIXES, (".safetensors",)
        source, wanted = (theirs, ours) if self.imports else (ours, suffixes)
        if not self.out.endswith(wanted) or (self.checkpoint and not self.checkpoint.endswith(source)):
            raise ConfigError(
                f"checkpoint={self.checkpoint or self.run} out={self.out}: a published .pt becomes a .safetensors, "
                f"a .safetensors or a run's fit becomes a {' or '.join(suffixes)}"
            )
        if self.imports and not self.classes:
            raise ConfigError("classes= is needed, the names of the classes in the order of the checkpoint's logits")

    @property
    def imports(self) -> bool:
        """Whether a published checkpoint becomes a model file, or the other way round."""
        return self.checkpoint.endswith(SUFFIXES)


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """mhim compare: paired differences between models that held out the same bags."""

    plugin: PluginFile = part(PluginFile, Role.identity)
    runs: str = field(metadata=role(Role.run, listed=True))
    """Training runs (the out= of mhim train), separated by commas, brackets optional: runs=[runs/a,runs/b]. With a
    single run, all its models are compared."""
    store: str = field(default="", metadata=role(Role.features) | {"neutral": ""})
    """The store that holds the runs' features now; empty: where each run recorded it, relative to its folder."""
    out: str = field(metadata=role(Role.output))
    """The folder or s3://bucket/prefix for the table, the figure and comparison.json, rewritten each time."""
    models: str = field(default="", metadata=role(Role.identity, listed=True))
    """Models to compare, separated by commas (mhim, mhim teacher, plain, pair), from every run that has them; empty:
    each run's reported model."""
    bootstrap_replicates: int = field(default=2000, metadata=role(Role.identity))
    """Replicates of the paired, patient-clustered bootstrap; 0: no intervals but DeLong's."""

    def __post_init__(self) -> None:
        check_least(self, 0, "bootstrap_replicates")

    @property
    def run_uris(self) -> tuple[str, ...]:
        """Raises ConfigError where none is named, or one twice."""
        uris = split_list(self.runs)
        if not uris:
            raise ConfigError(f"runs={self.runs} names no run; write runs=runs/a,runs/b")
        if len(set(uris)) < len(uris):
            raise ConfigError(f"runs={self.runs} names a run twice; models= compares the models of one run")
        return uris

    @property
    def model_names(self) -> tuple[str, ...]:
        """The models named by `models`; () for each run's reported model."""
        return split_list(self.models)
