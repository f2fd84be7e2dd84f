"""The settings of a run in words: encoder, tiles, training. The keys themselves stand below them on the page."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from mhim_core.report.numbers import format_amount


class Setting(NamedTuple):
    """A part of the settings, in a sentence or two."""

    title: str
    sentence: str


def settings_in_words(
    encoder: Mapping[str, Any], tiling: Mapping[str, Any], training: Mapping[str, Any]
) -> list[Setting]:
    """What is known of each; parts that are empty, or of which nothing can be said in words, are left out.

    The mappings are those of a run's record: the encoder's card, the tiling, and the identity's parts by name (method,
    seeds, model, mhim, fit, splits, target). Keys that are missing, as from another version or tool, are not spoken of.
    """
    parts = (
        Setting("Tile encoder", " ".join(_encoder(encoder))),
        Setting("Tiles", " ".join(_tiles(tiling))),
        Setting("Model", " ".join(_model(training))),
        Setting("Training", " ".join(_fit(training))),
    )
    return [part for part in parts if part.sentence]


def _encoder(card: Mapping[str, Any]) -> Iterator[str]:
    if not card.get("id"):
        return
    dim = f" makes {card['dim']} numbers of each tile" if card.get("dim") else ""
    yield f"{card['id']}{dim}{_precision(card)}."
    if card.get("source"):
        yield f"It comes from {card['source']}."
    if card.get("licence"):
        yield f"Its licence is {card['licence']}."


def _precision(card: Mapping[str, Any]) -> str:
    words = [str(card[key]) for key in ("precision", "runtime") if card.get(key)]
    return f", in {words[0]}" + (f" with {words[1]}" if len(words) > 1 else "") if words else ""


def _tiles(tiling: Mapping[str, Any]) -> Iterator[str]:
    if tiling.get("tile_px") and tiling.get("target_mpp"):
        side_um = float(tiling["tile_px"]) * float(tiling["target_mpp"])
        yield (
            f"Squares of {tiling['tile_px']} pixels at {format_amount(tiling['target_mpp'])} µm/px, "
            f"{format_amount(side_um)} µm wide"
            + (f", overlapping by {tiling['overlap_px']} pixels." if tiling.get("overlap_px") else ", side by side.")
        )
    if tiling.get("min_tissue") is not None:
        share = format_amount(100 * float(tiling["min_tissue"]))
        yield f"A tile is used if {share} % of it or more is tissue{_tissue(tiling)}."
    if tiling.get("roi"):
        yield f"Only tiles in regions annotated {', '.join(map(str, tiling['roi']))}."
    if tiling.get("exclude"):
        yield f"No tiles from regions annotated {', '.join(map(str, tiling['exclude']))}."
    if tiling.get("colour") not in (None, "none"):
        yield f"Colours were transformed by {tiling['colour']}."


def _tissue(tiling: Mapping[str, Any]) -> str:
    name = tiling["tissue"].get("name") if isinstance(tiling.get("tissue"), Mapping) else None
    return f", which was found by {name}" if name else ""


def _model(training: Mapping[str, Any]) -> Iterator[str]:
    model = training.get("model", {})
    if model.get("aggregator"):
        width = f" of width {model['embed_dim']}" if model.get("embed_dim") else ""
        yield f"The aggregator is {str(model['aggregator']).upper()}{width}."
    mhim = training.get("mhim")
    if training.get("method") == "plain":
        yield "It was trained in one stage, without masking."
    elif mhim:
        yield "A first, plain stage made the teacher."
        yield from _masking(mhim)


def _masking(mhim: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"The student then trained while the {_percent(mhim, 'high_mask_ratio')} of each bag's instances that the "
        "teacher scored highest were hidden from it."
    )
    if mhim.get("random_mask_ratio"):
        queries = mhim.get("recycle_queries")
        yield f"Of the others {_percent(mhim, 'random_mask_ratio')} were condensed into {queries} tokens."
    if mhim.get("full_view_weight"):
        yield f"A share of {format_amount(mhim['full_view_weight'])} of its loss was of the bag without masks."


def _percent(options: Mapping[str, Any], key: str) -> str:
    return f"{format_amount(100 * float(options.get(key) or 0))} %"


def _fit(training: Mapping[str, Any]) -> Iterator[str]:
    fit, splits = training.get("fit", {}), training.get("splits", {})
    if fit.get("epochs"):
        batch = fit.get("global_batch", 1)
        patience = f", with patience {fit['patience']}" if fit.get("patience") else ""
        yield (
            f"Up to {fit['epochs']} epochs{patience}, {batch} {'bag' if batch == 1 else 'bags'} a step, learning rate "
            f"{format_amount(fit.get('learning_rate'))}, weight decay {format_amount(fit.get('weight_decay'))}."
        )
    seeds = training.get("seeds") or ()
    if seeds:
        yield f"From {'seeds' if len(seeds) > 1 else 'seed'} {', '.join(map(str, seeds))}."
    if splits.get("folds"):
        yield f"Folds asked for: {splits['folds']} (scheme {splits.get('scheme', 'auto')})."
