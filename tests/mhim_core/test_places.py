"""Places that move together, by arithmetic alone."""

import pytest

from mhim_core.places import join_place, moved_along, nearby_places, relative_place


@pytest.mark.parametrize(
    ("place", "base", "relative"),
    [
        ("/data/a/store", "/data/a/runs/first", "../../store"),
        ("/data/a/store", "/data/a/store/run", ".."),
        ("s3://bucket/a/store", "s3://bucket/a/run", "../store"),
    ],
)
def test_what_is_relative_joins_to_what_it_was(place: str, base: str, relative: str) -> None:
    assert relative_place(place, base) == relative
    assert join_place(base, relative) == place


@pytest.mark.parametrize(
    ("place", "base"),
    [("/data/store", "/home/run"), ("s3://one/a", "s3://two/a"), ("s3://one/a", "/one/a"), ("/a", "s3://one/a")],
)
def test_places_that_share_no_folder_have_no_relative_one(place: str, base: str) -> None:
    assert relative_place(place, base) is None
    assert moved_along(place, base, "/elsewhere/run") is None


def test_what_moved_along_is_found_beside_the_base() -> None:
    assert moved_along("/data/a/slides/1.svs", "/data/a/run", "/mnt/b/run") == "/mnt/b/slides/1.svs"
    assert moved_along("/data/a/slides/1.svs", "/data/a/run", "s3://bucket/b/run") == "s3://bucket/b/slides/1.svs"


def test_the_nearest_place_is_guessed_first() -> None:
    guesses = list(nearby_places("/data/a/data/store", "/mnt/b/runs/first"))
    assert guesses[0] == "/mnt/b/runs/store"
    assert "/mnt/b/store" in guesses
    assert "/mnt/b/data/store" in guesses
    assert guesses.index("/mnt/b/runs/store") < guesses.index("/mnt/b/store") < guesses.index("/mnt/store")
