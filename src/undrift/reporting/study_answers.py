"""The verdict of a study: one sentence for each question, from all of its comparisons.

A question that one comparison answers has the headline of its finding. Of several (numbers of
network calls, budgets, networks that judge) it is counted in how many a method is lower or higher
than plain, by the rule of the findings: the interval excludes 0, and there are three seeds or more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from undrift.reporting.content import Finding
from undrift.reporting.numbers import scaled
from undrift.reporting.study_chains import best_samplers, chains, findings, networks
from undrift.reporting.study_content import (
    NAMES,
    PREDICTION,
    REMEDIES,
    TOPICS,
    Row,
    Study,
    changes,
    correlation,
    direction,
    groups,
    remedy_changes,
)

MOST_NAMED = 6
"""Methods without a clear change that are named."""


def answers(study: Study) -> list[tuple[str, str]]:
    """The questions that a study answers, each with one sentence."""
    found = list(findings(study))
    every = {topic: [f for f in found if f.topic == topic] for topic in (f.topic for f in found)}
    return [(topic, _answer(study, topic, own)) for topic, own in every.items()]


def _answer(study: Study, topic: str, found: Sequence[Finding]) -> str:
    metrics = {words: metric for metric, words in TOPICS.items()}
    if len(found) == 1:
        return found[0].headline
    if topic in metrics:
        return _counted(list(_comparisons(study, metrics[topic])), "method", metrics[topic])
    if topic == REMEDIES:
        views = (part for view in networks(study) for part in chains(view))
        rows = [own for part in views for own in remedy_changes(part).values()]
        return _counted(rows, "remedy", "frechet")
    if topic == PREDICTION:
        return _correlated(study)
    return " ".join(finding.headline for finding in found)


def _comparisons(study: Study, metric: str) -> Iterator[Sequence[Row]]:
    """The changes of all methods in each comparison; those in pixels once for all networks."""
    views = networks(study)
    for view in views[:1] if metric == "mmd_sq" else views:
        for part in best_samplers(view) or chains(view):
            for group in groups(part):
                if rows := changes(part, *group, metric):
                    yield rows


def _counted(comparisons: Sequence[Sequence[Row]], key: str, metric: str) -> str:
    """In how many comparisons each method is lower or higher."""
    against = "no remedy" if key == "remedy" else "plain"
    head = f"{NAMES[metric]} in {len(comparisons)} comparisons with {against}:"
    parts: list[str] = []
    clear: set[str] = set()
    for side, word in ((-1, "lower"), (1, "higher")):
        found = Counter(str(r[key]) for rows in comparisons for r in rows if direction(r) == side)
        clear |= found.keys()
        names = ", ".join(f"“{name}” in {count}" for name, count in found.most_common())
        parts += [f"{word} with {names}"] if found else []
    every = dict.fromkeys(str(row[key]) for rows in comparisons for row in rows)
    others = [f"“{name}”" for name in every if name not in clear]
    named = ", ".join(others) if len(others) <= MOST_NAMED else f"{len(others)} of {len(every)}"
    parts += [f"never distinguishable with {named}"] if others else []
    return f"{head} {'; '.join(parts)}."


def _correlated(study: Study) -> str:
    """The range of the rank correlations of all chains, and in how many it is clear."""
    parts = (part for view in networks(study) for part in chains(view))
    found = [own for part in parts if (own := correlation(part).get("overall"))]
    values = [own["rho"] for own in found]
    clear = sum(bool(own["interval"]) and own["interval"][0] > 0 for own in found)
    ends = " to ".join(scaled(end, 0) for end in (min(values), max(values)))
    return (
        f"The rank correlation of D₀² with the Fréchet distance is {ends} on {len(found)} chains; "
        f"its interval lies above 0 on {clear}."
    )
