"""A run, its store, its slides and its annotations in a bucket."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from cluster.storage import open_storage
from mhim_core.storage import LocalStorage
from mhim_core.store.attention import decode_attention

SQUARE = [[0, 0], [100, 0], [100, 100], [0, 100], [0, 0]]


@pytest.mark.s3
@pytest.mark.thorough
def test_all_of_it_can_lie_in_a_bucket(
    viewed: Any, bucket: str, client_of: Callable[..., TestClient], tmp_path: Path
) -> None:
    for name, folder in (("run", viewed.run), ("store", viewed.store)):
        target = open_storage(f"s3://{bucket}/{name}")
        source = LocalStorage(folder)
        for entry in source.list(""):
            target.put(entry.key, source.get(entry.key))
    slides = open_storage(f"s3://{bucket}/slides")
    slides.put("s03.tiff", (viewed.slides / "s03.tiff").read_bytes())
    table = tmp_path / "cohort.csv"
    lines = viewed.cohort.read_text().replace(",s", f",s3://{bucket}/slides/s")
    table.write_text(lines)
    places = {"run": f"s3://{bucket}/run", "store": f"s3://{bucket}/store", "cohort": str(table)}
    client = client_of(place=open_storage(f"s3://{bucket}/annotations"), **places)

    refused = client.get("/api/slides/s03/thumbnail.jpg")
    assert refused.status_code == 424  # a whole slide is not fetched for a small picture
    facts = client.get("/api/slides/s03").json()
    assert client.get("/api/slides/s03/picture").json()["has_file"] is True
    assert client.get("/api/slides/s04/picture").json()["why"].startswith("not_found")
    assert client.get("/api/slides/s03/dz/11/1/0.jpg").headers["content-type"] == "image/jpeg"
    assert client.get("/api/slides/s03/thumbnail.jpg").status_code == 200  # it is open by now
    heat = client.get("/api/slides/s03/heat", params={"model": facts["models"][0]["key"]}).content
    kept = decode_attention((viewed.run / "evaluation/attention/s03.parquet").read_bytes())
    assert np.array_equal(np.frombuffer(heat[-60:], "<f4"), kept.attention)

    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [SQUARE]}, "properties": {}}
    sent = {"author": "A. Path", "based_on": 0, "document": {"type": "FeatureCollection", "features": [feature]}}
    assert client.post("/api/slides/s03/annotation", json=sent).json()["version"] == 1
    assert client.post("/api/slides/s03/annotation", json=sent).status_code == 409
    assert client.get("/api/slides/s03/annotation").json()["version"] == 1
