"""A command as it must be on a cluster, and the id that says what it does."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.commands import FLOWS, config_class, plain_flows, read_flow
from flows.config.commands import TrainConfig
from flows.config.flat import keys_of
from flows.config.roles import Role
from flows.submission.words import JobWords, job_words
from mhim_core.errors import CohortError, ConfigError
from mhim_core.slides.spec import TileSpec

NO_PLACES = {
    *("encoder", "encoder_revision", "feature_set", "aggregator", "plugin_sha256", "ema_momentum", "recipe", "classes"),
    *(
        "gate_metric",
        "never_miss",
        "may_change",
        "model",
        "models",
        "name",
        "ray_address",
        "staging_dir",
        "cache_dir",
        "backend",
        "format",
        "suffix",
    ),  # staging_dir and cache_dir are each node's own folders
    *("signing_key", "signing_command", "trusted_keys"),  # keys stay on the machines that they lie on
    *("roi", "exclude"),  # classes of regions
    "workers",  # a number or a range
    "sampling_by_hardness",  # weights by type
    *("vary", "rungs"),  # a grid of a sweep
    "select_by",  # an encoder, or the digits of a feature set
    *("own_mean", "own_std"),  # numbers of a picture's channels
    *("id_column", "patient_column", "label_column", "time_column", "event_column", "na_values", "extension"),
}


@pytest.fixture
def table(write_table: Callable[..., Path]) -> Path:
    return write_table([{"slide_id": name, "path": f"{name}.svs", "patient_id": name, "label": "x"} for name in "ab"])


def read(flow: str, *words: str, ship: bool = True) -> JobWords:
    return job_words(flow, read_flow(flow, words), words, ship=ship)


def values(words: JobWords) -> dict[str, str]:
    return dict(word.split("=", 1) for word in words.words)


def test_every_text_key_of_every_flow_is_an_address_or_known_to_be_none() -> None:
    text = {
        (name, key.name, key.role)
        for name in plain_flows()
        for key in keys_of(config_class(name)).values()
        if key.kind in (str, tuple)
    }
    known = {(name, key) for name, key, role in text if role in (Role.identity, Role.execution)}
    assert {key for _, key in known} == NO_PLACES, "an address says so by its role"


def test_a_local_table_is_sent_along_and_its_slides_are_named_by_full_places(table: Path, tmp_path: Path) -> None:
    job_words = read("embed", f"cohort={table}", "store=s3://bucket/features")
    place = values(job_words)["cohort"]
    assert place == "inputs/cohort-0/my.csv"
    assert str(tmp_path / "a.svs") in job_words.files[place].decode()
    assert list(job_words.files) == [place]


def test_relative_places_become_those_of_the_current_folder_and_defaults_too(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    places = values(read("train", "cohort=my.csv", "store=features", "out=runs/a,b", "teacher=s3://bucket/run"))
    assert places["store"] == f"{tmp_path}/features"
    assert places["out"] == f"{tmp_path}/runs/a,b"
    assert places["teacher"] == "s3://bucket/run"
    assert values(read("demo"))["out"] == f"{tmp_path}/demo"
    assert values(read("compare", "runs=[a, s3://bucket/b]", "out=c"))["runs"] == f"{tmp_path}/a,s3://bucket/b"


def test_weights_of_several_encoders_are_full_places_each_under_its_encoder_s_name(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("embed", f"cohort={table}", "store=/s", "encoder=timm/a,timm/b")
    places = values(read(*words, "encoder_weights=timm/b=w/b,2.pth,timm/a=/w/a.pth"))
    assert places["encoder_weights"] == f"timm/b={tmp_path}/w/b,2.pth,timm/a=/w/a.pth"
    alone = values(read(*words[:3], "encoder=timm/a", "encoder_weights=w/epoch=3.pth"))
    assert alone["encoder_weights"] == f"{tmp_path}/w/epoch=3.pth"


def test_the_flow_runs_on_its_cluster_where_it_needs_one(table: Path) -> None:
    assert values(read("embed", f"cohort={table}", "store=/s"))["ray_address"] == "auto"
    assert "ray_address" not in values(read("check", f"cohort={table}"))


def test_the_words_mean_the_same_flow(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("tile_px=128", f"cohort={table}", "min_tissue=0.3", "store=/s", "partial_ok=true")
    job_words = read("embed", *words)
    for place, data in job_words.files.items():
        (tmp_path / "job" / place).parent.mkdir(parents=True)
        (tmp_path / "job" / place).write_bytes(data)
    monkeypatch.chdir(tmp_path / "job")
    job_config = read_flow("embed", job_words.words)
    assert (job_config.tiles, job_config.store, job_config.failures.partial_ok) == (
        TileSpec(tile_px=128, min_tissue=0.3),
        "/s",
        True,
    )


def test_split_files_labels_and_plugins_travel_each_under_its_own_name(table: Path, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "fold.csv").write_text(f"id,split\na,{folder}\n")
    labels = tmp_path / "labels.csv"
    labels.write_text("a,1\n")
    job_words = read(
        "train", f"cohort={table}", "store=/s", "out=/o", f"labels={labels}",
        f"split_files={tmp_path}/one/fold.csv,{tmp_path}/two/fold.csv",
    )  # fmt: skip
    assert values(job_words)["split_files"] == "inputs/split_files-0/fold.csv,inputs/split_files-1/fold.csv"
    assert job_words.files["inputs/split_files-1/fold.csv"] == b"id,split\na,two\n"
    assert job_words.files["inputs/labels-0/labels.csv"] == b"a,1\n"


def test_in_an_image_nothing_travels_and_the_table_keeps_its_place(table: Path) -> None:
    job_words = read("embed", f"cohort={table}", "store=/s", ship=False)
    assert values(job_words)["cohort"] == str(table)
    assert not job_words.files


def test_the_stem_is_fit_for_an_id(table: Path) -> None:
    assert re.fullmatch(r"embed-[0-9a-f]{12}", read("embed", f"cohort={table}", "store=/s").stem)


def test_how_it_is_executed_changes_no_stem_and_what_it_makes_does(table: Path) -> None:
    base = ("embed", f"cohort={table}", "store=/s")
    stem = read(*base).stem
    for same in ("embed_actors=3", "gpus_per_actor=0.5", "decode_timeout_s=9", "local_cpus=2", "slides_per_call=1"):
        assert read(*base, same).stem == stem
    others = [read(*base[:2], "store=/t"), read(*base, "tile_px=128"), read(*base, "max_failed_fraction=0.2")]
    assert len({stem, *(job_words.stem for job_words in others)}) == 4
    assert read("check", f"cohort={table}").stem != stem


def test_what_is_execution_is_told_apart_from_what_identifies_a_result() -> None:
    keys = {name for name, key in keys_of(TrainConfig).items() if key.role is Role.execution}
    assert {"ray_address", "workers", "gpus_per_worker", "cache_gib", "checkpoint_every"} <= keys
    assert not keys & {"cohort", "store", "out", "epochs", "seed", "folds", "aggregator", "global_batch"}


def test_the_stem_follows_the_table_s_content_and_not_its_place(table: Path, tmp_path: Path) -> None:
    stem = read("embed", f"cohort={table}", "store=/s").stem
    sent = read("embed", f"cohort={table}", "store=/s").files["inputs/cohort-0/my.csv"]
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved/my.csv").write_bytes(sent)
    assert read("embed", f"cohort={tmp_path}/moved/my.csv", "store=/s").stem == stem
    table.write_text(table.read_text() + "c,c.svs,c,x\n")
    assert read("embed", f"cohort={table}", "store=/s").stem != stem


def test_a_table_that_is_wrong_is_told_before_anything_is_sent(table: Path) -> None:
    table.write_text(table.read_text() + "a,other.svs,a,x\n")
    with pytest.raises(CohortError):
        read("embed", f"cohort={table}", "store=/s")
    with pytest.raises(ConfigError, match=r"cohort=/no/such\.csv: there is no such file on this machine"):
        read("embed", "cohort=/no/such.csv", "store=/s")


def test_a_table_that_only_the_cluster_may_read_is_named_in_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    from mhim_core.errors import StorageError

    def denied(uri: str) -> bytes:
        raise StorageError("the bucket denies access")

    monkeypatch.setattr("flows.submission.words.read_bytes", denied)
    job_words = read("embed", "cohort=s3://bucket/my.csv", "store=/s")
    assert values(job_words)["cohort"] == "s3://bucket/my.csv"
    assert "cannot be read here" in job_words.notes[0]


def test_a_remote_table_s_content_is_part_of_the_stem(monkeypatch: pytest.MonkeyPatch) -> None:
    stems = set()
    for content in (b"one", b"two"):
        monkeypatch.setattr("flows.submission.words.read_bytes", lambda uri, content=content: content)
        stems.add(read("embed", "cohort=s3://bucket/my.csv", "store=/s").stem)
    assert len(stems) == 2


def test_commands_that_are_no_flows_are_refused() -> None:
    for name in set(FLOWS) - set(plain_flows()):
        with pytest.raises(ConfigError, match="no flow that can be run for you"):
            read_flow(name, ())
