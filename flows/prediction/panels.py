"""One slide on a page: thumbnail, heat map of the stored attention, most attended tiles."""

from cluster.storage import download
from mhim_core.errors import NotFoundError, SlideError
from mhim_core.features import MppUsed, has_places
from mhim_core.printable import one_line
from mhim_core.report.data import Prediction, SlidePanel
from mhim_core.report.slide_pictures import AttendedSlide, SlidePictures, draw_slide
from mhim_core.slides.spec import TileSpec
from mhim_core.slides.staging import staged
from mhim_core.store.attention import AttentionTable, decode_attention
from mhim_core.store.schema import FeatureTable

_TITLES = {"student": "student", "plain": "stage-1 model"}
"""Of the models of a pair."""


def slide_panel(
    prediction: Prediction,
    uri: str,
    table: FeatureTable,
    attention: bytes,
    spec: TileSpec | None,
    num_top_tiles: int,
    caption: str = "",
    max_bytes: int | None = None,
) -> SlidePanel:
    """The slide at `uri` (a path or an `s3://` URI) with the attention that an evaluated forward pass left.

    `spec`: None where another tool cut the tiles, which are then not shown; `why_no_heat_map` comes first.
    `prediction`: of the slide, or of its patient; the attention is then the slide's part of the patient's. `max_bytes`:
    of its pictures together; None: they are drawn at full size.
    """
    decoded = decode_attention(attention)
    pictures = _draw(uri, table, decoded, spec, num_top_tiles, max_bytes)
    return SlidePanel(
        slide_id=table.slide_id,
        overview=pictures.overview,
        heatmap=pictures.heatmap,
        top_tiles=pictures.top_tiles,
        prediction=prediction,
        attention_share=float(decoded.attention.sum(dtype="float64")) if prediction.num_slides > 1 else None,
        num_tiles=len(table.features),
        caption=caption,
        heatmaps_of={_TITLES.get(name, name): image for name, image in pictures.heatmaps_of.items()},
    )


def why_no_heat_map(table: FeatureTable) -> str:
    """Why there can be none of these features, which were imported; empty if there can."""
    if not has_places(table.coords_l0_px):
        return f"slide {table.slide_id}: no heat map, its features were imported without coordinates"
    if not all(table.metadata["tile_size_l0_px"]):
        return (
            f"slide {table.slide_id}: no heat map, its features were imported without the size of a tile "
            "(tile_size_l0_px= of mhim import)"
        )
    return ""


def _draw(
    uri: str,
    table: FeatureTable,
    decoded: AttentionTable,
    spec: TileSpec | None,
    num_top_tiles: int,
    max_bytes: int | None,
) -> SlidePictures:
    """Where the slide's file is gone or broken by now, the heat map lies on white."""
    facts = table.metadata
    # of imported features nobody may have stated the µm/px; without it a picture has the scan's own proportions
    mpp_x, mpp_y = facts["mpp"] if all(facts["mpp"]) else (1.0, 1.0)
    slide = AttendedSlide(
        decoded.coords_l0_px,
        decoded.attention,
        (facts["tile_size_l0_px"][0], facts["tile_size_l0_px"][1]),
        (facts["width_l0_px"], facts["height_l0_px"]),
        MppUsed(mpp_x, mpp_y, "features"),
        facts["upsample"],
        decoded.parts,
    )
    try:
        with staged(uri, download) as path:
            return draw_slide(path, slide, spec, num_top_tiles, max_bytes)
    except (SlideError, NotFoundError) as error:
        print(f"{table.slide_id}: no thumbnail, {one_line(error)}")
        return draw_slide(None, slide, spec, 0, max_bytes)
