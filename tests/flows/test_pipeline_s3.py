"""Cohort, slides, store, run and predictions at s3://, a server on the loopback: the results are those of folders."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.session import kept_alive
from cluster.storage import open_storage, shared_client
from mhim_core.storage import LocalStorage, Storage

pytestmark = [pytest.mark.s3, pytest.mark.filterwarnings("ignore:::ray")]

TRAINING = ("method=plain", "folds=2", "epochs=2", "embed_dim=16", "local_cpus=2")


@pytest.fixture(scope="module")
def bucket(s3_settings: dict[str, str], make_bucket: Callable[[], str]) -> Iterator[str]:
    """A bucket, and the environment that reaches it: set before Ray starts, whose workers inherit it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_settings.items():
            patch.setenv(name, value)
        shared_client.cache_clear()  # another test's may be of another server
        with kept_alive():
            yield make_bucket()
        shared_client.cache_clear()


def digests(storage: Storage, *prefixes: str) -> dict[str, str]:
    """sha256 by key, of what does not tell where it lies (metrics name the models, which name the manifest)."""
    keys = [entry.key for prefix in prefixes for entry in storage.list(prefix)]
    placed = ("metrics.json", "resolved.yaml")
    return {key: hashlib.sha256(storage.get(key)).hexdigest() for key in keys if not key.endswith(placed)}


@pytest.mark.parametrize("num_by_ray", [1, pytest.param(3, marks=pytest.mark.thorough)])
def test_the_whole_path_lies_at_s3_and_equals_the_path_through_folders(
    num_by_ray: int,
    bucket: str,
    painted: Any,
    tmp_path: Path,
    run_mhim: Callable[..., Any],
    run_here: Callable[..., Any],
    clean_features: dict[str, str],
) -> None:
    for path in painted.cohort.parent.iterdir():
        open_storage(f"s3://{bucket}/lab").put(path.name, path.read_bytes())

    def walk(run_command: Callable[..., Any], slides: str, base: str, part: slice) -> None:
        store, run = f"{base}/store", f"{base}/run"
        words = (f"cohort={slides}/cohort.csv", f"store={store}")
        commands = (
            ("embed", *words, "encoder=hed-texture", "local_cpus=2", "embed_actors=1"),
            ("train", *words, f"out={run}", *TRAINING),
            ("evaluate", f"run={run}", "bootstrap_replicates=20"),
            ("predict", f"run={run}", f"cohort={slides}/new.csv", f"out={base}/predictions", "local_cpus=2"),
            ("report", f"run={run}", "max_heatmaps=2"),
        )
        for command in commands[part]:
            ended = run_command(*command)
            assert ended.code == 0, (command, ended)

    walk(run_mhim, f"s3://{bucket}/lab", f"s3://{bucket}/out{num_by_ray}", slice(0, num_by_ray))
    walk(run_here, f"s3://{bucket}/lab", f"s3://{bucket}/out{num_by_ray}", slice(num_by_ray, 5))
    features = digests(open_storage(f"s3://{bucket}/out{num_by_ray}/store"), "features")
    assert features.items() >= clean_features.items()
    assert len(features) == 15
    assert open_storage(f"s3://{bucket}/out{num_by_ray}/run").get("report.html")
    assert open_storage(f"s3://{bucket}/out{num_by_ray}/predictions").get("predictions.csv")

    walk(run_here, str(painted.cohort.parent), str(tmp_path), slice(0, 3))
    evaluation = digests(LocalStorage(tmp_path / "run"), "evaluation")
    assert {"evaluation/predictions.csv", "evaluation/attention/s00.parquet"} < evaluation.keys()
    assert digests(open_storage(f"s3://{bucket}/out{num_by_ray}/run"), "evaluation") == evaluation


def test_other_tools_files_lie_at_s3_and_equal_those_of_folders(
    bucket: str,
    tmp_path: Path,
    mhim: Callable[..., Any],
    made_store: Callable[..., str],
    write_table: Callable[..., Path],
    cohort_rows: Callable[..., list[dict[str, str]]],
) -> None:
    pytest.importorskip("h5py")
    rows = cohort_rows(pos=2, neg=1)
    table, store = write_table(rows), made_store([row["slide_id"] for row in rows])
    imported = []
    for base in (f"s3://{bucket}/tools", str(tmp_path)):
        theirs, back = f"{base}/theirs", f"{base}/back"
        words = ("import", f"source={theirs}", "format=clam", f"cohort={table}", f"store={back}", "encoder=toy")
        assert mhim("export", store, "format=clam", f"out={theirs}", f"cohort={table}").code == 0
        assert mhim(*words).code == 0
        assert "3 skipped" in mhim(*words).out
        imported.append(
            (digests(open_storage(theirs), "h5_files", "pt_files"), digests(open_storage(back), "features"))
        )
    assert imported[0] == imported[1]
    assert len(imported[0][0]) == 6
    assert len(imported[0][1]) == 3
