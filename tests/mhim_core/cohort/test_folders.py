"""A folder of slides, and tables of ids beside one, are cohorts."""

import pytest

from mhim_core.cohort.folders import folder_table
from mhim_core.cohort.table import Cohort, read_cohort
from mhim_core.cohort.task_options import AS_FOUND, TableOptions
from mhim_core.errors import CohortError


def read(data: bytes, options: TableOptions = AS_FOUND) -> Cohort:
    return read_cohort(data, name="s", base_uri="/data/s", options=options)


def test_every_slide_file_below_a_folder_is_a_row_in_natural_order() -> None:
    table = folder_table(["b/s10.svs", "s2.tiff", "notes.txt", "@x.svs", "b/s9.svs", "m.mrxs", "m/Data0.dat"], "s")
    cohort = read(table.data)
    assert [row.uri for row in cohort.rows] == [
        f"/data/s/{key}" for key in ("@x.svs", "b/s9.svs", "b/s10.svs", "m.mrxs", "s2.tiff")
    ]
    assert [row.slide_id for row in cohort.rows][1:] == ["s9", "s10", "m", "s2"]
    assert "5 slides" in table.notes[0]


def test_dicom_files_of_one_folder_are_one_slide() -> None:
    table = folder_table(["a/2.dcm", "a/1.dcm", "b/1.dcm"], "s")
    assert [row.uri for row in read(table.data).rows] == ["/data/s/a/1.dcm", "/data/s/b/1.dcm"]
    assert "1 further" in table.notes[1]


def test_an_ome_zarr_is_one_slide_whatever_is_in_it() -> None:
    keys = [
        "b/x.ome.zarr/0/0.0.0",
        "b/x.ome.zarr/0/.zarray",
        "y.zarr/zarr.json",
        "y.zarr/label.zarr/0/0.tiff",
        "z.zarr",
    ]
    cohort = read(folder_table(keys, "s").data)
    assert [row.uri for row in cohort.rows] == ["/data/s/b/x.ome.zarr", "/data/s/y.zarr", "/data/s/z.zarr"]
    assert [row.slide_id for row in cohort.rows] == ["x", "y", "z"]


def test_a_folder_without_slides_is_refused() -> None:
    with pytest.raises(CohortError, match="none of the 2 files"):
        folder_table(["a.txt", "b.h5"], "s")


@pytest.mark.parametrize(
    ("table", "places"),
    [
        (b"case_id,slide_id,label\np,s02,x\np,s03.tiff,x\n", ["/far/s02.svs", "/far/s03.tiff"]),
        (b"PATIENT,FILENAME\np,sub/s02.h5\np,s0.3.pt\n", ["/far/sub/s02.svs", "/far/s0.3.svs"]),
        (b"patient,path\np,/abs/s02\n", ["/abs/s02.svs"]),
    ],
)
@pytest.mark.parametrize("extension", [".svs", "svs"])
def test_ids_and_files_of_features_become_slides_by_a_folder_and_an_extension(table, places, extension) -> None:
    cohort = read(table, TableOptions(slides_dir="/far", extension=extension))
    assert [row.uri for row in cohort.rows] == places
    assert [row.slide_id for row in cohort.rows] == [place.rpartition("/")[2].rpartition(".")[0] for place in places]


def test_without_them_the_refusal_names_both_and_what_the_column_holds() -> None:
    with pytest.raises(CohortError, match=r"files of features.*slides_dir= and extension="):
        read(b"PATIENT,FILENAME\np,s02.h5\n")
    with pytest.raises(CohortError, match=r"no file names.*slides_dir= and extension="):
        read(b"case_id,slide_id\np,s02\n")


def test_a_prefix_may_be_the_folder() -> None:
    cohort = read(b"slide_id,path\na,a.svs\nb,s3://other/b.svs\n", TableOptions(slides_dir="s3://bucket/slides"))
    assert [row.uri for row in cohort.rows] == ["s3://bucket/slides/a.svs", "s3://other/b.svs"]
