"""What the viewer answers, and to whom."""

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from flows.config.view import ViewConfig
from flows.runs.folder import read_run
from flows.viewing.guard import host_name
from flows.viewing.opening import open_source
from flows.viewing.run_mining import RunMining
from flows.viewing.run_models import RunModels
from flows.viewing.static_files import static_files
from mhim_core.errors import InputError, StorageError
from mhim_core.evaluation.held_out import FitId
from mhim_core.fingerprint import sha256
from mhim_core.storage import LocalStorage
from mhim_core.store.attention import decode_attention
from mhim_core.train.plan import Stage, fit_name
from mhim_core.types import SlideId
from mhim_core.view.failed import FailedBefore
from mhim_core.view.replay import replay

ClientOf = Callable[..., TestClient]
SQUARE = [[0, 0], [100, 0], [100, 100], [0, 100], [0, 0]]
KINDS = {"float32": "<f4", "int32": "<i4", "uint8": "u1"}


def unpacked(data: bytes) -> dict[str, Any]:
    """What the page's `getPacked` makes of it."""
    length = int.from_bytes(data[:4], "little")
    facts: dict[str, Any] = json.loads(data[4 : 4 + length])
    at = 4 + length
    for array in facts["arrays"]:
        values = np.frombuffer(data, KINDS[array["type"]], array["length"], at)
        facts[array["name"]] = values
        at += -(-values.nbytes // 4) * 4
    assert at == len(data)
    return facts


def rows_of(client: TestClient, **asked: object) -> list[dict[str, Any]]:
    found = client.post("/api/worklist", json=asked)
    assert found.status_code == 200, found.text
    rows: list[dict[str, Any]] = found.json()["rows"]
    return rows


def test_the_worklist_has_every_slide_with_its_held_out_prediction(client: TestClient, viewed: Any) -> None:
    about = client.get("/api/about").json()
    assert about["facets"]["num_slides"] == 12
    rows = rows_of(client)
    assert [row["slide_id"] for row in rows] == [f"s{number:02d}" for number in range(12)]
    run = read_run(str(viewed.run))
    held_out = {str(slide_id): split.fold for split in run.splits for slide_id in split.test}
    for row in rows:
        assert row["folds"] == [held_out[row["slide_id"]]]
        assert sum(row["values"]) == pytest.approx(1)
        assert row["right"] == (row["predicted"] == row["label"])
    wrong = rows_of(client, outcome="wrong", sort="error", descending=True)
    assert all(row["right"] is False for row in wrong)


def test_the_heat_map_of_the_held_out_model_is_the_attention_that_evaluate_kept(
    client: TestClient, viewed: Any
) -> None:
    models = client.get("/api/slides/s03").json()["models"]
    assert models[0]["relation"] == "held_out"
    assert models[0]["role"] == "student"
    heat = unpacked(client.get("/api/slides/s03/heat", params={"model": models[0]["key"]}).content)
    kept = decode_attention((viewed.run / "evaluation/attention/s03.parquet").read_bytes())
    assert np.array_equal(heat["attention"], kept.attention)
    row = rows_of(client, text="s03")[0]
    assert heat["outputs"] == pytest.approx(row["values"])
    places = unpacked(client.get("/api/slides/s03/places").content)
    assert np.array_equal(places["xy"].reshape(-1, 2), kept.coords_l0_px)
    by_role = {model["role"] for model in models}
    assert by_role == {"student", "teacher", "plain"}


def test_a_tile_says_what_the_bag_would_be_without_it(client: TestClient) -> None:
    model = client.get("/api/slides/s03").json()["models"][0]["key"]
    facts = client.get("/api/slides/s03/tiles/4", params={"model": model}).json()
    assert facts["outputs"] != facts["outputs_without"]
    assert len(facts["evidence"]) == 2
    near = client.get("/api/slides/s03/tiles/4/nearest").json()
    assert (near["num_sampled"], near["num_tiles"], near["num_slides"]) == (180, 180, 12)
    assert {"slide_id": "s03", "row": 4} not in [
        {"slide_id": n["slide_id"], "row": n["row"]} for n in near["neighbours"]
    ]
    assert client.get("/api/slides/s03/tiles/15").status_code == 404


def test_what_was_mined_covers_every_tile_and_says_what_it_is_of(client: TestClient) -> None:
    first = {f"s{number:02d}": client.get(f"/api/slides/s{number:02d}").json()["mining"][0] for number in range(12)}
    slide_id = next(slide_id for slide_id, fit in first.items() if fit["relation"] == "train")
    asked = {key: first[slide_id][key] for key in ("seed", "fold")} | {"epoch": 1}
    mined = unpacked(client.get(f"/api/slides/{slide_id}/mined", params=asked).content)
    assert len(mined["notes"]) == 1
    answers = [
        client.get(f"/api/slides/{slide_id}/mined", params=asked | {"teacher": name}) for name in ("stage1", "chosen")
    ]
    kept = [unpacked(answer.content) for answer in answers]
    assert [len(each["notes"]) for each in kept] == [2, 2]
    assert not np.array_equal(kept[0]["score"], kept[1]["score"])
    other = next(slide_id for slide_id, fit in first.items() if fit["relation"] != "train")
    assert len(unpacked(client.get(f"/api/slides/{other}/mined", params=asked).content)["notes"]) in (1, 2)
    assert sum(mined["counts"].values()) == len(mined["fate"]) == 15
    assert mined["counts"]["high"] == 4  # a quarter of 15, rounded up
    assert client.get(f"/api/slides/{slide_id}/mined", params=asked | {"epoch": 4}).status_code == 400
    assert client.get(f"/api/slides/{slide_id}/mined", params=asked | {"epoch": "x"}).status_code == 400


def test_training_done_again_ends_in_the_very_teacher_that_was_kept(viewed: Any) -> None:
    run = read_run(str(viewed.run))
    models = RunModels(run)
    fit = RunMining(models)._fit(FitId(run.seeds[0], 1))
    stage_one = models.loaded(fit_name(run.seeds[0], 1, Stage.plain))
    step = fit.result.best_epoch * fit.setup.steps_per_epoch
    found = replay(fit.setup, stage_one, run.bag_source(), fit.result.history, step, num_threads=2)
    assert found.num_epochs == found.num_equal == fit.result.best_epoch
    assert fit.loaded.teacher is not None
    kept = fit.loaded.teacher.state_dict()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in found.teacher.state_dict().items())


def test_a_replayed_teacher_says_that_it_is_exact_and_a_long_replay_is_refused(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    mining = client.get("/api/slides/s03").json()["mining"][0]
    asked = {"seed": mining["seed"], "fold": mining["fold"], "epoch": 2, "teacher": "replayed"}
    mined = unpacked(client.get("/api/slides/s03/mined", params=asked).content)
    assert mined["notes"][-1].startswith("Exact")
    unproven = unpacked(client.get("/api/slides/s03/mined", params=asked | {"epoch": 1}).content)
    assert not unproven["notes"][-1].startswith("Exact")  # no epoch's losses to compare
    assert client.get("/api/slides/s03/mined", params=asked | {"teacher": "none"}).status_code == 400
    monkeypatch.setattr("mhim_core.view.replay.MOST_TILES", 10)
    assert client.get("/api/slides/s03/mined", params=asked | {"epoch": 3}).status_code == 400
    monkeypatch.setattr("flows.viewing.run_mining._QUICK_TILES", 10)
    nearest = unpacked(client.get("/api/slides/s03/mined", params=asked | {"teacher": ""}).content)
    assert not nearest["notes"][-1].startswith("Exact")


def test_pictures_are_of_the_scan_and_white_where_it_is_gone(client: TestClient) -> None:
    facts = client.get("/api/slides/s03/picture").json()
    assert (facts["width"], facts["height"], facts["max_level"], facts["has_file"]) == (1200, 300, 11, True)
    tile = client.get("/api/slides/s03/dz/11/0/0.jpg")
    assert (tile.headers["content-type"], Image.open(_file(tile.content)).size) == ("image/jpeg", (256, 256))
    assert client.get("/api/slides/s03/dz/11/9/0.jpg").status_code == 404
    assert Image.open(_file(client.get("/api/slides/s03/thumbnail.jpg").content)).size[0] == 192
    gone = client.get("/api/slides/s11/picture").json()
    assert (gone["has_file"], gone["width"]) == (False, 1200)
    assert np.asarray(Image.open(_file(client.get("/api/slides/s11/dz/11/0/0.jpg").content))).min() == 255
    refused = client.get("/api/slides/s11/thumbnail.jpg")
    assert (refused.status_code, refused.json()["reason"]) == (424, "not_found")
    assert client.get("/api/slides/s11/thumbnail.jpg?stand_in=1").headers["content-type"].startswith("image/svg")


def test_a_slide_that_killed_a_decoder_is_listed_and_not_opened(
    client_of: ClientOf, viewed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = {SlideId("bad"): FailedBefore("decoder_crash", "it died twice")}
    monkeypatch.setattr("flows.viewing.cohort_rows.recorded_failures", lambda *_: failure)
    table = tmp_path / "cohort.csv"
    table.write_text(f"slide_id,path,patient_id,label\nbad,{viewed.slides / 's00.tiff'},p,normal\n")
    client = client_of(cohort=str(table))
    assert rows_of(client, status="failed")[0]["reason"] == "decoder_crash"
    answer = client.get("/api/slides/bad/picture")
    assert (answer.status_code, answer.json()["reason"]) == (424, "decoder_crash")


def _file(data: bytes) -> Any:
    import io

    return io.BytesIO(data)


def test_an_annotation_is_saved_in_versions_and_exported(client: TestClient, tmp_path: Path) -> None:
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [SQUARE]}, "properties": {}}
    sent = {"author": "A. Path", "based_on": 0, "document": {"type": "FeatureCollection", "features": [feature]}}
    assert client.get("/api/slides/s03/annotation").json() is None
    assert client.post("/api/slides/s03/annotation", json=sent).json()["version"] == 1
    assert client.post("/api/slides/s03/annotation", json=sent).status_code == 409
    assert client.get("/api/slides/s03/annotation").json()["author"] == "A. Path"
    exported = client.get("/api/slides/s03/annotation.geojson")
    assert exported.content == (tmp_path / "annotations/s03.geojson").read_bytes()
    assert client.post("/api/slides/s03/annotation", json=sent | {"author": ""}).status_code == 400
    assert client.post("/api/slides/s03/annotation", json=sent | {"based_on": "1"}).status_code == 400
    assert client.post("/api/slides/nobody/annotation", json=sent).status_code == 404


def test_read_only_shows_and_saves_nothing(client_of: ClientOf, tmp_path: Path) -> None:
    client = client_of(annotations=tmp_path / "annotations", read_only=True)
    assert client.get("/api/about").json()["can_save"] is False
    sent = {"author": "A. Path", "based_on": 0, "document": {"type": "FeatureCollection", "features": []}}
    assert client.post("/api/slides/s03/annotation", json=sent).status_code == 403
    assert not (tmp_path / "annotations").exists()


def test_a_store_without_a_run_shows_slides_and_tiles(client_of: ClientOf, viewed: Any) -> None:
    client = client_of(store=str(viewed.store))
    about = client.get("/api/about").json()
    assert (about["task"], about["can_save"], about["facets"]["num_slides"]) == (None, False, 12)
    assert client.get("/api/slides/s03").json()["models"] == []
    assert client.get("/api/slides/s03/picture").json()["has_file"] is True
    assert unpacked(client.get("/api/slides/s03/places").content)["num"] == 15


OUTSIDE = (
    "/static/../app.py",
    "/static/%2e%2e/app.py",
    "/static/..%2fapp.py",
    "/static//etc/passwd",
    "/static/%2fetc%2fpasswd",
    "/api/slides/..%2f..%2frun.json/thumbnail.jpg",
    "/api/slides/%2fetc%2fpasswd",
    "/api/slides/../../../../etc/passwd",
    "/api/slides/..%2fs03/annotation",
    "/api/slides/s03%00/places",
    "/api/slides/s03/../../about/x",
    "/run.json",
    "/evaluation/predictions.csv",
)


@pytest.mark.parametrize("path", OUTSIDE)
def test_no_file_can_be_asked_for_by_a_path(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert "root:" not in answer.text
    assert "Traceback" not in answer.text


@pytest.mark.parametrize("slide_id", ["<script>", "s03'--", "s" * 5000, "\u202es03", ".."])
def test_an_id_that_is_not_listed_is_not_looked_for(client: TestClient, slide_id: str) -> None:
    from urllib.parse import quote

    for rest in ("", "/picture", "/places", "/heat", "/outline", "/annotation", "/annotation.geojson", "/tiles/0.jpg"):
        answer = client.get(f"/api/slides/{quote(slide_id, safe='')}{rest}")
        assert answer.status_code == 404, rest
        assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("host", "is_answered"),
    [
        ("127.0.0.1:8765", True),
        ("localhost", True),
        ("LOCALHOST:1", True),
        ("[::1]:8765", True),
        ("evil.example", False),
        ("127.0.0.1.evil.example:8765", False),
        ("localhost@evil.example", False),
        ("", False),
    ],
)
def test_a_name_that_another_site_lets_point_here_is_refused(client: TestClient, host: str, is_answered: bool) -> None:
    for path in ("/", "/api/about", "/static/app.js"):
        assert (client.get(path, headers={"host": host}).status_code == 200) is is_answered


def test_a_host_name_is_read_without_its_port() -> None:
    assert [host_name(host) for host in ("[::1]:80", "a:1", "A", "[::1]", "::1")] == ["[::1]", "a", "a", "[::1]", "::1"]


def test_another_sites_page_changes_nothing(client: TestClient) -> None:
    for path in ("/api/worklist", "/api/slides/s03/annotation"):
        del client.headers["x-mhim-view"]
        assert client.post(path, json={}).status_code == 403
        client.headers["x-mhim-view"] = "1"


def test_on_another_address_everything_needs_the_token(client_of: ClientOf) -> None:
    token = "a-token-of-some-length"
    client = client_of(names=None, token=token)
    client.base_url = "http://viewer.hospital:8765"
    for path in ("/", "/static/app.js", "/api/about", "/api/slides/s03/dz/11/0/0.jpg"):
        assert client.get(path).status_code == 401
        assert client.get(path, headers={"authorization": "Bearer wrong"}).status_code == 401
        assert client.get(f"{path}?token=wrong").status_code == 401
    assert client.post("/api/worklist", json={}).status_code == 401
    assert client.get("/api/about", headers={"authorization": f"Bearer {token}"}).status_code == 200
    answer = client.get(f"/?token={token}&x=1", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/?x=1")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert client.get("/api/about").status_code == 200  # by the cookie


def test_every_answer_forbids_foreign_content(client: TestClient) -> None:
    for path in ("/", "/static/app.js", "/api/about", "/nothing", "/api/slides/s03/dz/11/0/0.jpg"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"


def test_no_script_makes_markup_of_texts_or_asks_another_place() -> None:
    own = {path: file.data.decode() for path, file in static_files().items() if not path.startswith("vendor/")}
    for path, text in own.items():
        if path.endswith(".js"):
            for forbidden in (
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "new Function",
            ):
                assert forbidden not in text, path
    assert not [
        path for path, text in own.items() if "//" in text.replace("http://www.w3.org", "") and "https:" in text
    ]
    index = own["index.html"]
    assert index.count("<script") == 2
    assert " style=" not in index
    assert " on" not in index.replace(" only", "").split("<body>")[0]


def test_openseadragon_is_the_published_file() -> None:
    """openseadragon 6.1.1 of the npm registry, build/openseadragon/openseadragon.min.js, and its licence."""
    vendored = {path: sha256(file.data) for path, file in static_files().items() if path.startswith("vendor/")}
    assert vendored == {
        "vendor/openseadragon/openseadragon.min.js": "14d587cd3ee7c4861f1a41077ce642029364a21029956ba635bd8fb1202cf9ad",
        "vendor/openseadragon/LICENSE.txt": "17da96b26ac706d2cbd06d4555dedb43026782f4943faf0156fe7acf89454228",
    }
    assert len(static_files()["vendor/openseadragon/openseadragon.min.js"].data) == 352735


def test_a_slow_store_is_named_and_asked_once(client_of: ClientOf, monkeypatch: pytest.MonkeyPatch) -> None:
    client, reads = client_of(within_s=0.1), []
    get = LocalStorage.get

    def slow(storage: LocalStorage, key: str) -> bytes:
        reads.append(key)
        time.sleep(0.4)
        return get(storage, key)

    monkeypatch.setattr(LocalStorage, "get", slow)
    first = client.get("/api/slides/s05/nothing-here")
    assert first.status_code == 404
    answers = [client.get("/api/slides/s05/tiles/0/nearest").status_code for _ in range(2)]
    assert answers == [504, 504]
    assert client.get("/api/slides/s05/tiles/0/nearest").json()["slow"] is True
    assert len(reads) <= 5  # one sample is being read, however often it was asked for


def test_a_store_that_fails_gives_its_sentence(client_of: ClientOf, monkeypatch: pytest.MonkeyPatch) -> None:
    client = client_of()

    def fail(storage: LocalStorage, key: str) -> bytes:
        raise StorageError("s3://bucket does not answer")

    monkeypatch.setattr(LocalStorage, "get", fail)
    answer = client.get("/api/slides/s06/places")
    assert (answer.status_code, answer.json()) == (502, {"error": "s3://bucket does not answer"})


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"sort": 3}', b'{"nonsense": 1}', b'{"limit": 100000}', b"\xff"])
def test_a_question_that_is_none_is_refused(client: TestClient, body: bytes) -> None:
    assert client.post("/api/worklist", content=body).status_code == 400


def test_a_port_that_is_taken_is_named(refused: Callable[..., str], viewed: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port={port}" in refused("view", f"store={viewed.store}", f"port={port}")


def test_a_table_lists_what_is_in_no_run_and_says_where_slides_are(viewed: Any, tmp_path: Path) -> None:
    table = tmp_path / "cohort.csv"
    lines = [
        "slide_id,path,patient_id,label",
        f"s11,{viewed.slides / 's00.tiff'},p11,normal",
        "new,gone.svs,p99,normal",
    ]
    table.write_text("\n".join(lines) + "\n")
    source = open_source(ViewConfig(run=str(viewed.run), cohort=str(table)))
    assert source.worklist.by_id["new"].status == "absent"
    assert source.worklist.facets.num_slides == 13
    assert source.uri_of("s11") == str(viewed.slides / "s00.tiff")
    assert source.uri_of("s02").endswith("s02.tiff")


def test_a_run_is_not_taken_for_the_one_that_predicted(viewed: Any, tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text('{"by": {"run": "another"}}')
    (tmp_path / "predictions.parquet").write_bytes(b"")
    with pytest.raises(InputError, match="is not the run"):
        open_source(ViewConfig(predictions=str(tmp_path), run=str(viewed.run)))
