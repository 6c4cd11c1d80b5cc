"""What all pages are made of: one file each, written atomically, with everything inside."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template
from markupsafe import Markup, escape
from PIL import Image, UnidentifiedImageError

from undrift.exceptions import InvalidInput
from undrift.reporting.content import SampleGrid
from undrift.storage.writing import written

if TYPE_CHECKING:
    from undrift.reporting.canvas import Plot

MARK = "undrift.report"
"""What a page says of itself in its head: only such a file is replaced."""
_HEADS = f'<meta name="generator" content="{MARK}">', f"<!-- {MARK} -->"
_HEAD_SIZE = 1024
LONGEST_SIDE = 1024
PIXELATED_BELOW = 480
_ALONE = "svg { background: var(--panel); font-family: sans-serif; stroke-linejoin: round; }"


def write_page(target: Path, content: str | bytes) -> Path:
    """Write a page or a picture of it, completely or not at all."""
    with written(target) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
    return target


def is_page(path: Path) -> bool:
    """Whether a file is a page that undrift wrote: its head says so."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(_HEAD_SIZE).decode("utf-8", errors="replace").lstrip()
    html, markdown = _HEADS
    return head.startswith(markdown) or (head.startswith("<!DOCTYPE html>") and html in head)


def asset(name: str) -> str:
    """The text of a file next to this module."""
    return resources.files("undrift.reporting").joinpath(name).read_text(encoding="utf-8")


def template(name: str) -> Template:
    """A template that escapes what it is given and stops at what it is not."""
    environment = Environment(
        loader=FunctionLoader(asset),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    words = re.compile(r"\S+|\s+").findall
    environment.filters |= {"tied": tied, "lowered": lowered, "words": words}
    return environment.get_template(name)


def page_style() -> Markup:
    """The colors and the style of a page."""
    return Markup(asset("colors.css") + asset("style.css"))


def script_and_style() -> dict[str, Any]:
    """The style of a page, its script, and the hash by which its security policy lets that run."""
    script = asset("report.js")
    digest = hashlib.sha256(script.encode()).digest()
    return {
        "style": page_style(),
        "script": Markup(script),
        "script_hash": base64.b64encode(digest).decode("ascii"),
    }


def tied(text: str) -> str:
    """A text whose numbers do not break from their signs and units at the end of a line."""
    return re.sub(r" (?=[±=%<])|(?<=[±=<]) ", "\N{NO-BREAK SPACE}", text)


def lowered(text: str) -> Markup:
    """Text whose indices after an underscore stand below the line.

    >>> lowered("μ_t < σ_t²")
    Markup('μ<sub>t</sub> &lt; σ<sub>t</sub>²')
    """
    return Markup(re.sub(r"_([a-zA-Zα-ω]+|\d+)", r"<sub>\1</sub>", str(escape(text))))


def inline(plot: Plot | None) -> dict[str, Markup] | None:
    """Both drawings of a plot as parts of a page; None where there is nothing to draw."""
    return {"wide": Markup(plot.wide), "narrow": Markup(plot.narrow)} if plot else None


def standalone(plot: Plot) -> str:
    """The wide drawing of a plot as an SVG file, which contains the colors of the pages."""
    box = re.search(r'viewBox="0 0 (\S+) (\S+)"', plot.wide)
    size = f' width="{float(box[1]):.0f}" height="{float(box[2]):.0f}"' if box else ""
    style = f"<style>{asset('colors.css')}{_ALONE}</style>"
    head = f'<svg xmlns="http://www.w3.org/2000/svg"{size} '
    still = re.sub(r' data-points="[^"]*"', "", plot.wide, count=1)
    return re.sub(r"^<svg ([^>]*>)", lambda m: f"{head}{m[1]}{style}", still, count=1) + "\n"


def embedded(data: Any) -> Markup:  # noqa: ANN401
    r"""Data as JSON that cannot end the ``<script>`` it sits in.

    ``<``, ``>`` and ``&`` are escaped; NaN and infinities become null.

    >>> embedded({"a": ["<b>", float("nan")]})
    Markup('{"a":["\\u003cb\\u003e",null]}')
    """
    text = json.dumps(_plain(data), allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _plain(value: Any) -> Any:  # noqa: ANN401
    """A value as JSON knows it: no NaN, no tuples, no foreign types."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)


@dataclass(frozen=True)
class InlineImage:
    """An image inside the page: a data URI, its size, and whether its pixels should show."""

    label: str
    caption: str
    uri: str
    width: int
    height: int
    is_pixelated: bool


def inline_images(grids: Sequence[SampleGrid]) -> list[InlineImage]:
    """Return sample grids as data URIs; large ones are reduced.

    Raises:
        InvalidInput: If an image cannot be read.
    """
    return [_inline(*grid) for grid in grids]


def enlarged(grid: SampleGrid, side: int = PIXELATED_BELOW // 2) -> bytes:
    """A sample grid as PNG, its pixels multiplied until it is as large as that.

    Arguments:
        grid: Its label and the image.
        side: The shorter side at least, in pixels.

    Raises:
        InvalidInput: If the image cannot be read.
    """
    image = _read(grid[0], grid[1])
    factor = -(-side // min(image.size))
    size = image.width * factor, image.height * factor
    return _png(image.resize(size, Image.Resampling.NEAREST))


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _inline(label: str, source: Image.Image | bytes, caption: str | None = None) -> InlineImage:
    image = _read(label, source)
    if max(image.size) > LONGEST_SIDE:
        image = image.copy()
        image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    uri = "data:image/png;base64," + base64.b64encode(_png(image)).decode("ascii")
    is_pixelated = image.width < PIXELATED_BELOW
    return InlineImage(label, caption or "", uri, image.width, image.height, is_pixelated)


def _read(label: str, source: Image.Image | bytes) -> Image.Image:
    """An image in a mode that PNG has."""
    try:
        image = source if isinstance(source, Image.Image) else Image.open(io.BytesIO(source))
        image.load()
    except (UnidentifiedImageError, OSError) as error:
        message = f"The sample grid {label!r} is no readable image: give a PNG or a PIL image."
        raise InvalidInput(message) from error
    return image if image.mode in ("1", "L", "LA", "P", "RGB", "RGBA") else image.convert("RGB")
