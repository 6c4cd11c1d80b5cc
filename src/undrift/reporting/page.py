"""What all pages are made of: one file each, whole or not at all, with everything inside."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from undrift.reporting.canvas import Plot

MARK = "undrift.report"
"""What a page says of itself: only such a file is replaced."""
_ALONE = "svg { background: var(--panel); font-family: sans-serif; stroke-linejoin: round; }"


def write_page(target: Path, content: str | bytes) -> Path:
    """Write a page or a picture of it, whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    partial.write_bytes(content.encode() if isinstance(content, str) else content)
    partial.replace(target)
    return target


def asset(name: str) -> str:
    """The text of a file that lies beside the pages."""
    return resources.files("undrift.reporting").joinpath(name).read_text(encoding="utf-8")


def template(name: str, **filters: Callable[..., Any]) -> Template:
    """A template that escapes what it is given and stops at what it is not."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= filters
    return environment.from_string(asset(name))


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


def inline(plot: Plot | None) -> dict[str, Markup] | None:
    """Both drawings of a plot as parts of a page; None where there is nothing to draw."""
    return {"wide": Markup(plot.wide), "narrow": Markup(plot.narrow)} if plot else None


def standalone(plot: Plot) -> str:
    """The wide drawing of a plot as an SVG file, which brings the colors of the pages with it."""
    box = re.search(r'viewBox="0 0 (\S+) (\S+)"', plot.wide)
    size = f' width="{float(box[1]):.0f}" height="{float(box[2]):.0f}"' if box else ""
    style = f"<style>{asset('colors.css')}{_ALONE}</style>"
    head = f'<svg xmlns="http://www.w3.org/2000/svg"{size} '
    return re.sub(r"^<svg ([^>]*>)", lambda m: f"{head}{m[1]}{style}", plot.wide, count=1) + "\n"


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
