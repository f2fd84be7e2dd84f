"""The keys of a sweep: what may vary, how it is written, what is refused."""

from pathlib import Path
from typing import Any

import pytest

from flows.commands import read_words
from flows.config.commands import TrainConfig
from flows.config.files import resolved
from flows.config.flat import flat, keys_of
from flows.config.sweep import SweepConfig
from flows.sweeps.configurations import Configuration, configurations_of
from mhim_core.errors import ConfigError
from mhim_core.mil.model_options import Score

NEEDED = ("cohort=c.csv", "store=s", "out=sweeps/first")


def read(*words: str) -> SweepConfig:
    config: Any = read_words("sweep", [*NEEDED, *words])
    assert isinstance(config, SweepConfig)
    return config


def points(*words: str) -> list[Configuration]:
    return configurations_of(read(*words))


def refusal(*words: str) -> str:
    with pytest.raises(ConfigError) as caught:
        points(*words)
    return str(caught.value)


def train(*words: str) -> Any:
    return read_words("train", ["cohort=c.csv", "store=s", *words])


def test_every_key_of_train_is_one_of_sweep() -> None:
    assert keys_of(SweepConfig).keys() - keys_of(TrainConfig).keys() == {"vary", "halving", "rungs", "top"}
    assert keys_of(TrainConfig).keys() < keys_of(SweepConfig).keys()


def test_each_combination_is_the_training_that_its_keys_name() -> None:
    made = points("epochs=7", "vary=high_mask_ratio=.01,0.03 score=margin,attention")
    assert [point.setting for point in made] == [
        {"high_mask_ratio": ratio, "score": score}
        for ratio in (0.01, 0.03)
        for score in (Score.margin, Score.attention)
    ]
    last = made[-1]
    assert last.name == "high_mask_ratio=0.03+score=attention"
    out = f"out=sweeps/first/runs/{last.name}"
    assert last.config == train("epochs=7", "high_mask_ratio=0.03", "score=attention", out)


def test_a_recipe_that_varies_sets_what_is_not_given_in_each() -> None:
    given = "consistency_weight=0.25"
    made = points(given, "vary=recipe=mhim,mhim-v2 aggregator=abmil,dsmil")
    assert len(made) == 4
    for point in made:
        words = [f"{key}={value}" for key, value in point.setting.items()]
        assert point.config == train(given, *words, f"out=sweeps/first/runs/{point.name}")


def test_a_value_that_varies_takes_the_place_of_the_one_that_is_given() -> None:
    configs = [point.config for point in points("embed_dim=16", "vary=embed_dim=[8,32]")]
    assert [config.model.embed_dim for config in configs if config] == [8, 32]


def test_without_anything_that_varies_there_is_one_configuration() -> None:
    (point,) = points("epochs=3")
    assert (point.name, point.config) == ("as-given", train("epochs=3", "out=sweeps/first/runs/as-given"))


def test_a_file_gives_the_grid_as_a_mapping_and_the_resolved_file_gives_it_back(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text(
        "folds: 3\nvary:\n  high_mask_ratio: [.01, 0.03]\n  random_mask_ratio: 0.8\n  recipe:\n  - mhim\n  - mhim-v2\n"
    )
    config = read(f"config={file}")
    assert config.vary == "high_mask_ratio=.01,0.03 random_mask_ratio=0.8 recipe=mhim,mhim-v2"
    assert config.splits.folds == 3
    again = tmp_path / "resolved.yaml"
    again.write_bytes(resolved(config, "sweep", config.asked))
    repeated: Any = read_words("sweep", [f"config={again}"])
    assert flat(repeated) == flat(config)
    assert configurations_of(repeated) == configurations_of(config), "the keys that a recipe sets are still its own"


@pytest.mark.parametrize(
    "text",
    ["vary: [a, b]", "vary:\n  a: {b: 1}", "vary:\n  a: [1, [2]]", "vary:\n  a: ['1,2']", "vary:\n  'a b': 1"],
)
def test_a_grid_in_a_file_that_is_no_mapping_to_lists_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "my.yaml"
    file.write_text(text)
    assert "vary" in refusal(f"config={file}")


def test_only_a_grid_may_be_a_mapping(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("seed: {a: 1}")
    assert "seed takes one value" in refusal(f"config={file}")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["vary=high_ratio=.01"], "high_mask_ratio"),
        (["vary=high_mask_ratio"], "high_mask_ratio"),
        (["vary=high_mask_ratio="], "no value"),
        (["vary=high_mask_ratio=a,b"], "not a number"),
        (["vary=high_mask_ratio=.01,0.01"], "0.01 twice"),
        (["vary=high_mask_ratio=.01 high_mask_ratio=.02"], "given twice"),
        (["vary=score=margin,best"], "softmax_max"),
        (["vary=seed=1,2"], "seeds=3"),
        (["vary=seeds=1,2"], "seeds=3"),
        (["vary=workers=1,2"], "one value"),
        (["vary=predict_with=student,pair"], "one value"),
        (["vary=folds=2,3"], "may not vary"),
        (["vary=val_fraction=.1,.2"], "may not vary"),
        (["vary=target_mpp=.5,1"], "may not vary"),
        (["vary=time_bins=3,4"], "may not vary"),
        (["vary=store=a,b"], "may not vary"),
        (["vary=teacher=a,b"], "may not vary"),
        (["vary=aggregator=abmil,abmill"], "abmill"),
        (["vary=dropout=0.1,1.5"], "dropout=1.5"),
        (["vary=method=plain,mhim high_mask_ratio=.01,.02"], "one training"),
        (["rungs=3"], "halving"),
        (["halving=2", "rungs=3,x"], "rungs"),
    ],
)
def test_what_cannot_vary_is_refused_by_name(words: list[str], said: str) -> None:
    assert said in refusal(*words)


def test_values_that_do_not_go_together_are_one_configuration_s_business() -> None:
    made = points("vary=aggregator=abmil,transmil embed_dim=16,12")
    assert [point.config is None for point in made] == [False, False, False, True]
    assert "multiple of 8" in made[-1].reason
