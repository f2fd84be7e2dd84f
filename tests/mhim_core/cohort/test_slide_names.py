"""Ids from file names: safe, unique and reversible, and unchanged where a name is an id already."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mhim_core.cohort.check import SLIDE_ID, find_problems
from mhim_core.cohort.ids import IdIndex, IdKind
from mhim_core.cohort.slide_names import name_of, safe_id, slide_id_of
from mhim_core.cohort.table import read_cohort

NAMES = st.text(st.sampled_from("ab0xX_ef.- (ü\u65e5\U0001f52c"), max_size=20)


@pytest.mark.parametrize(
    ("path", "slide_id"),
    [
        ("s/S12-345 A1.svs", "S12-345_x20_A1"),
        ("20-001_K1 (Movat) #2.tiff", "20-001_K1_x20__x28_Movat_x29__x20__x23_2"),
        ("c:\\slides\\Größe_ü.ndpi", "Gr_xf6__xdf_e__xfc_"),
        ("-a.svs", "x_x00_-a"),
        ("TCGA-05.36ff_x_1.svs", "TCGA-05.36ff_x_1"),
        ("", ""),
    ],
)
def test_what_an_id_cannot_hold_is_written_by_its_code_point(path: str, slide_id: str) -> None:
    assert slide_id_of(path) == slide_id


@settings(derandomize=True, deadline=None)
@given(NAMES)
def test_the_name_can_be_read_back(name: str) -> None:
    slide_id = safe_id(name)
    assert name_of(slide_id) == name
    assert not name or SLIDE_ID.fullmatch(slide_id) or len(slide_id) > 128


def test_one_name_in_two_unicode_forms_has_one_id() -> None:
    assert safe_id("Gro\u0308\u00dfe") == safe_id("Gr\u00f6\u00dfe")


def test_a_table_of_such_files_has_no_findings_and_other_tables_may_call_them_as_they_are() -> None:
    table = "path,patient_id,label\nS12 A1 (HE).svs,p1,a\nS12 A2 (HE).svs,p2,b\n"
    cohort = read_cohort(table.encode(), name="c.csv", base_uri="/data")
    assert find_problems(cohort) == ()
    index = IdIndex(cohort.rows)
    for name in ("S12 A1 (HE)", "S12 A1 (HE).svs", cohort.rows[0].slide_id):
        assert index.slides(name, IdKind.slide) == [cohort.rows[0].slide_id]
