"""The tissue finder of a store's slides, if the keys leave it open."""

import dataclasses

from mhim_core.embed.card import EncoderCard
from mhim_core.slides.spec import TileSpec, TissueMethod, tiling_identity
from mhim_core.storage import Storage
from mhim_core.store.feature_sets import FeatureSet, is_registered


def feature_set_of(spec: TileSpec, card: EncoderCard) -> FeatureSet:
    """The feature set of this tiling and encoder."""
    return FeatureSet(tiling=tiling_identity(spec), encoder=card.to_dict(), encoder_identity=card.identity())


def settled_spec(spec: TileSpec, card: EncoderCard, storage: Storage) -> TileSpec:
    """The spec with tissue=auto resolved: glass, or otsu if the store holds the same features by otsu only.

    A store begun with version 0.1 thus keeps its tissue finder, and a note says so; tissue= overrides this.
    """
    if spec.tissue is not TissueMethod.auto:
        return spec
    by_glass = dataclasses.replace(spec, tissue=TissueMethod.glass)
    if spec.keep_pen or not spec.keep_fat or is_registered(storage, feature_set_of(by_glass, card).fingerprint):
        return by_glass
    by_otsu = dataclasses.replace(spec, tissue=TissueMethod.otsu)
    if not is_registered(storage, feature_set_of(by_otsu, card).fingerprint):
        return by_glass
    print(
        f"note: {storage.uri} was begun with tissue=otsu, the tissue finder of mhim 0.1, and goes on with it; it "
        "misses pale tissue: tissue=glass embeds the slides anew beside these features"
    )
    return by_otsu
