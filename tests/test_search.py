"""Search in the pages works from disk: built by the plugins of mkdocs.yml, asked in Chromium."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = {
    "index.md": "# Home\n\nThe error accumulates along the chain.\n",
    "other.md": "# Another page\n\n## Amplification\n\nThe wombat is on this page alone.\n",
}


def chromium() -> str:
    """The path of a browser; without one, or without mkdocs, the test is left out."""
    for package in ("mkdocs", "material", "playwright"):
        pytest.importorskip(package)
    found = shutil.which("chromium") or shutil.which("google-chrome")
    return found or pytest.skip("no Chromium here")


def build(folder: Path) -> Path:
    """Two pages with the theme, the plugins and the scripts of the documentation."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    docs = folder / "docs"
    docs.mkdir()
    for name, text in PAGES.items():
        (docs / name).write_text(text)
    for name in ("iframe-worker.js", "style.css"):
        shutil.copy(ROOT / "docs" / name, docs)
    site = folder / "site"
    config = load_config(str(ROOT / "mkdocs.yml"), docs_dir=str(docs), site_dir=str(site), hooks=[])
    build(config)
    return site


def test_a_query_finds_its_page_from_disk_without_a_request(tmp_path):
    browser_path = chromium()
    from playwright.sync_api import sync_playwright

    site = build(tmp_path)
    asked: list[str] = []
    with sync_playwright() as session:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = session.chromium.launch(executable_path=browser_path, args=flags)
        tab = browser.new_page()
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto((site / "index.html").as_uri())
        tab.locator("input.md-search__input").press_sequentially("wombat")
        first = tab.locator("a.md-search-result__link").first
        first.wait_for(state="attached", timeout=20_000)
        target = first.evaluate("link => link.href")
        browser.close()
    assert target.startswith((site / "other.html").as_uri())
    assert not [url for url in asked if url.startswith("http")]
