"""A file of keys: below the command line, above the recipe; and the file that a run writes does it again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.commands import FLOWS, config_class, read_words
from flows.config.commands import CompareConfig, TrainConfig
from flows.config.files import AS_TYPED, resolved
from flows.config.flat import flat, from_keys, keys_of, with_keys
from flows.config.jobs import JobsLsConfig
from flows.config.schedules import ScheduleServeConfig
from flows.config.words import given_values, parse
from flows.submission.words import job_words
from mhim_core.errors import ConfigError
from mhim_core.fingerprint import canonical_json
from mhim_core.mil.model_options import Score


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return f"config={path}"


def train(*words: str) -> TrainConfig:
    return parse(TrainConfig, words, command="train")


def refusal(word: str) -> str:
    with pytest.raises(ConfigError) as caught:
        train("cohort=c", "store=s", "out=o", word)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_command_line_wins_over_the_file_and_the_file_over_the_recipe(tmp_path: Path) -> None:
    file = write(
        tmp_path / "my.yaml",
        "cohort: c.csv\nstore: s\nrecipe: mhim-v2\nscore: attention\nfolds: 3\nepochs: 7\n",
    )
    config = train(file, "out=o", "epochs=9")
    assert (config.data.cohort, config.splits.folds, config.fit.epochs) == ("c.csv", 3, 9)
    assert config.mhim.score is Score.attention, "of the file, above the recipe"
    assert (config.mhim.random_mask_ratio, config.protocol.recipe) == (0.8, "mhim-v2"), "of the recipe"
    assert train(file, "out=o", "recipe=mhim").mhim.random_mask_ratio == 0.1
    assert train(file, "out=o", "recipe=mhim").mhim.score is Score.attention


def test_a_scalar_of_the_file_is_the_text_that_stands_there(tmp_path: Path) -> None:
    file = write(tmp_path / "my.yaml", "cohort: 2026_11\nstore: 007\nout: yes\nlearning_rate: 1e-3\npatience: null\n")
    config = train(file)
    assert (config.data.cohort, config.store, config.out) == ("2026_11", "007", "yes")
    assert (config.fit.learning_rate, config.fit.patience) == (1e-3, None)


def test_a_list_of_the_file_is_a_list_of_texts(tmp_path: Path) -> None:
    file = write(tmp_path / "my.yaml", "split_files: [a (1).csv, '2026_11,b', 3]\n")
    assert train("cohort=c", "store=s", "out=o", file).protocol.split_files == ("a (1).csv", "2026_11,b", "3")
    both = write(tmp_path / "both.yaml", "runs: [runs/a, s3://x/b]\nout: o\n")
    assert parse(CompareConfig, [both], command="compare").run_uris == ("runs/a", "s3://x/b")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("epoch: 3\n", "has no key 'epoch'; did you mean epochs=…?"),
        ("epochs: 3\nepochs: 4\n", "gives key 'epochs' twice"),
        ("epochs: many\n", "epochs='many' is not a whole number"),
        ("epochs: [1, 2]\n", "epochs takes one value"),
        ("model:\n  epochs: 3\n", "has no key 'model'"),
        ("config: other.yaml\n", "only the command line may name one"),
        ("- epochs\n", "is no mapping of keys"),
        ("epochs: [\n", "is no YAML file"),
        ("[" * 200_000, "is nested too deeply"),
        ("{a: " * 2000, "is nested too deeply"),
        ("#" * (2**20 + 1), "1,048,577 bytes"),
        ("? [epochs]\n: 3\n", "is no mapping of keys"),
    ],
)
def test_what_is_wrong_in_a_file_is_told_with_the_file(tmp_path: Path, text: str, reason: str) -> None:
    message = refusal(write(tmp_path / "my.yaml", text))
    assert reason in message
    assert "my.yaml" in message


def test_a_file_that_is_not_there_and_an_empty_one(tmp_path: Path) -> None:
    assert "there is no such file" in refusal(f"config={tmp_path}/none.yaml")
    assert train("cohort=c", "store=s", "out=o", write(tmp_path / "e.yaml", "# nothing\n")) == train(
        "cohort=c", "store=s", "out=o"
    )


@pytest.mark.parametrize("name", [name for name, command in FLOWS.items() if not command.wraps_flow])
def test_every_command_reads_the_file_that_holds_its_resolved_keys(name: str, tmp_path: Path) -> None:
    kind = config_class(name)
    needed = {key.name: "x" for key in keys_of(kind).values() if key.required}
    config = from_keys(kind, **needed)
    file = tmp_path / "resolved.yaml"
    file.write_bytes(resolved(config, name))
    assert flat(read_words(name, [f"config={file}"])) == flat(config)
    assert list(yaml.safe_load(file.read_text())) == list(keys_of(kind)), "any YAML reader finds every key"


def test_a_resolved_file_gives_back_names_that_yaml_would_read_as_something_else(tmp_path: Path) -> None:
    names = ["2026_11", "no", "~", "1e3", "a: b", "# x", "é 😀", "{x}", "[a]", "' \" '", " padded "]
    config = from_keys(TrainConfig, cohort="on", store="007", out="2026_11", split_files=tuple(names))
    file = tmp_path / "resolved.yaml"
    file.write_bytes(resolved(config, "train"))
    assert train(f"config={file}") == config
    assert yaml.safe_load(file.read_text())["split_files"] == names


def test_which_keys_a_retraining_was_given_counts_those_of_its_file(tmp_path: Path) -> None:
    file = write(tmp_path / "my.yaml", "gate_delta: 0.1\ncohort: c\nstore: s\n")
    config: Any = read_words("retrain", ["name=lung", "registry=r", file])
    assert config.gives("gate_delta")
    assert not config.gives("gate_floor")


def test_in_a_job_the_file_travels_and_its_relative_places_are_full_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_table: Callable[..., Path]
) -> None:
    write_table([{"slide_id": "a", "path": "a.svs", "patient_id": "p", "label": "x"}])
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "my.yaml", "cohort: my.csv\nstore: features\ntile_px: 128\n")
    words = ["config=my.yaml"]
    job = job_words("embed", read_words("embed", words), words, ship=True)
    assert job.files["inputs/config-0/my.yaml"] == (tmp_path / "my.yaml").read_bytes()
    for place, data in job.files.items():
        (tmp_path / "job" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "job" / place).write_bytes(data)
    monkeypatch.chdir(tmp_path / "job")
    job_config: Any = read_words("embed", job.words)
    assert job_config.store == f"{tmp_path}/features"
    assert job_config.data.cohort == "inputs/cohort-0/my.csv"
    assert job_config.tiles.tile_px == 128


def test_what_a_job_writes_gives_back_the_command_that_was_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_table: Callable[..., Path]
) -> None:
    write_table([{"slide_id": "a", "path": "a.svs", "patient_id": "p", "label": "x"}])
    monkeypatch.chdir(tmp_path)
    for name in ("one.csv", "two.csv"):
        write(tmp_path / name, "a,train\n")
    words = ["cohort=my.csv", "store=features", "out=runs/a", "split_files=one.csv,two.csv", "local_cpus=2"]
    typed: Any = read_words("train", words)
    job = job_words("train", typed, words, ship=True)
    in_job: Any = read_words("train", job.words)
    assert in_job.protocol.split_files == ("inputs/split_files-0/one.csv", "inputs/split_files-1/two.csv")
    assert b"inputs/" in resolved(in_job, "train")
    monkeypatch.setenv(AS_TYPED, canonical_json(job.as_typed).decode())
    file = tmp_path / "resolved.yaml"
    file.write_bytes(resolved(in_job, "train"))
    assert read_words("train", [f"config={file}"]) == typed
    part = with_keys(in_job, out="/elsewhere/final")  # a flow that the job's flow calls
    assert yaml.safe_load(resolved(part, "train"))["out"] == "/elsewhere/final"
    assert yaml.safe_load(resolved(part, "train"))["cohort"] == "my.csv"


@pytest.mark.usefixtures("train_here")
def test_a_run_s_own_resolved_file_says_that_it_is_done(
    mhim: Callable[..., Any],
    made_store: Callable[..., str],
    write_table: Callable[..., Any],
    cohort_rows: Callable[..., Any],
    tmp_path: Path,
) -> None:
    rows = cohort_rows(pos=4, neg=4)
    store = made_store([row["slide_id"] for row in rows])
    quick = ["folds=1", "epochs=1", "embed_dim=8", "method=plain"]
    assert mhim("train", f"cohort={write_table(rows)}", store, f"out={tmp_path}/run", *quick).code == 0
    file = tmp_path / "run/resolved.yaml"
    before = file.read_bytes()
    again = mhim("train", f"config={file}")
    assert again.code == 0
    assert "nothing to do" in again.out
    assert file.read_bytes() == before
    assert "embed_dim: 8" in before.decode()
    for command, folder in (("evaluate", "evaluation"), ("report", "report")):
        assert mhim(command, f"run={tmp_path}/run").code == 0
        own = tmp_path / "run" / folder / "resolved.yaml"
        written_ns = own.stat().st_mtime_ns
        assert mhim(command, f"config={own}").code == 0
        assert own.stat().st_mtime_ns == written_ns
    assert file.read_bytes() == before
    runs = f"{tmp_path}/run"
    other = mhim("train", f"config={file}", "epochs=2")
    assert other.code == 5, "the same out= with another configuration"
    assert runs in other.err


@pytest.mark.parametrize(
    ("kind", "key", "value", "harmless"),
    [
        (TrainConfig, "aggregator_file", "/x.py", [""]),
        (TrainConfig, "ray_address", "head:6379", ["local", "auto"]),
        (JobsLsConfig, "ray_address", "http://head:8265", ["http://127.0.0.1:8265"]),
        (JobsLsConfig, "allow_insecure", "true", ["false"]),
        (ScheduleServeConfig, "allow", "/x", [""]),
    ],
)
def test_what_runs_here_and_who_gets_a_token_is_not_said_by_a_file_in_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any, key: str, value: str, harmless: list[str]
) -> None:
    (tmp_path / "x.py").write_text("")
    words = [f"{name}=w" for name, known in keys_of(kind).items() if known.required]
    monkeypatch.setattr("flows.config.files.read_bytes", lambda uri: Path(tmp_path / "there.yaml").read_bytes())
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "there.yaml", f"{key}: {value}\n")
    write(tmp_path / "here.yaml", "")
    with pytest.raises(ConfigError, match=f"^config=s3://bucket/k.yaml: {key}=.* command line"):
        given_values(kind, [*words, "config=s3://bucket/k.yaml"], "a command")
    assert str(given_values(kind, [*words, "config=here.yaml"], "a command")[key]).lower() == value
    typed = given_values(kind, [*words, "config=s3://bucket/k.yaml", f"{key}={value}"], "a command")
    assert str(typed[key]).lower() == value
    (tmp_path / "here.yaml").chmod(0o666)
    with pytest.raises(ConfigError, match=f"^config=here.yaml: {key}=.* other users"):
        given_values(kind, [*words, "config=here.yaml"], "a command")
    for other in harmless:  # a resolved.yaml in a store gives every key
        write(tmp_path / "there.yaml", f"{key}: '{other}'\n")
        assert key in given_values(kind, [*words, "config=s3://bucket/k.yaml"], "a command")
