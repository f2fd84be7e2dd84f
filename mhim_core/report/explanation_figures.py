"""What the attention explains, as a figure of the report: the score while tiles are taken away and put in."""

from collections.abc import Iterator, Mapping
from typing import Any

from mhim_core.evaluation.explanation import estimate_text
from mhim_core.report.canvas import COLOURS, blank_figure, png_bytes
from mhim_core.report.data import ReportFigure

_TITLES = {
    "sufficiency": "sufficiency",
    "necessity": "necessity",
    "deletion_gain": "deletion gain",
    "insertion_gain": "insertion gain",
    "rank_correlation": "rank correlation between models",
    "top_overlap": "overlap of their top tiles",
}


def explanation_figures(document: Mapping[str, Any] | None) -> Iterator[ReportFigure]:
    """Of the document of `summarise_explanation`; None: nothing was measured, and there is no figure."""
    if document is None:
        return
    numbers = [
        f"{title} {estimate_text(document['estimates'][name])}"
        for name, title in _TITLES.items()
        if document["estimates"][name]["value"] is not None
    ]
    caption = (
        f"Mean over {document['num_bags']} held-out bags; score: the probability of the predicted class, the risk, "
        f"or the number. Of the {100 * document['top_share']:g} % most attended tiles: {', '.join(numbers)}. "
        "A gain above 0: attention is a better order than chance."
    )
    yield ReportFigure("Explanation", explanation_figure(document), caption)


def explanation_figure(document: Mapping[str, Any]) -> bytes:
    """Two panels, deletion and insertion: the mean score by attention and by chance, over the share of tiles."""
    shares, curves = document["shares"], document["curves"]
    with blank_figure(7.2, 3.4, columns=2) as (figure, axes):
        for panel, kind, what in zip(axes, ("deletion", "insertion"), ("taken away", "put in"), strict=True):
            panel.plot(shares, curves[kind], color=COLOURS[0], linewidth=2, marker="o", markersize=3, label="attention")
            chance = curves[f"{kind}_by_chance"]
            panel.plot(shares, chance, color=COLOURS[1], linewidth=1.5, linestyle="--", label="random order")
            panel.set(title=kind.capitalize(), xlabel=f"Share of tiles {what}", xlim=(-0.02, 1.02))
        axes[0].set_ylabel("Score")
        axes[0].legend(frameon=False, fontsize=8)
        low = min(min(values) for values in curves.values())
        high = max(max(values) for values in curves.values())
        margin = 0.06 * (high - low) or 0.05
        for panel in axes:
            panel.set_ylim(low - margin, high + margin)
        return png_bytes(figure)
