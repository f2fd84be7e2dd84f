"""How a sweep says by what its winner was chosen."""

from flows.sweeps.winner import sentence


def test_it_is_said_where_the_test_figures_are_of_another_model_than_was_compared() -> None:
    """Fits are compared by their student whatever `predict_with=` is."""
    same = sentence([], "auroc", "mhim", "mhim")
    assert "model" not in same
    pair = sentence([], "auroc", "pair", "mhim")
    assert ("model mhim" in pair, "model pair" in pair) == (True, True)
    assert "model" not in sentence([], "auroc", "", "mhim")
