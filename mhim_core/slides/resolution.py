"""Which resolution a slide has: stated by the cohort table, by the file, or by the policy; never guessed."""

import math

from mhim_core.errors import SlideError
from mhim_core.features import MppUsed
from mhim_core.slides.info import SlideInfo
from mhim_core.slides.spec import MAX_MPP, MAX_MPP_ANISOTROPY, MIN_MPP, SlidePolicy
from mhim_core.types import FailureReason

_WARN_FACTOR = 1.1
_MPP_TIMES_POWER = 10.0
"""20× is 0.5 µm/px, 40× is 0.25."""
_POWER_FACTOR = 2.5
"""How far from that scanners are: a 20× objective with a doubler gives 0.25."""
_FINEST_COMMON_MPP = 0.25
"""40×. A file that claims to be much finer than this says so by its objective's power as well."""
_MIN_SCAN_MM = 0.1
"""A region of interest may be half a millimetre; a scan of a tenth is a mistake in the resolution."""
_FINEST_USUAL_MPP = 0.08
"""63× gives 0.1 and 100× oil 0.09."""
_GLASS_MM = (80.0, 55.0)


def resolve_mpp(info: SlideInfo, override: float | None, policy: SlidePolicy) -> MppUsed:
    """The level-0 µm/px to use, and who stated it.

    The cohort table's value wins, then the file's own, then `default_mpp` (only where the file states none: a file that
    states nonsense is not silently overruled). Missing, zero, negative, NaN or infinite counts as stating none, and so
    does one axis without the other. Below 2 % difference each axis keeps its own value.

    A file may contradict itself (`_own_contradiction`): then its word is neither taken, unless `default_mpp` is the
    same, nor held against the table's.

    Raises SlideError: NO_MPP, or IMPLAUSIBLE_MPP outside 0.05–20 µm/px, where x and y differ by more than 2 %, or where
    the table and the file, or the file and its objective, are more than `max_mpp_factor` apart.
    """
    if override is not None:
        _check_range(override, override, "the cohort table gives", "correct the mpp column")
        factor = contradiction(info, MppUsed(override, override, "override"))
        if _own_contradiction(info, policy):
            factor = 1.0
        if policy.max_mpp_factor and factor > policy.max_mpp_factor:
            raise SlideError(
                FailureReason.IMPLAUSIBLE_MPP,
                f"the cohort table gives {override:g} µm/px and the file states {info.mpp_x:g}, {factor:.3g} times "
                "apart; correct the mpp column, or set max_mpp_factor=0 where the table is right",
            )
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
        is_confirmed = policy.default_mpp is not None and _factor(x, policy.default_mpp) <= _WARN_FACTOR
        if (finding := _own_contradiction(info, policy)) and not is_confirmed:
            raise SlideError(
                FailureReason.IMPLAUSIBLE_MPP,
                f"{finding}; the scan would be {_scan_size(info, x)}: give the slide's mpp in the cohort table, or set "
                "max_mpp_factor=0 where the file is right",
            )
        return MppUsed(x, y, "slide")
    if policy.default_mpp is not None:
        return MppUsed(policy.default_mpp, policy.default_mpp, "default")
    raise SlideError(
        FailureReason.NO_MPP,
        f"the file states no resolution (x: {info.mpp_x}, y: {info.mpp_y}); "
        "give the slide's mpp in the cohort table, or set default_mpp",
    )


def contradiction(info: SlideInfo, used: MppUsed) -> float:
    """How many times what is used lies above or below what the file states; 1.0 where it states nothing plausible."""
    stated = [mpp for mpp in (info.mpp_x, info.mpp_y) if mpp is not None and MIN_MPP <= mpp <= MAX_MPP]
    return max((_factor(mpp, used.x) for mpp in stated), default=1.0)


def resolution_warning(info: SlideInfo, used: MppUsed, tissue_mm2: float) -> str:
    """Why the resolution that is used may be wrong, with the numbers; empty: nothing suggests it."""
    size = (info.width_l0_px * used.x / 1000, info.height_l0_px * used.y / 1000)
    area = f"the scan is {_scan_size(info, used.x)} with {tissue_mm2:.3g} mm² of tissue at {used.x:.4g} µm/px"
    factor = contradiction(info, used)
    if factor > _WARN_FACTOR:
        return (
            f"the file states {info.mpp_x:.4g} µm/px, the cohort table {used.x:.4g}: {factor:.3g} times apart; {area}"
        )
    if objective := _objective(info):
        usual = _MPP_TIMES_POWER / objective
        if _factor(used.x, usual) > _POWER_FACTOR:
            power = f"a {objective:g}× objective usually gives {usual:.3g} µm/px"
            return f"{power}, and {used.x:.4g} is used; {area}"
    if max(size) < _MIN_SCAN_MM:
        return f"{area}: is it ten times that size? If so, give the slide's mpp in the cohort table"
    if used.x < _FINEST_USUAL_MPP:
        return f"{used.x:.4g} µm/px is finer than scanners give; {area}"
    if size[0] > _GLASS_MM[0] or size[1] > _GLASS_MM[0] or min(size) > _GLASS_MM[1]:
        return f"{area}: larger than a glass; give the slide's mpp in the cohort table"
    return ""


def _own_contradiction(info: SlideInfo, policy: SlidePolicy) -> str:
    """How the file contradicts its own µm/px by more than `max_mpp_factor`, 2.5 at least; empty: it does not.

    Its objective's power; where it states none, that hardly any scanner is so fine without saying so. A file that is so
    coarse that its scan is larger than a glass is refused when its tissue is looked for.
    """
    if not policy.max_mpp_factor or not _is_stated(info.mpp_x):
        return ""
    mpp, limit = float(info.mpp_x or 0), max(policy.max_mpp_factor, _POWER_FACTOR)
    if objective := _objective(info):
        usual = _MPP_TIMES_POWER / objective
        if _factor(mpp, usual) > limit:
            return (
                f"the file states {mpp:.4g} µm/px and a {objective:g}× objective, which usually gives "
                f"{usual:.3g}, {_factor(mpp, usual):.3g} times apart"
            )
    elif _FINEST_COMMON_MPP / mpp > limit:
        finer = f"{_FINEST_COMMON_MPP / mpp:.3g} times finer than 40×"
        return f"the file states {mpp:.4g} µm/px and no objective power: {finer}"
    return ""


def _objective(info: SlideInfo) -> float | None:
    """The objective's power, or None where the file states none that can be."""
    power = info.objective_power
    return power if power is not None and math.isfinite(power) and power > 0 else None


def _factor(mpp: float, other_mpp: float) -> float:
    """How many times they are apart, at least 1."""
    return max(mpp / other_mpp, other_mpp / mpp)


def _scan_size(info: SlideInfo, mpp: float) -> str:
    return f"{info.width_l0_px * mpp / 1000:.3g} × {info.height_l0_px * mpp / 1000:.3g} mm"


def _is_stated(mpp: float | None) -> bool:
    return mpp is not None and math.isfinite(mpp) and mpp > 0


def _check_range(x: float, y: float, statement: str, remedy: str) -> None:
    """`statement` begins the message (who states the value), `remedy` ends it (what to do)."""
    for mpp in (x, y):
        if not MIN_MPP <= mpp <= MAX_MPP:  # NaN fails this too
            raise SlideError(
                FailureReason.IMPLAUSIBLE_MPP,
                f"{statement} {mpp:g} µm/px, outside {MIN_MPP}-{MAX_MPP:g} µm/px; {remedy}",
            )
