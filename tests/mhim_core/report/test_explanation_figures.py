"""The figure of an explanation: its numbers are in the caption, and without a document there is none."""

from mhim_core.evaluation.explanation import Agreement, ExplainedBag, faithfulness, summarise_explanation
from mhim_core.report.explanation_figures import explanation_figures


def test_a_figure_has_its_numbers_in_the_caption_and_the_same_bytes_each_time() -> None:
    bags = [
        ExplainedBag("a", "p", 0, 9, faithfulness(range(9), lambda rows: 0.1 * len(rows), "a"), Agreement(None, None))
    ]
    document = summarise_explanation(bags, replicates=0)
    [figure], [again] = (list(explanation_figures(document)) for _ in range(2))
    assert figure.image == again.image
    assert figure.image.startswith(b"\x89PNG")
    assert "sufficiency 0.100" in figure.caption
    assert "necessity 0.100" in figure.caption
    assert "overlap" not in figure.caption, "what is undefined is not told"
    assert list(explanation_figures(None)) == []
