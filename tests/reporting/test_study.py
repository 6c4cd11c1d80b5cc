"""The page of a study: what it says, that it needs nothing else, and what it refuses."""

import itertools
import json
import re
from pathlib import Path
from statistics import fmean
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image

from study_record import TWO, study
from undrift.cli import main
from undrift.data.grids import image_grid
from undrift.exceptions import InvalidInput
from undrift.reporting import study as study_pages
from undrift.reporting.page import write_page
from undrift.reporting.study import chip, render_study, study_markdown, write_study_report
from undrift.reporting.study_answers import answers
from undrift.reporting.study_chains import chains, findings, networks
from undrift.reporting.study_content import change_text, results_table, verdicts
from undrift.reporting.study_figures import change_plot, quality_plots

DATA = Path(__file__).parents[2] / "docs" / "data"
SECTIONS = ("verdict", "branched", "scratch", "costs", "prediction", "remedies", "samples", "run")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("study")
    found = study()
    for row in found["rows"]:
        if row["seed"] == 0:
            file = place / row["grid"]
            file.parent.mkdir(exist_ok=True)
            image_grid(torch.linspace(-1, 1, 256).view(4, 1, 8, 8)).save(file)
    (place / "study.json").write_text(json.dumps(found))
    return place


@pytest.fixture(scope="module")
def page(folder):
    return write_study_report(study(), folder).read_text()


def test_the_page_has_every_part_of_the_study(page):
    assert all(f'<section id="{name}"' in page for name in SECTIONS)
    assert len(re.findall(r"<img ", page)) == 2 * 5  # each method, by each protocol
    assert "<span>studies/digits-all.yaml</span>" in page


def test_the_page_asks_for_nothing(page):
    assert "default-src 'none'" in page
    assert not re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', page)
    data = page.split('id="undrift-data">')[1].split("</script>")[0]
    assert json.loads(data)["rows"] == study()["rows"]


def test_the_verdict_says_who_lowers_what_by_how_much():
    found = study()
    [change] = [
        row
        for row in found["paired"]
        if (row["protocol"], row["method"], row["budget"], row["metric"])
        == ("branched", "persistent", "steps", "mmd_sq")
    ]
    first = verdicts(found)[0]
    percent = f"{-100 * change['mean']:.0f} %"
    assert first.headline.startswith(
        f"Branched, at equal steps, persistent lowers D₀² by {percent}"
    )
    assert f"Lower too: truncated {change_text(by_method(found, 'truncated'))}." in first.detail
    assert "Not distinguishable from plain" in first.detail


def by_method(found, method):
    return next(r for r in found["paired"] if (r["method"], r["metric"]) == (method, "mmd_sq"))


def test_no_method_is_called_better_where_none_is():
    found = study(methods=("plain", "input_perturbation"), full=False)
    for row in found["paired"]:
        row["mean"], row["interval"] = 0.1, [-0.1, 0.3]
    first = verdicts(found)[0]
    assert "no method is shown to have a lower D₀² than plain" in first.headline


def test_no_change_is_said_with_fewer_than_three_seeds():
    found = study(methods=("plain", "input_perturbation"), full=False)
    for row in found["paired"]:
        row["mean"], row["interval"], row["num_seeds"] = -0.5, [-0.6, -0.4], 2
    first = verdicts(found)[0]
    assert first.headline.endswith("have a lower D₀² than plain: that takes 3 seeds.")
    assert "Not distinguishable from plain: input_perturbation −50 %" in first.detail
    for row in found["paired"]:
        row["num_seeds"] = 3
    assert "input_perturbation lowers D₀² by 50 % (40 to 60 %)." in verdicts(found)[0].headline


def test_a_percentage_is_given_only_within_100_percent():
    found = study(methods=("plain", "input_perturbation"), full=False)
    for row in found["paired"]:
        row["mean"], row["interval"] = -0.6, [-1.2, -0.02]
    headline = verdicts(found)[0].headline
    assert "lowers D₀² to 0.40 times (−0.20 to 0.98) of plain." in headline
    assert "%" not in headline
    for row in found["paired"]:
        row["mean"], row["interval"] = 0.9, [0.7, 1.1]
    assert "input_perturbation 1.90 times (1.70 to 2.10)" in verdicts(found)[0].detail


def test_a_remedy_is_said_to_lower_only_beyond_its_error_bars_and_with_three_seeds():
    found = study()
    own = [row for row in found["paired_remedies"] if row["metric"] == "frechet"]
    for row in own:
        row["mean"], row["interval"], row["num_seeds"] = -0.3, [-0.7, 0.1], 3
    [finding] = [f for f in verdicts(found) if f.topic == "Remedies at sampling time"][:1]
    assert "no remedy is shown to have a lower Fréchet distance than none." in finding.headline
    assert "Not distinguishable from no remedy:" in finding.detail
    own[0]["interval"] = [-0.4, -0.2]
    headline = next(f.headline for f in verdicts(found) if f.topic == "Remedies at sampling time")
    assert f"{own[0]['remedy']} lowers the Fréchet distance by 30 % (20 to 40 %)." in headline
    own[0]["num_seeds"] = 2
    assert "no remedy is shown" in verdicts(found)[-1].headline


def test_each_question_has_one_sentence_that_counts_its_comparisons():
    found = study()
    told = dict(answers(found))
    topics = dict.fromkeys(finding.topic for finding in findings(found))
    assert [*told] == [*topics]
    assert all(len(re.findall(r"[.:]( |$)", text.rstrip("."))) <= 1 for text in told.values())
    rows = [row for row in found["paired"] if row["metric"] == "mmd_sq"]
    comparisons = {(row["protocol"], row["budget"]) for row in rows}
    lower = sum(r["method"] == "persistent" and r["interval"][1] < 0 for r in rows)
    text = told["Cumulative error of the samples"]
    assert text.startswith(f"D₀² in {len(comparisons)} comparisons with plain: lower with ")
    assert f"“persistent” in {lower}" in text.split("; ")[0]
    one = study(protocols=("branched",), full=False)
    one["paired"] = [row for row in one["paired"] if row["budget"] == "steps"]
    first = verdicts(one)[0]
    assert answers(one)[0] == (first.topic, first.headline)


def test_the_table_holds_mean_spread_and_change():
    found = study()
    table = results_table(found, "branched", "steps")
    values = [
        1e4 * row["mmd_sq"]
        for row in found["rows"]
        if (row["protocol"], row["method"], row["budget"]) == ("branched", "plain", "steps")
    ]
    cells = {row[0]: row for row in table.rows}
    # the smallest of the means, 6e-4 of persistent, is shown with a digit before the point
    assert cells["plain"][table.columns.index("D₀² ×10⁻⁴")] == f"{sum(values) / 3:.2f} ± " + (
        f"{torch.tensor(values).std():.2f}"
    )
    assert cells["persistent"][4] == change_text(by_method(found, "persistent"))


CHAINS = tuple((sampler, steps) for sampler in ("ancestral", "unipc") for steps in (5, 20))


def test_a_study_on_several_chains_has_a_table_for_each_and_quality_against_calls(tmp_path):
    found = study(seeds=(0, 1), protocols=("branched",), chains=CHAINS)
    page = render_study(found, tmp_path)
    _, markdown = study_markdown(found, tmp_path, "files")
    for sampler, steps in CHAINS:
        place = f"branched, equal steps, {sampler}, {steps} steps"
        assert f"<span>{place}</span>" in page and f"**{place.capitalize()}**" in markdown
    assert "the best sampler of each, 5 network calls), no method is shown to have a" in markdown
    [view] = networks(found)
    [part] = [c for c in chains(view) if c["part"] == "unipc, 20 steps"]
    assert {(row["sampler"], row["num_inference_steps"]) for row in part["rows"]} == {("unipc", 20)}
    table = results_table(part, "branched", "steps")
    plain = [r for r in part["rows"] if (r["method"], r["budget"]) == ("plain", "steps")]
    cell = table.rows[0][table.columns.index("Fréchet distance")]
    assert cell.startswith(f"{fmean(row['frechet'] for row in plain):.2f} ±")


def test_quality_is_drawn_against_network_calls_a_curve_for_each_method(tmp_path):
    found = study(seeds=(0, 1), protocols=("branched",), chains=CHAINS)
    [view] = networks(found)
    plots = quality_plots(view, "branched", "steps")
    assert list(plots) == ["best sampler", "ancestral", "unipc"]
    words = plots["best sampler"].wide.split('aria-label="')[1].split('"')[0]
    for method, calls in itertools.product(found["config"]["methods"], (5, 20)):
        best = [
            row["frechet"]
            for row in view["rows"]
            if (row["method"], row["network_calls"], row["budget"]) == (method, calls, "steps")
            and row["sampler"] == "unipc"  # the better one of the record
        ]
        assert f"{method}: Fréchet {fmean(best):.2f} with {calls} calls" in words
    [one] = networks(study(seeds=(0, 1), protocols=("branched",)))
    assert quality_plots(one, "branched", "steps") == {}


def test_each_network_that_judges_has_its_verdict_tables_and_plots(tmp_path):
    found = study(seeds=(0, 1), protocols=("branched",), networks=TWO)
    page = render_study(found, tmp_path)
    pictures, markdown = study_markdown(found, tmp_path, "files")
    for view, (name, scale) in zip(networks(found), TWO, strict=True):
        assert f"<span>branched, equal steps, {name}</span>" in page
        assert f"**Branched, equal steps, {name}**" in markdown
        assert f"at equal steps ({name}), no method is shown to have a lower Fr" in markdown
        assert f"changes-branched-{name}.svg" in pictures
        assert f"| pixels | Fréchet distance ({name}) | 0.9" in markdown
        table = results_table(view, "branched", "steps")
        cell = table.rows[0][table.columns.index("Fréchet distance")]
        own = [r["quality"][name]["frechet"] for r in found["rows"]
               if (r["method"], r["budget"]) == ("plain", "steps")]  # fmt: skip
        assert cell.startswith(f"{fmean(own):.2f} ±"), scale


def test_a_study_of_one_seed_and_method_has_a_page(tmp_path):
    found = study(methods=("plain", "persistent"), seeds=(0,), protocols=("branched",), full=False)
    assert "(one seed)" in render_study(found, tmp_path)
    alone = study(methods=("plain",), seeds=(0,), protocols=("branched",), full=False)
    assert "Nothing to compare yet" in render_study(alone, tmp_path)
    assert change_plot(alone, "branched") is None
    with pytest.raises(InvalidInput, match="no results yet"):
        render_study(alone | {"rows": []}, tmp_path)


def test_the_page_is_made_again_without_computing(folder, page, tmp_path, capsys):
    output = tmp_path / "page.html"
    assert main(["report", str(folder / "study.json"), "--output", str(output)]) == 0
    assert output.read_text() == page
    assert main(["report", str(folder), "--output", str(output)]) == 0  # a page may be replaced
    assert main(["report", str(folder), str(folder), "--output", str(output)]) == 2
    assert "several studies become Markdown" in capsys.readouterr().err


@pytest.mark.parametrize("file", sorted(DATA.glob("*-study.json")), ids=lambda file: file.stem)
def test_every_study_of_the_documentation_has_its_page(file, tmp_path, capsys):
    output = tmp_path / "page.html"
    assert main(["report", str(file), "--output", str(output)]) == 0
    rows = json.loads(file.read_text())["rows"]
    page = output.read_text()
    assert all(f">{row['method']}<" in page for row in rows)
    data = page.split('id="undrift-data">')[1].split("</script>")[0]
    assert len(json.loads(data)["rows"]) == len(rows)


def test_methods_beyond_the_palette_have_another_mark():
    assert len({chip(k) for k in range(12)}) == 12


def test_pictures_of_the_markdown_are_files_that_need_no_page(folder, tmp_path):
    output = tmp_path / "page.md"
    assert main(["report", str(folder), "--output", str(output)]) == 0
    text = output.read_text()
    shown = re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)
    assert sorted(shown) == sorted(
        str(file.relative_to(tmp_path)) for file in (tmp_path / "page_files").iterdir()
    )
    for name in (name for name in shown if name.endswith(".svg")):
        root = ElementTree.parse(tmp_path / name).getroot()
        drawn = ElementTree.tostring(root, encoding="unicode")
        used = set(re.findall(r"var\((--[\w-]+)\)", drawn))
        assert root.tag == "{http://www.w3.org/2000/svg}svg" and {"--ink", "--panel"} <= used
        assert all(f"{variable}:" in drawn for variable in used)
        assert "persistent" in drawn and int(root.get("width")) == 984
    grid = Image.open(tmp_path / "page_files" / "samples-branched-plain.png")
    source = Image.open(folder / "seed-0" / "branched-plain-steps.png")
    factor = grid.width // source.width
    assert min(grid.size) >= 240 and grid.size == (source.width * factor, source.height * factor)
    assert grid.reduce(factor).tobytes() == source.tobytes()


def test_a_folder_that_is_no_pages_is_left_alone(folder, tmp_path, capsys):
    mine = tmp_path / "page_files" / "mine.svg"
    mine.parent.mkdir()
    mine.write_text("mine")
    assert main(["report", str(folder), "--output", str(tmp_path / "page.md")]) == 2
    assert "page_files is there already" in capsys.readouterr().err
    assert mine.read_text() == "mine" and not (tmp_path / "page.md").exists()


def test_a_page_that_was_stopped_half_way_is_written_again(folder, tmp_path, monkeypatch):
    output = tmp_path / "my page.md"
    with monkeypatch.context() as stopped:
        stopped.setattr(study_pages.page, "write_page", stop_at("changes-scratch.svg"))
        with pytest.raises(KeyboardInterrupt):
            study_pages.write_study_markdown(study(), folder, output)
    assert not output.exists() and any((tmp_path / "my page_files").iterdir())
    assert main(["report", str(folder), "--output", str(output)]) == 0
    assert "](my%20page_files/changes-branched.svg)" in output.read_text()


def stop_at(name):
    def write(target, content):
        if target.name == name:
            raise KeyboardInterrupt
        return write_page(target, content)

    return write


def test_the_tables_become_markdown(folder, tmp_path, capsys):
    output = tmp_path / "tables.md"
    for _ in range(2):  # tables may be replaced
        assert main(["report", str(folder), "--output", str(output)]) == 0
    lines = output.read_text().splitlines()
    section = results_table(networks(study())[0], "branched", "steps")
    assert lines.count("**Branched, equal steps**") == 1
    start = lines.index("**Branched, equal steps**") + 2
    assert [cell.strip() for cell in lines[start].strip("|").split("|")] == section.columns
    body = lines[start + 2 : start + 2 + len(section.rows)]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in body]
    assert cells == section.rows
    assert any("undrift compare studies/digits-all.yaml" in line for line in lines[-2:])
    (tmp_path / "notes.md").write_text("mine")
    assert main(["report", str(folder), "--output", str(tmp_path / "notes.md")]) == 2
    assert (tmp_path / "notes.md").read_text() == "mine"
    capsys.readouterr()
    profile = DATA.parents[1] / "studies" / "digits-gains.json"
    assert main(["report", str(profile), "--output", str(tmp_path / "new.md")]) == 2
    assert "give a .html file" in capsys.readouterr().err
