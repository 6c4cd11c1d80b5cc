r"""What to do next, with the command, where the numbers of a profile support it.

Rules, the first that applies comes first:

- *Variance*: the variance is the largest part of the modular errors beyond error bars
  (:mod:`undrift.reporting.nats`): the reverse variance, without training.
- *Noise norm*: the mean norm of the noise estimate on the sampler's states differs from that on
  forward draws, summed over the chain, beyond the sum of its error bars: epsilon scaling with
  that ratio (Ning et al., 2024), against none on held-out data, because a few-step solver
  without clipping multiplies the change by 1/alpha.
- *Bands*: the energy of a band at the end of the chain is off, all bands considered: the remedy
  that measures the energy of each band.
- *Noise level*: states have the energies of forward draws of another time, all states considered:
  the remedy that tells the network the time which fits.
- *Last steps*: before the last quarter of the measured segments the error was less than half of the
  final one, beyond error bars: another solver and time grid at so many network
  calls, or, where all training steps are taken, the regularizer on the end of the chain.
- *Early*: at the middle of the measured segments it was already more than half of it: longer
  training, with the regularizer from there on.
- *Nothing distinguishable*: as many samples as would show an error of the observed size.
- *Not resolved*: there is an error, and no rule above applies: four times the samples, which halve
  the error bars.

Errors whose sizes are compared are those of the band that is off the most, else :math:`D_t`.
"""

from __future__ import annotations

import math
import re
import shlex

from undrift.reporting import evidence
from undrift.reporting.bands import bands, clearest
from undrift.reporting.commands import CHAIN_OPTIONS, DATA_OPTIONS, repeated
from undrift.reporting.content import Profile, Step, number, states
from undrift.reporting.effective_time import shifted
from undrift.reporting.evidence import Estimate
from undrift.reporting.nats import variance_factor
from undrift.reporting.numbers import percent
from undrift.reporting.power import POWER, samples_needed


def next_steps(profile: Profile) -> list[Step]:
    """What the numbers of one profile tell the user to do, the most direct first."""
    rules = (_variance, _noise_norm, _bands, _noise_level, _where, _more_samples)
    found = [step for rule in rules if (step := rule(profile))]
    return found or [*filter(None, [_half_the_error_bars(profile)])]


def is_off(profile: Profile) -> bool:
    """Whether an error is there at the end: in the MMD, or in a band, all bands considered."""
    end = evidence.cumulative(evidence.final_state(profile))
    return bool(end and end.is_detected) or clearest(bands(profile)) is not None


def _variance(profile: Profile) -> Step | None:
    factor = variance_factor(profile)
    if factor is None:
        return None
    reason = (
        "Most of the modular error is in the variance of the denoising steps "
        f"(best factor {factor:.3g}): change the reverse variance; this needs no training."
    )
    return Step(reason, _command(profile, "tune", "--remedy", "analytic_variance"))


def _noise_norm(profile: Profile) -> Step | None:
    keys = ("sampled", "forward", "gap", "gap_se")
    rows = [[number(s, f"exposure.eps_norm_{key}") for key in keys] for s in states(profile)]
    known = [[value for value in row if value is not None] for row in rows if None not in row]
    if not known:
        return None
    sampled, forward, gap, _ = (sum(column) for column in zip(*known, strict=True))
    difference = Estimate(gap, sum(row[3] for row in known))  # the same chains: at most the sum
    if difference.low <= 0 <= difference.high:
        return None
    strength = f"{sampled / forward:.4g}"
    side = "longer" if gap > 0 else "shorter"
    reason = (
        f"The noise estimate is {percent(abs(gap / forward))} {side} on the sampler’s states than "
        f"on forward draws: tune tests whether dividing it by the ratio, {strength}, helps."
    )
    values = ("--remedy", "epsilon_scaling", "--values", f"{strength},1")
    return Step(reason, _command(profile, "tune", *values))


def _bands(profile: Profile) -> Step | None:
    band = clearest(bands(profile))
    if band is None:
        return None
    reason = (
        "A frequency band is off at the end: the remedy band_energy measures the energies on the "
        "way and corrects them; tune tests whether that helps."
    )
    return Step(reason, _command(profile, "tune", "--remedy", "band_energy"))


def _noise_level(profile: Profile) -> Step | None:
    found = shifted(profile)
    if not found:
        return None
    reason = (
        "The states have another noise level than the network is told: the remedy time_shift tells "
        "it the time that fits; tune tests whether that helps."
    )
    return Step(reason, _command(profile, "tune", "--remedy", "time_shift,variance=data"))


def _where(profile: Profile) -> Step | None:
    """Late, early, or neither, by the size of the error on the way."""
    chain, sizes = states(profile), _sizes(profile)
    if sizes is None or len(chain) < 5 or not is_off(profile):
        return None
    last = len(chain) - 1
    late, middle = last - max(1, last // 4), last // 2
    end = sizes[last]
    if end is None or end.low <= 0:
        return None
    t_late, t_middle = (f"{chain[i]['t']:g}" for i in (late, middle))
    if (before := sizes[late]) and before.high < 0.5 * end.low:
        return _spend_late(profile, t_late)
    if (before := sizes[middle]) and before.low > 0.5 * end.high:
        window = float(chain[middle]["t"]) / float(chain[0]["t"])
        reason = (
            f"More than half of the error is there at t = {t_middle} already: train longer, with "
            "the regularizer from there on."
        )
        return Step(reason, _training(profile, window))
    return None


def _spend_late(profile: Profile, t: str) -> Step:
    how = (profile.get("how") or {}).get("sampler") or {}
    calls, most = (number(how, key) for key in ("num_inference_steps", "num_steps"))
    start = f"More than half of the error is made after t = {t}: "
    if calls and most and calls < most:
        reason = f"{start}search a better solver and time grid for {calls:g} network calls."
        return Step(reason, _command(profile, "advise", "--num-inference-steps", f"{calls:g}"))
    first = float(states(profile)[0]["t"])
    reason = f"{start}train with the regularizer, which acts on the end of the chain."
    return Step(reason, _training(profile, float(t) / first))


def _sizes(profile: Profile) -> list[Estimate | None] | None:
    """The size of the error at each state: of the band that is off the most, else D."""
    if band := clearest(bands(profile)):
        found = [band.at(i) for i in range(len(band.errors))]
        sign = math.copysign(1.0, band.final.value)  # type: ignore[union-attr]
        return [e and Estimate(sign * e.value, e.se) for e in found]
    squares = [evidence.cumulative(state) for state in states(profile)]
    return [e and _root(e) for e in squares]


def _root(square: Estimate) -> Estimate:
    value, low, high = (math.sqrt(max(x, 0.0)) for x in (square.value, square.low, square.high))
    return Estimate(value, math.nan, None, (low, high))


def _more_samples(profile: Profile) -> Step | None:
    if is_off(profile):
        return None
    needed, have = samples_needed(profile), number(profile, "num_samples")
    if needed is None or have is None or needed <= have:
        return None
    reason = (
        f"An error of the observed size would be seen with about {needed:,} samples "
        f"({percent(POWER)} of all measurements); {have:,.0f} are too few."
    )
    return Step(reason, _command(profile, "measure", "--num-samples", str(needed)))


def _half_the_error_bars(profile: Profile) -> Step | None:
    have = number(profile, "num_samples")
    if have is None or len(states(profile)) < 2 or not is_off(profile):
        return None
    reason = (
        "There is an error, but its error bars do not tell where it is made: four times the "
        "samples halve those of the model."
    )
    return Step(reason, _command(profile, "measure", "--num-samples", f"{4 * have:.0f}"))


# ------------------------------------------------------------------ commands


def _command(profile: Profile, name: str, *options: str) -> str:
    """A command of undrift on the model of a profile, on its chain and data unless given anew."""
    how = profile.get("how") or {}
    names = DATA_OPTIONS if name == "advise" else (*CHAIN_OPTIONS, *DATA_OPTIONS)
    kept = repeated(str(how.get("command") or ""), [n for n in names if n not in options])
    return shlex.join(["undrift", name, str(how.get("model") or "MODEL"), *kept, *options])


def _training(profile: Profile, window: float) -> str:
    how = profile.get("how") or {}
    data = (how.get("data") or {}).get("name") or "DATA"
    words = [
        "undrift",
        "train",
        "--data",
        str(data),
        "--start-from",
        str(how.get("model") or "MODEL"),
    ]
    share = re.sub(r"0+$", "", f"{min(window, 1.0):.2f}")
    return shlex.join([*words, "--method", "regularized", "--regularizer.window", share])
