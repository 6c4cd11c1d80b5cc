r"""Two profiles compared band by band: whose energies are nearer to those of the data.

For each frequency band of both, with errors :math:`e_a, e_b` at the end of the chain, the change is
:math:`|e_b| - |e_a|`. Both errors have the same :math:`\log E_q S` where the data are the same, so
the parts d of their error bars that are due to the data are fully correlated,

.. math:: \mathrm{se}^2 = \mathrm{se}_a^2 + \mathrm{se}_b^2
          - 2 \operatorname{sign}(e_a e_b)\, d_a d_b .

Near 0 an absolute value is too large on average, which makes both a decrease to 0 and an increase
from 0 look smaller than they are. A band is nearer or farther where the interval excludes 0 at 95 %
for all bands together (Bonferroni).
"""

from __future__ import annotations

import math
from typing import NamedTuple

from undrift.reporting.bands import Band, bands, energy_error
from undrift.reporting.content import Profile, number
from undrift.reporting.evidence import Estimate
from undrift.reporting.numbers import simultaneous_z


class BandChange(NamedTuple):
    """A band of two profiles.

    Arguments:
        first: The band in the first one.
        other: The band in the other.
        change: How much larger the absolute error is in the other, with its interval.
    """

    first: Band
    other: Band
    change: Estimate

    @property
    def side(self) -> int:
        """-1 where the other is nearer to the data, 1 where it is farther, else 0."""
        return -1 if self.change.high < 0 else 1 if self.change.low > 0 else 0


def band_changes(first: Profile, other: Profile) -> list[BandChange]:
    """The bands that both profiles have at the end of the chain, from low to high frequencies."""
    ours = {band.name: band for band in bands(other)}
    pairs = [(band, ours[band.name]) for band in bands(first) if band.name in ours]
    pairs = [(a, b) for a, b in pairs if a.final and b.final and a.times[-1] == b.times[-1]]
    z, is_shared = simultaneous_z(len(pairs)), _fingerprint(first) == _fingerprint(other)
    return [BandChange(a, b, _change(a, b, z, is_shared)) for a, b in pairs]


def band_words(first: Profile, other: Profile) -> str:
    """In how many bands the other is nearer to the data, as a part of a sentence; "" without any.

    Only where a band is nearer or farther.
    """
    sides = [found.side for found in band_changes(first, other)]
    if not any(sides):
        return ""
    nearer, farther = sides.count(-1), sides.count(1) or "none"
    verb = "are" if nearer > 1 else "is"
    head = f"{nearer or 'none'} of {len(sides)} frequency bands {verb} nearer to the data"
    return f"{head}, {farther} farther"


def band_sentence(first: Profile, other: Profile) -> str:
    """The comparison of all bands as a sentence, with the clearest change; "" without bands."""
    found = band_changes(first, other)
    if not found:
        return ""
    clear = [one for one in found if one.side]
    if not clear:
        return f" In none of {len(found)} frequency bands does the energy differ in its error."
    top = max(clear, key=lambda one: abs(one.change.value) / (one.change.se or 1e-300))
    ends = [energy_error(band.final) for band in (top.other, top.first) if band.final]
    counts = f" Energies: {band_words(first, other)}; most clearly {top.first.name},"
    return f"{counts} {ends[0]} against {ends[1]}."


def _change(a: Band, b: Band, z: float, is_shared: bool) -> Estimate:
    before, after = a.final, b.final
    assert before and after
    value = abs(after.value) - abs(before.value)
    shared = math.prod(number(band.errors[-1], "error_data_se") or 0.0 for band in (a, b))
    sign = math.copysign(1.0, before.value * after.value)
    variance = before.se**2 + after.se**2 - 2 * sign * shared * is_shared
    half = z * math.sqrt(max(variance, 0.0))
    return Estimate(value, half / z, None, (value - half, value + half))


def _fingerprint(profile: Profile) -> object:
    """What says that the data are the same; nothing is equal to a missing one."""
    found = ((profile.get("how") or {}).get("data") or {}).get("fingerprint")
    return object() if found is None else found
