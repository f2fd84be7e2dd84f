"""Aggregators with a query per class, from the command line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mhim_core.store.attention import decode_attention

TRAINING = ("epochs=2", "embed_dim=8", "patience=0", "aggregator=mdmil")


@pytest.mark.thorough
def test_mdmil_is_trained_and_leaves_the_attention_of_each_class(
    mhim: Callable[..., Any],
    train_here: None,
    made_store: Callable[..., str],
    cohort_rows: Callable[..., list[dict[str, str]]],
    write_table: Callable[..., Path],
    tmp_path: Path,
) -> None:
    rows = cohort_rows(normal=6, tumour=6)
    words = (f"cohort={write_table(rows)}", made_store([row["slide_id"] for row in rows]), f"out={tmp_path / 'run'}")
    refused = mhim("train", *words, *TRAINING, "mdmil_first_share=2")
    assert refused.code == 2
    trained = mhim("train", *words, *TRAINING, "folds=2", "mdmil_selection=camelyon", "mdmil_instance_loss=released")
    assert trained.code == 0, trained
    assert mhim("evaluate", f"run={tmp_path / 'run'}", "bootstrap_replicates=0").code == 0
    decoded = decode_attention((tmp_path / "run/evaluation/attention/normal0.parquet").read_bytes())
    assert decoded.parts.keys() == {"class normal", "class tumour"}
    np.testing.assert_allclose(np.mean([*decoded.parts.values()], axis=0), decoded.attention, rtol=1e-5)
    for part in decoded.parts.values():
        assert part.sum() == pytest.approx(1, abs=1e-5)
