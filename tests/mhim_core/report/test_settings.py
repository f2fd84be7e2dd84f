from mhim_core.report.settings import settings_in_words


def test_settings_are_told_in_words_with_their_numbers() -> None:
    parts = settings_in_words(
        {"id": "toy", "dim": 8, "precision": "float32", "runtime": "torch", "licence": "MIT"},
        {"tile_px": 256, "target_mpp": 0.5, "overlap_px": 0, "min_tissue": 0.25, "tissue": {"name": "glass"}},
        {
            "method": "mhim",
            "seeds": [1, 2],
            "model": {"aggregator": "abmil", "embed_dim": 512},
            "mhim": {"high_mask_ratio": 0.03, "random_mask_ratio": 0.1, "recycle_queries": 5, "full_view_weight": 0.5},
            "fit": {"epochs": 20, "global_batch": 1, "learning_rate": 0.0002, "weight_decay": 0.0},
            "splits": {"folds": 5},
        },
    )
    assert [part.title for part in parts] == ["Tile encoder", "Tiles", "Model", "Training"]
    encoder, tiles, model, training = (part.sentence for part in parts)
    assert "toy makes 8 numbers" in encoder
    assert "128 µm" in tiles
    assert "25 %" in tiles
    for words in ("ABMIL", "3 %", "10 %", "5 tokens", "0.5"):
        assert words in model
    for words in ("20 epochs", "1 bag a", "0.0002", "seeds 1, 2", "5"):
        assert words in training


def test_what_another_version_or_tool_does_not_state_is_not_spoken_of() -> None:
    assert settings_in_words({}, {}, {}) == []
    (part,) = settings_in_words({"licence": "MIT"}, {"imported": {}}, {"method": "plain"})
    assert part.title == "Model"
