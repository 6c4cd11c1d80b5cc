"""Laws of every remedy in the registry."""

import math
from contextlib import suppress
from dataclasses import asdict
from itertools import chain
from pathlib import Path

import diffusers
import pytest
import torch

from undrift.api.options import options
from undrift.api.study_file import plan_of
from undrift.cli import sample
from undrift.diffusion.denoiser import Denoiser
from undrift.diffusion.gaussian import AncestralSampler
from undrift.diffusion.schedule import LinearSchedule
from undrift.diffusion.scheduler import DiffusersSampler
from undrift.exceptions import FINITE, InvalidInput
from undrift.measurement.measure import measure
from undrift.remedies.registry import REMEDIES, apply_remedy, options_text, parse
from undrift.remedies.remedy import choices_of

GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "remedies.md"
SHAPE = (4, 1, 4, 4)


def network(x_t, timestep):
    return torch.tanh(0.8 * x_t + 0.001 * timestep.to(x_t).view(-1, 1, 1, 1))


SAMPLERS = {
    "ancestral": lambda: AncestralSampler(Denoiser(network, LinearSchedule(50)), 8),
    "diffusers": lambda: DiffusersSampler(network, diffusers.DDIMScheduler(50), 8),
}


HINTS = {"ancestral": "ancestral", "diffusers": "ddim"}
"""What a refusal names instead."""


def draw(sampler):
    return sampler.sample(SHAPE, generator=torch.Generator().manual_seed(0))


def data(count=60):
    noise = torch.randn(count, *SHAPE[1:], generator=torch.Generator().manual_seed(1))
    return (0.4 * noise).clamp(-1, 1)


def number(kind, option):
    """A number that an option can have."""
    return 0.5 if kind.limits.get(option, FINITE).includes(0.5) else 1.0


def variants(kind):
    """The remedy at each strength of its grid, and with each other option set."""
    yield from (kind(), *map(kind, kind.strengths.grid))
    others = [(name, hint) for name, hint in kind.options().items() if name != "strength"]
    number = {
        name: 0.5 if kind.limits.get(name, FINITE).includes(0.5) else 1.0 for name, _ in others
    }
    values = ([(name, v) for v in choices_of(hint) or (number[name],)] for name, hint in others)
    yield from (kind(**{name: value}) for name, value in chain(*values))


@pytest.mark.parametrize("remedy", chain(*map(variants, REMEDIES.values())), ids=lambda r: r.text)
def test_a_remedy_is_the_same_in_text_and_in_a_study_file(remedy):
    assert parse(remedy.text) == remedy
    plan = plan_of({"remedies": {"x": asdict(remedy)}}, "study.yaml")
    assert plan.remedies == {"x": remedy}


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", REMEDIES)
def test_a_remedied_sampler_is_measured_or_refused_in_one_line(name, sampler):
    base = SAMPLERS[sampler]()
    try:
        remedied = apply_remedy(base, name, data())
    except InvalidInput as error:
        (other,) = SAMPLERS.keys() - {sampler}
        assert "\n" not in str(error) and HINTS[other] in str(error)
        apply_remedy(SAMPLERS[other](), name, data())
        return
    profile = measure(remedied, data(), num_samples=60, states=3, progress=False)
    plain = measure(base, data(), num_samples=60, states=3, progress=False)
    (how,) = profile.how["sampler"]["remedies"]
    assert how["remedy"] == name and how["strength"] == REMEDIES[name].strengths.default
    assert math.isfinite(profile.final.mmd_sq) and profile.final.mmd_sq != plain.final.mmd_sq


def fitting(name):
    """A sampler that a remedy can be applied to."""
    for make in SAMPLERS.values():
        with suppress(InvalidInput):
            apply_remedy(make(), name, data(), num_data=2)
            return make()
    raise AssertionError(f"{name} fits no sampler")


@pytest.mark.parametrize("name", REMEDIES)
def test_the_strength_has_an_effect_except_where_it_is_neutral(name):
    kind, base = REMEDIES[name], fitting(name)
    low, high = kind.strengths.grid[0], kind.strengths.grid[-1]
    weak, strong = (apply_remedy(base, kind(value), data()) for value in (low, high))
    assert not torch.equal(draw(weak), draw(strong))
    assert torch.equal(draw(weak.with_strength(high)), draw(strong))
    neutral = kind().neutral
    if neutral is not None:
        assert neutral in kind.strengths.grid
        assert torch.equal(draw(weak.with_strength(neutral)), draw(base))


@pytest.mark.parametrize("name", REMEDIES)
def test_the_guide_and_the_help_show_the_description(name):
    kind = REMEDIES[name]
    strengths, summary = kind.strengths, kind.__doc__.splitlines()[0]
    neutral = "–" if strengths.neutral is None else f"{strengths.neutral:g}"
    cells = [f"`{name}`", summary, strengths.meaning, f"{strengths.default:g}", neutral]
    assert f"| {' | '.join([*cells, options_text(kind)])} |" in GUIDE.read_text("utf-8")
    shown = next(option.help for option in options(sample.Config) if option.key == "remedy")
    assert all(words in shown for words in (name, strengths.meaning, options_text(kind)))
