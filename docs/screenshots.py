"""Screenshots of pages in Chromium at three sizes, light and dark: docs/screenshots.py --help."""

from __future__ import annotations

import argparse
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

SIZES = {"desktop": (1440, 900), "tablet": (768, 1024), "phone": (390, 844)}
"""Names of the sizes, and their widths and heights in CSS pixels."""
SCHEMES = ("light", "dark")
NUM_COLORS = 128
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")


def shots(page: Path, whole: bool = False) -> Iterator[tuple[str, bytes]]:
    """The first screen of a page, or all of it, at every size: its name and a PNG."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("no Chromium here: install one (on Debian: apt-get install chromium)")
    with sync_playwright() as session:
        browser = session.chromium.launch(executable_path=chromium, args=list(FLAGS))
        for size, (width, height) in SIZES.items():
            for scheme in SCHEMES:
                options: dict[str, Any] = {"viewport": {"width": width, "height": height}}
                tab = browser.new_page(color_scheme=scheme, **options)
                tab.goto(page.resolve().as_uri())
                tab.wait_for_timeout(300)
                yield f"{size}-{scheme}", tab.screenshot(full_page=whole)
                tab.close()
        browser.close()


def small(png: bytes) -> bytes:
    """A PNG with a palette, about a third of the size."""
    reduced = Image.open(io.BytesIO(png)).convert("RGB").quantize(NUM_COLORS)
    file = io.BytesIO()
    reduced.save(file, "PNG", optimize=True)
    return file.getvalue()


def main() -> None:
    """Write the screenshots next to each other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path, help="an HTML page of undrift report")
    parser.add_argument("--output", type=Path, default=Path("docs/images"), help="folder")
    parser.add_argument("--name", default="report", help="first part of the names of the files")
    parser.add_argument("--whole", action="store_true", help="the whole page, not one screen")
    chosen = parser.parse_args()
    for name, png in shots(chosen.page, chosen.whole):
        path = chosen.output / f"{chosen.name}-{name}.png"
        path.write_bytes(small(png))
        print(f"{path}  {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
