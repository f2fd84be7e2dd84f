"""A job's first step, asked of nodes that are made up; a real cluster answers in test_jobs_cluster."""

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster.nodes import NodeId
from cluster.session import Resources
from cluster.shipping import Requirements
from cluster.storage import open_storage
from flows.commands import IN_JOB, read_flow
from flows.engine.result import FlowResult
from flows.submission.start import NodeState, Question, Sight, check_nodes, look, require_able
from mhim_core.errors import ConfigError, StorageError
from mhim_core.storage import LocalStorage

ONE, TWO = NodeId("10.0.0.1", "aaaaaa"), NodeId("10.0.0.2", "bbbbbb")
NEEDED = Requirements(("ray>=2.60",), "")
FINE = NodeState("", {"python": "3.11.7", "ray": "2.60.0"}, "code", ())


@pytest.fixture
def table(write_table: Callable[..., Path], write_slide: Callable[..., Path]) -> Path:
    write_slide("a.tiff")
    return write_table([{"slide_id": "a", "path": "a.tiff", "patient_id": "p", "label": "x"}])


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """One node: this process."""
    monkeypatch.setattr("flows.submission.start.ask_every_node", lambda question: {ONE: question()})


def test_nodes_that_agree_and_reach_everything_pass() -> None:
    require_able({ONE: FINE, TWO: FINE}, FINE, ())
    seen = FINE._replace(slides=(Sight.SLIDE, Sight.FOLDER))
    require_able({ONE: seen, TWO: seen}, FINE, ("/data/a.svs", "/data/missing.svs"))


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (FINE._replace(problem="store=/x is not the driver's"), "store=/x is not the driver's"),
        (FINE._replace(code="other"), "imports other code of mhim"),
        (
            FINE._replace(versions={"python": "3.12.1", "ray": "2.60.0"}),
            "has python 3.12.1 and the job's driver 3.11.7",
        ),
        (FINE._replace(versions={"python": "3.11.7", "ray": "2.61.0"}), "has ray 2.61.0 and the job's driver 2.60.0"),
    ],
)
def test_a_node_that_differs_is_named_with_what_differs(state: NodeState, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        require_able({ONE: FINE, TWO: state}, FINE, ())
    assert str(caught.value).startswith(f"node {TWO}")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("sight", [Sight.FOLDER, Sight.NOTHING])
def test_slides_that_one_node_alone_does_not_see_are_told_with_both_nodes(sight: Sight) -> None:
    states = {ONE: FINE._replace(slides=(Sight.SLIDE,)), TWO: FINE._replace(slides=(sight,))}
    with pytest.raises(ConfigError, match=r"node 10\.0\.0\.2 \(bbbbbb\): slides of /data .* node 10\.0\.0\.1"):
        require_able(states, FINE, ("/data/a.svs",))


def test_a_folder_that_is_nowhere_is_told_and_one_missing_slide_is_its_own_failure() -> None:
    nowhere = FINE._replace(slides=(Sight.NOTHING, Sight.NOTHING))
    with pytest.raises(ConfigError, match="slides of /data are not there, nor on any other node"):
        require_able({ONE: nowhere, TWO: nowhere}, FINE, ("/data/a.svs", "/data/b.svs"))
    some = FINE._replace(slides=(Sight.NOTHING, Sight.SLIDE))
    require_able({ONE: some, TWO: some}, FINE, ("/gone/a.svs", "/data/b.svs"))


def test_a_node_sees_slides_folders_and_nothing_as_what_they_are(table: Path, tmp_path: Path) -> None:
    slides = (str(tmp_path / "a.tiff"), str(tmp_path / "b.tiff"), "/no/such/c.tiff")
    state = look(Question(NEEDED, slides=slides))
    assert state.slides == (Sight.SLIDE, Sight.FOLDER, Sight.NOTHING)
    assert state.problem == ""


def test_a_place_that_does_not_hold_the_driver_s_probe_is_another_folder_of_that_name(tmp_path: Path) -> None:
    outputs = (("store", str(tmp_path / "store"), "probe/1"),)
    assert "store=" in look(Question(NEEDED, outputs=outputs)).problem
    assert "is not the driver's" in look(Question(NEEDED, outputs=outputs)).problem
    open_storage(str(tmp_path / "store")).put("probe/1", b"probe")
    assert look(Question(NEEDED, outputs=outputs)).problem == ""
    assert [entry.key for entry in LocalStorage(tmp_path / "store").list("")] == ["probe/1"]


def test_a_missing_requirement_is_told_before_a_missing_place() -> None:
    state = look(Question(Requirements(("no-such-thing>=1",), ""), files=(("cohort", "/no/such.csv"),)))
    assert state.problem == "no no-such-thing, and no-such-thing>=1 is needed"


@pytest.mark.usefixtures("here")
def test_what_a_flow_names_is_reached_and_no_probe_is_left(table: Path, tmp_path: Path) -> None:
    config = read_flow("embed", (f"cohort={table}", f"store={tmp_path}/store", "encoder=hed-texture"))
    check_nodes(config, NEEDED)
    assert not list(LocalStorage(tmp_path / "store").list(""))


@pytest.mark.usefixtures("here")
def test_probes_of_first_steps_that_were_killed_are_removed_and_those_of_others_at_work_are_left(
    table: Path, tmp_path: Path
) -> None:
    config = read_flow("embed", (f"cohort={table}", f"store={tmp_path}/store", "encoder=hed-texture"))
    store = LocalStorage(tmp_path / "store")
    for name, age_s in (("old", 3700), ("old-node", 3700), ("young", 3500)):
        store.put(f"probe/{name}", b"probe")
        then_s = time.time() - age_s
        os.utime(tmp_path / "store/probe" / name, (then_s, then_s))
    store.put("features/old", b"")
    os.utime(tmp_path / "store/features/old", (1, 1))
    check_nodes(config, NEEDED)
    assert [entry.key for entry in store.list("")] == ["features/old", "probe/young"]


@pytest.mark.usefixtures("here")
def test_who_may_not_list_a_place_may_still_write_there(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object) -> None:
        raise StorageError("denied")

    monkeypatch.setattr(LocalStorage, "list", denied)
    check_nodes(read_flow("embed", (f"cohort={table}", f"store={tmp_path}/store", "encoder=hed-texture")), NEEDED)


@pytest.mark.usefixtures("here")
def test_the_weights_of_every_encoder_must_be_readable_on_the_node(table: Path, tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(b"weights")
    named = f"encoder_weights=timm/a={tmp_path}/a.pth,timm/b={tmp_path}/b.pth"
    config = read_flow("embed", (f"cohort={table}", f"store={tmp_path}/s", "encoder=timm/a,timm/b", named))
    with pytest.raises(ConfigError, match=f"encoder_weights={tmp_path}/b.pth cannot be read"):
        check_nodes(config, NEEDED)
    (tmp_path / "b.pth").write_bytes(b"weights")
    check_nodes(config, NEEDED)


@pytest.mark.parametrize("kind", ["file", "folder", "pipe"])
@pytest.mark.usefixtures("here")
def test_weights_must_be_readable_on_the_node_itself(table: Path, tmp_path: Path, kind: str) -> None:
    weights = tmp_path / "weights"
    words = (f"cohort={table}", f"store={tmp_path}/s", "encoder=timm/resnet18", f"encoder_weights={weights}")
    with pytest.raises(ConfigError, match=rf"node {re.escape(str(ONE))}: encoder_weights={weights} cannot be read"):
        check_nodes(read_flow("embed", words), NEEDED)
    if kind == "pipe":
        os.mkfifo(weights)
        with pytest.raises(ConfigError, match=f"encoder_weights={weights} cannot be read here: it is a pipe"):
            check_nodes(read_flow("embed", words), NEEDED)
        return
    if kind == "file":
        weights.write_bytes(b"weights")
    else:
        weights.mkdir()
    check_nodes(read_flow("embed", words), NEEDED)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("embed", "cohort={table}", "store={file}/store"), r"driver on \S+ cannot use store=.*/file/store: "),
        (("train", "cohort={gone}", "store=/s", "out={tmp}/o"), r"node 10\.0\.0\.1 \(aaaaaa\): cohort: .*gone\.csv"),
        (("predict", "cohort={table}", "run={tmp}/none", "out={tmp}/o"), r"node .*: run: .*none/run\.json"),
    ],
    ids=["store", "cohort", "run"],
)
def test_an_unreachable_place_is_named_with_the_node(
    table: Path, tmp_path: Path, words: tuple[str, ...], reason: str
) -> None:
    (tmp_path / "file").touch()
    names = {"table": table, "file": tmp_path / "file", "gone": tmp_path / "gone.csv", "tmp": tmp_path}
    flow, *places = (word.format(**names).replace("store=/s", f"store={tmp_path}/s") for word in words)
    with pytest.raises(ConfigError, match=reason):
        check_nodes(read_flow(flow, places), NEEDED)


def test_a_folder_of_new_slides_must_be_there(tmp_path: Path) -> None:
    assert look(Question(NEEDED, folders=(("slides_prefix", str(tmp_path), ""),))).problem == ""
    answer = look(Question(NEEDED, folders=(("slides_prefix", f"{tmp_path}/none", ""),))).problem
    assert answer.startswith(f"slides_prefix={tmp_path}/none is not there")


@pytest.mark.usefixtures("here")
def test_training_reads_features_alone_so_its_slides_may_be_offline(
    write_table: Callable[..., Path], made_store: Callable[..., str], tmp_path: Path
) -> None:
    offline = write_table([{"slide_id": "a", "path": "/no/such/a.svs", "patient_id": "p", "label": "x"}])
    store = made_store(["a"])
    check_nodes(read_flow("train", (f"cohort={offline}", store, f"out={tmp_path}/o")), NEEDED)
    with pytest.raises(ConfigError, match="slides of /no/such are not there"):
        check_nodes(read_flow("embed", (f"cohort={offline}", f"store={tmp_path}/s")), NEEDED)


@pytest.mark.usefixtures("here")
def test_a_store_that_is_only_read_may_be_read_only_and_must_hold_features(
    table: Path, made_store: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = made_store(["a"])
    words = (f"cohort={table}", f"out={tmp_path}/o")
    put = LocalStorage.put

    def only_runs(storage: LocalStorage, key: str, data: bytes) -> None:
        assert storage.uri == f"{tmp_path}/o"
        put(storage, key, data)

    monkeypatch.setattr(LocalStorage, "put", only_runs)
    check_nodes(read_flow("train", (*words, store)), NEEDED)
    with pytest.raises(ConfigError, match=rf"node .*: store={tmp_path}/none is not there"):
        check_nodes(read_flow("train", (*words, f"store={tmp_path}/none")), NEEDED)


def test_a_command_in_a_job_checks_first_and_any_other_does_not(
    monkeypatch: pytest.MonkeyPatch, mhim: Callable[..., object], tmp_path: Path, table: Path
) -> None:
    steps = []

    @contextmanager
    def session(*_: object) -> Iterator[Resources]:
        steps.append("connected")
        yield Resources(1, 1.0, 0.0)

    monkeypatch.setattr("flows.submission.start.ray_session", session)
    monkeypatch.setattr("flows.submission.start.check_nodes", lambda config, needed: steps.append("checked"))
    monkeypatch.setattr("flows.embed.run", lambda config: steps.append("ran") or FlowResult())
    words = ("embed", f"cohort={table}", f"store={tmp_path}/s", "encoder=hed-texture")
    mhim(*words)
    assert steps == ["ran"]
    monkeypatch.setenv(IN_JOB, "1")
    mhim(*words)
    assert steps == ["ran", "connected", "checked", "ran"]
    assert os.environ[IN_JOB] == "1"


def test_a_job_on_a_machine_that_lacks_something_says_so_before_its_flow(
    monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str], table: Path
) -> None:
    monkeypatch.setenv(IN_JOB, "1")
    monkeypatch.setattr("flows.submission.start.requirements", lambda *_: Requirements(("ray>=99",), ""))
    assert "this job's machine has ray 2." in refused("check", f"cohort={table}")
