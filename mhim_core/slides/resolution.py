"""Which resolution a slide has: stated by the cohort table, by the file, or by the policy; never guessed."""

import math

from mhim_core.errors import SlideError
from mhim_core.features import MppUsed
from mhim_core.slides.info import SlideInfo
from mhim_core.slides.spec import MAX_MPP, MAX_MPP_ANISOTROPY, MIN_MPP, SlidePolicy
from mhim_core.types import FailureReason


def resolve_mpp(info: SlideInfo, override: float | None, policy: SlidePolicy) -> MppUsed:
    """The level-0 µm/px to use, and who stated it.

    The cohort table's value wins, then the file's own, then `default_mpp` (only where the file states none: a file that
    states nonsense is not silently overruled). Missing, zero, negative, NaN or infinite counts as stating none, and so
    does one axis without the other. Below 2 % difference each axis keeps its own value.

    Raises SlideError: NO_MPP, or IMPLAUSIBLE_MPP outside 0.05–20 µm/px or where x and y differ by more than 2 %.
    """
    if override is not None:
        _check_range(override, override, "the cohort table gives", "correct the mpp column")
        return MppUsed(override, override, "override")
    if _is_stated(info.mpp_x) and _is_stated(info.mpp_y):
        x, y = float(info.mpp_x or 0), float(info.mpp_y or 0)
        _check_range(x, y, "the file states", "give the slide's mpp in the cohort table")
        if max(x, y) / min(x, y) - 1 > MAX_MPP_ANISOTROPY:
            raise SlideError(
                FailureReason.IMPLAUSIBLE_MPP,
                f"the file states {x:g} µm/px along x and {y:g} along y, more than {MAX_MPP_ANISOTROPY:.0%} apart; "
                "give the slide's mpp in the cohort table",
            )
        return MppUsed(x, y, "slide")
    if policy.default_mpp is not None:
        return MppUsed(policy.default_mpp, policy.default_mpp, "default")
    raise SlideError(
        FailureReason.NO_MPP,
        f"the file states no resolution (x: {info.mpp_x}, y: {info.mpp_y}); "
        "give the slide's mpp in the cohort table, or set default_mpp",
    )


def _is_stated(mpp: float | None) -> bool:
    return mpp is not None and math.isfinite(mpp) and mpp > 0


def _check_range(x: float, y: float, who: str, remedy: str) -> None:
    for mpp in (x, y):
        if not MIN_MPP <= mpp <= MAX_MPP:  # NaN fails this too
            raise SlideError(
                FailureReason.IMPLAUSIBLE_MPP,
                f"{who} {mpp:g} µm/px, outside {MIN_MPP}-{MAX_MPP:g} µm/px; {remedy}",
            )
