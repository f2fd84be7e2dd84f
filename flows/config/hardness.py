"""The keys of `mhim hardness`, and those with which `mhim train` draws bags by its types. Light: `--help` reads this
file."""

from dataclasses import dataclass, field
from enum import StrEnum

from flows.config.keys import ChosenModel, PluginFile, check_least
from flows.config.roles import Role, part, role
from mhim_core.errors import ConfigError
from mhim_core.hardness.hardness_type import DEFAULT_NEIGHBOURS, MIN_NEIGHBOURS, TypeWeights


class TypesFrom(StrEnum):
    """By what the training bags of a fold are typed."""

    features = "features"
    model = "model"


@dataclass(frozen=True, kw_only=True)
class SamplingKeys:
    """How often bags are drawn in training, by type (docs/hardness.md)."""

    sampling_by_hardness: str = field(default="", metadata={"neutral": ""})
    """How often a training bag of each type is drawn, relative to the others: outlier:0,rare:2,borderline:2; types that
    are not named weigh 1, and an epoch has as many turns as before. Needs hardness=. Empty: every bag once."""
    hardness: str = field(default="", metadata=role(Role.place) | {"neutral": ""})
    """With sampling_by_hardness=: the out= of mhim hardness, or the run that it looked at, on the same features and
    labels; empty: none."""
    hardness_types: TypesFrom = field(default=TypesFrom.features, metadata={"neutral": TypesFrom.features})
    """features: each fold's training bags are typed among themselves, by mean tile features, so that nothing of its
    test or validation part enters. model: as typed by the models that held them out; refused where the table knows a
    patient of a test part, whose label then had a say in the types."""

    def __post_init__(self) -> None:
        if bool(self.sampling_by_hardness) != bool(self.hardness):
            raise ConfigError(
                "sampling_by_hardness= (weights by type) and hardness= (where the types come from) belong together: "
                "give both, or neither"
            )
        if self.sampling_by_hardness and self.weights.is_even:
            raise ConfigError(
                f"sampling_by_hardness={self.sampling_by_hardness} weighs every type alike, which changes nothing; "
                "leave it out"
            )

    @property
    def weights(self) -> TypeWeights:
        """Raises ConfigError for what are no weights by type."""
        return parse_weights(self.sampling_by_hardness)


def parse_weights(text: str) -> TypeWeights:
    """Of the key sampling_by_hardness. Raises ConfigError, naming it."""
    try:
        return TypeWeights.parse(text)
    except ConfigError as error:
        raise ConfigError(f"sampling_by_hardness={text}: {error}") from None


class MapKind(StrEnum):
    """What brings the cohort's bags into a plane."""

    pca = "pca"
    umap = "umap"


@dataclass(frozen=True, kw_only=True)
class HardnessConfig:
    """mhim hardness: hard bags, suspect labels, and what sampling by type would do."""

    run: str = field(metadata=role(Role.run))
    """The training run: the out= of mhim train. A classification that holds bags out."""
    out: str = field(default="", metadata=role(Role.output))
    """The folder or s3://bucket/prefix for tables and page; empty: the folder hardness/ in the run."""
    store: str = field(default="", metadata=role(Role.features))
    """The store that holds the run's features now; empty: where the run recorded it, relative to the run's folder."""
    chosen: ChosenModel = part(ChosenModel, Role.identity)
    plugin: PluginFile = part(PluginFile, Role.identity)
    neighbours: int = field(default=DEFAULT_NEIGHBOURS, metadata=role(Role.identity))
    """How many neighbours tell a bag's or tile's type, itself included; 5 to 13 are usual."""
    sampling_by_hardness: str = field(default="", metadata=role(Role.identity))
    """Weights by type whose effect is looked at, as mhim train takes them, such as outlier:0,rare:2; empty: four usual
    ones."""
    tiles_per_slide: int = field(default=20, metadata=role(Role.identity))
    """Tiles drawn of each slide for the sample of tiles, fewer where the sample would exceed 20,000; 0: no sample."""
    map: MapKind = field(default=MapKind.pca, metadata=role(Role.identity))
    """The plane of all bags, and that of tiles: pca, principal components; umap, which needs the package umap-learn
    and minutes. The spaces of single models are always shown by pca."""
    bootstrap_replicates: int = field(default=2000, metadata=role(Role.identity))
    """Replicates of the patient-clustered bootstrap of effects; 0: no intervals."""
    max_thumbnails: int = field(default=12, metadata=role(Role.identity))
    """Slides with a picture on the page, the most suspicious first; 0: none."""

    def __post_init__(self) -> None:
        check_least(self, MIN_NEIGHBOURS, "neighbours")
        check_least(self, 0, "tiles_per_slide", "bootstrap_replicates", "max_thumbnails")
        parse_weights(self.sampling_by_hardness)
