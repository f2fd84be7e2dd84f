import math

import pytest

from mhim_core.errors import SlideError
from mhim_core.slides.info import Level, SlideInfo
from mhim_core.slides.resolution import resolution_warning, resolve_mpp
from mhim_core.slides.spec import SlidePolicy
from mhim_core.types import FailureReason

STRICT, LENIENT = SlidePolicy(), SlidePolicy(default_mpp=0.25)


def info(x: float | None, y: float | None) -> SlideInfo:
    return SlideInfo((Level(1000, 1000, 1.0),), x, y, "test", None)


@pytest.mark.parametrize("nothing", [None, 0.0, -0.5, math.nan, math.inf])
@pytest.mark.fault(21)
def test_what_states_no_resolution_needs_an_override_or_a_default(nothing: float | None) -> None:
    slide = info(nothing, nothing)
    with pytest.raises(SlideError, match="default_mpp") as failure:
        resolve_mpp(slide, None, STRICT)
    assert failure.value.reason is FailureReason.NO_MPP
    assert resolve_mpp(slide, None, LENIENT) == (0.25, 0.25, "default")
    assert resolve_mpp(slide, 0.5, LENIENT) == (0.5, 0.5, "override")


@pytest.mark.parametrize(("x", "y"), [(0.5, None), (None, 0.5), (0.5, 0.0)])
def test_one_axis_alone_states_nothing(x: float | None, y: float | None) -> None:
    with pytest.raises(SlideError) as failure:
        resolve_mpp(info(x, y), None, STRICT)
    assert failure.value.reason is FailureReason.NO_MPP


@pytest.mark.parametrize("mpp", [352.78, 50.0, 0.005, 0.0499, 20.1])
@pytest.mark.fault(21)
def test_a_stated_resolution_out_of_range_is_implausible_whatever_the_default(mpp: float) -> None:
    for policy in (STRICT, LENIENT):
        with pytest.raises(SlideError, match="cohort table") as failure:
            resolve_mpp(info(mpp, mpp), None, policy)
        assert failure.value.reason is FailureReason.IMPLAUSIBLE_MPP
    assert resolve_mpp(info(mpp, mpp), 0.5, STRICT).x == 0.5


@pytest.mark.parametrize("mpp", [0.0625, 0.25, 20.0])
def test_a_plausible_resolution_is_taken_as_stated(mpp: float) -> None:
    assert resolve_mpp(info(mpp, mpp), None, LENIENT) == (mpp, mpp, "slide")


@pytest.mark.fault(21)
def test_axes_up_to_two_percent_apart_keep_their_own_values() -> None:
    assert resolve_mpp(info(0.5, 0.509), None, STRICT) == (0.5, 0.509, "slide")


@pytest.mark.fault(21)
def test_axes_further_apart_are_implausible_unless_overridden() -> None:
    for slide in (info(0.5, 0.511), info(0.511, 0.5)):
        with pytest.raises(SlideError, match="apart") as failure:
            resolve_mpp(slide, None, LENIENT)
        assert failure.value.reason is FailureReason.IMPLAUSIBLE_MPP
        assert resolve_mpp(slide, 0.5, STRICT) == (0.5, 0.5, "override")


@pytest.mark.parametrize("override", [0.0, -1.0, math.nan, 25.0])
def test_an_override_is_judged_as_well(override: float) -> None:
    with pytest.raises(SlideError, match="mpp column") as failure:
        resolve_mpp(info(0.5, 0.5), override, STRICT)
    assert failure.value.reason is FailureReason.IMPLAUSIBLE_MPP


def slide_of(mpp: float | None, power: float | None = None, side_px: int = 20_000) -> SlideInfo:
    return SlideInfo(levels=(Level(side_px, side_px, 1.0),), mpp_x=mpp, mpp_y=mpp, vendor="", objective_power=power)


def test_a_table_that_contradicts_the_file_is_warned_of_with_both_numbers_and_the_size() -> None:
    used = resolve_mpp(slide_of(0.25), 0.5, STRICT)
    warning = resolution_warning(slide_of(0.25), used, tissue_mm2=12.0)
    for number in ("0.25", "0.5", "10 × 10 mm", "12 mm²"):
        assert number in warning
    assert resolution_warning(slide_of(0.5), resolve_mpp(slide_of(0.5), 0.5, STRICT), 12.0) == ""


def test_a_tenfold_contradiction_is_refused_until_confirmed() -> None:
    with pytest.raises(SlideError, match="max_mpp_factor") as refused:
        resolve_mpp(slide_of(0.25), 2.5, STRICT)
    assert refused.value.reason is FailureReason.IMPLAUSIBLE_MPP
    assert resolve_mpp(slide_of(0.25), 2.5, SlidePolicy(max_mpp_factor=0)).x == 2.5
    assert resolve_mpp(slide_of(352.8), 0.5, STRICT).x == 0.5  # 72 dpi is nothing that a table could contradict


def test_a_resolution_that_scanners_hardly_give_is_warned_of() -> None:
    for info in (slide_of(0.07, side_px=600), slide_of(0.07), slide_of(1.5, power=20), slide_of(0.5, side_px=200_000)):
        assert resolution_warning(info, resolve_mpp(info, None, STRICT), 1.0)
    for info in (slide_of(0.5, power=20), slide_of(1.0), slide_of(0.5, side_px=640), slide_of(2.02, power=None)):
        assert resolution_warning(info, resolve_mpp(info, None, STRICT), 1.0) == ""


@pytest.mark.parametrize(
    ("mpp", "power", "number"), [(5.0, 20.0, "10"), (0.06, 40.0, "4.17"), (0.0526, None, "4.75"), (2.1, 20.0, "4.2")]
)
def test_a_file_that_contradicts_itself_is_refused_until_confirmed(
    mpp: float, power: float | None, number: str
) -> None:
    slide = slide_of(mpp, power)
    with pytest.raises(SlideError, match="max_mpp_factor=0") as refused:
        resolve_mpp(slide, None, STRICT)
    assert refused.value.reason is FailureReason.IMPLAUSIBLE_MPP
    assert f"{number} times" in refused.value.message
    assert f"{mpp:.4g} µm/px" in refused.value.message
    assert resolve_mpp(slide, None, SlidePolicy(max_mpp_factor=0)) == (mpp, mpp, "slide")
    assert resolve_mpp(slide, None, SlidePolicy(default_mpp=mpp * 1.05)) == (mpp, mpp, "slide")
    with pytest.raises(SlideError):
        resolve_mpp(slide, None, SlidePolicy(default_mpp=0.5))  # a default for others does not confirm this one
    assert resolve_mpp(slide, mpp, STRICT) == (mpp, mpp, "override")
    assert resolve_mpp(slide, 0.5, STRICT) == (0.5, 0.5, "override"), "its word is not held against the table's"


@pytest.mark.parametrize(
    ("mpp", "power"), [(0.25, 20.0), (0.5, 40.0), (0.1, 63.0), (0.06, 100.0), (0.1, None), (2.0224, None), (1.0, 10.0)]
)
def test_a_file_as_scanners_write_them_is_taken_at_its_word(mpp: float, power: float | None) -> None:
    for factor in (1.0, 4.0):  # an objective's power is no exact number, however strictly the table is held
        assert resolve_mpp(slide_of(mpp, power), None, SlidePolicy(max_mpp_factor=factor)) == (mpp, mpp, "slide")


@pytest.mark.parametrize("power", [math.inf, math.nan, 0.0, -20.0])
def test_a_power_that_no_objective_has_is_none(power: float) -> None:
    for override in (None, 0.5):
        used = resolve_mpp(slide_of(0.5, power), override, STRICT)
        assert used.x == 0.5
        assert resolution_warning(slide_of(0.5, power), used, 12.0) == ""
