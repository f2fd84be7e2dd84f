"""The keys of `mhim export geojson` and `mhim export heatmap`. Light: `--help` reads this file."""

import math
from dataclasses import dataclass, field
from enum import StrEnum

from flows.config.flat import split_list
from flows.config.keys import ChosenModel, PluginFile, check_least
from flows.config.roles import Role, part, role
from mhim_core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class AttendedKeys:
    """Whose attention is written."""

    run: str = field(default="", metadata=role(Role.run))
    """The training run, whose held-out slides are written, each by the model that did not see its patient (the out= of
    mhim train); empty: give predictions=. Beside predictions=: where their run is now."""
    predictions: str = field(default="", metadata=role(Role.place))
    """The folder or s3://bucket/prefix that mhim predict wrote (its out=), whose slides are written; empty: give
    run=."""
    store: str = field(default="", metadata=role(Role.features))
    """The store that holds the features now; empty: where the run or the predictions recorded it."""
    registry: str = field(default="", metadata=role(Role.place))
    """With predictions= by a registered model: where its registry is now; empty: where mhim predict had it."""
    cohort: str = field(default="", metadata=role(Role.file))
    """With predictions=: where their cohort table is now; empty: where mhim predict had it."""
    slides: str = field(default="", metadata=role(Role.identity, listed=True))
    """The ids of the slides to write, separated by commas; empty: all."""

    def check_source(self) -> None:
        """Raises ConfigError unless a run or predictions are named, and for keys that go with the other."""
        if not self.run and not self.predictions:
            raise ConfigError("give run=, a training run, or predictions=, the out= of mhim predict")
        for name in ("registry", "cohort"):
            if getattr(self, name) and not self.predictions:
                raise ConfigError(f"{name}= is for predictions=; a run knows its own")

    @property
    def slide_ids(self) -> tuple[str, ...]:
        """() for all."""
        return split_list(self.slides)


@dataclass(frozen=True, kw_only=True)
class GeojsonConfig:
    """mhim export geojson: what a model made of slides, as objects for QuPath."""

    source: AttendedKeys = part(AttendedKeys, Role.identity)
    out: str = field(metadata=role(Role.output))
    """The folder or s3://bucket/prefix for <slide_id>.geojson. What is there is never overwritten."""
    chosen: ChosenModel = part(ChosenModel, Role.identity)
    plugin: PluginFile = part(PluginFile, Role.identity)
    shares: str = field(default="0.5,0.2,0.1,0.05", metadata=role(Role.identity, listed=True))
    """Areas of the most attended tiles, as shares of all tiles of the slide, separated by commas: 0.1 is the tenth with
    the highest attention; empty: no areas."""
    top_tiles: int = field(default=20, metadata=role(Role.identity))
    """Number of most attended tiles that become objects of their own, with measurements; 0: none."""
    foci: int = field(default=0, metadata=role(Role.identity))
    """Number of foci on which the prediction rests, looked for by erasing what is found and asking the models again
    some dozens of times (docs/explanation.md); of classifications whose bags are slides. 0: none."""
    evidence: bool = field(default=True, metadata=role(Role.identity))
    """Areas and measurements of evidence for each class, which takes a pass of the models over every slide; false:
    attention alone."""
    tissue: bool = field(default=True, metadata=role(Role.identity))
    """The tissue's outline, for which the slide is opened; false: none."""
    gzip: bool = field(default=False, metadata=role(Role.identity))
    """Write <slide_id>.geojson.gz, a tenth of the size; QuPath may want it unpacked."""
    max_failed_fraction: float = field(default=0.1, metadata=role(Role.identity))
    """Share of the slides that may fail before the exit code becomes 4 instead of 3."""

    def __post_init__(self) -> None:
        check_least(self, 0, "top_tiles", "foci")
        _check_fraction(self.max_failed_fraction)
        self.share_list()
        if not (self.share_list() or self.top_tiles or self.foci or self.tissue):
            raise ConfigError("shares=, top_tiles=0, foci=0 and tissue=false leave nothing to write")

    def share_list(self) -> tuple[float, ...]:
        """Raises ConfigError for what is no share above 0 and up to 1, or twice there."""
        texts = split_list(self.shares)
        try:
            values = tuple(float(text) for text in texts)
        except ValueError:
            values = (math.nan,)
        if not all(0 < value <= 1 for value in values) or len(set(values)) < len(values):
            raise ConfigError(f"shares={self.shares} must be different numbers above 0 and up to 1, such as 0.1,0.05")
        return values


class HeatmapStyle(StrEnum):
    """What the pixels of an exported heat map are."""

    colour = "colour"
    values = "values"


@dataclass(frozen=True, kw_only=True)
class HeatmapConfig:
    """mhim export heatmap: attention as a picture in the slide's own coordinates."""

    source: AttendedKeys = part(AttendedKeys, Role.identity)
    out: str = field(metadata=role(Role.output))
    """The folder or s3://bucket/prefix for <slide_id>.ome.tif. What is there is never overwritten."""
    chosen: ChosenModel = part(ChosenModel, Role.identity)
    plugin: PluginFile = part(PluginFile, Role.identity)
    style: HeatmapStyle = field(default=HeatmapStyle.colour, metadata=role(Role.identity))
    """colour: RGB of the attention's rank within the slide, as on the page, white where no tile is; values: float32
    channels, attention, its rank and the evidence for each class, NaN where no tile is."""
    downsample: int = field(default=1, metadata=role(Role.identity))
    """Level-0 pixels of the slide along a pixel of the picture's finest level; 1: the picture has the slide's size,
    which for a slide of 100,000 × 100,000 takes minutes, 16: seconds."""
    evidence: bool = field(default=True, metadata=role(Role.identity))
    """With style=values: channels of evidence for each class, which takes a pass of the models over every slide."""
    max_failed_fraction: float = field(default=0.1, metadata=role(Role.identity))
    """Share of the slides that may fail before the exit code becomes 4 instead of 3."""

    def __post_init__(self) -> None:
        check_least(self, 1, "downsample")
        _check_fraction(self.max_failed_fraction)


def _check_fraction(value: float) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(f"max_failed_fraction={value} must lie between 0 and 1")
