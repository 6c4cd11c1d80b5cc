r"""Formulas in the pages: ``.. math::`` and ``:math:`x``` in docstrings, ``$x$`` in Markdown.

Docstrings are written for Python's readers, with the roles of reStructuredText; `Formulas` turns
them into Markdown. Then every formula of a page becomes MathML, which browsers show by themselves.
"""

from __future__ import annotations

import html
import re
import textwrap
from typing import Any

import griffe
from latex2mathml.converter import convert

BLOCK = re.compile(
    r"^(?P<indent>[ ]*)\.\. math::(?P<first>[^\n]*)\n"
    r"(?P<rest>(?:(?P=indent)[ ]+\S[^\n]*\n|[ ]*\n)*)",
    re.MULTILINE,
)
ROLE = re.compile(r":math:`([^`]+)`")
CODE_ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|exc|obj):`~?([^`]+)`")
EXAMPLE = re.compile(r"^([ ]*)Example:$", re.MULTILINE)
REFERENCE = re.compile(r"^([ ]*)\| (.+)$", re.MULTILINE)
SPAN = re.compile(r'<(span|div) class="arithmatex">(.*?)</\1>', re.DOTALL)


class Formulas(griffe.Extension):
    """Rewrites each docstring before its sections are parsed."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = to_markdown(obj.docstring.value)


def to_markdown(text: str) -> str:
    """A docstring without the roles of reStructuredText."""
    text = BLOCK.sub(_block, text + "\n").rstrip()
    text = ROLE.sub(lambda match: f"${' '.join(match[1].split())}$", text)
    text = CODE_ROLE.sub(r"`\1`", text)
    text = EXAMPLE.sub(r"\1Examples:", text)
    return REFERENCE.sub(r"\1- \2", text)


def on_page_content(content: str, **kwargs: Any) -> str:
    """Replace what arithmatex marked by MathML."""
    return SPAN.sub(_mathml, content)


def _block(match: re.Match[str]) -> str:
    indent = match["indent"]
    lines = [match["first"].strip(), *textwrap.dedent(match["rest"]).strip().splitlines()]
    body = "\n".join(f"{indent}{line.strip()}" for line in lines if line.strip())
    return f"\n{indent}$$\n{body}\n{indent}$$\n\n"


def _mathml(match: re.Match[str]) -> str:
    source = html.unescape(match[2]).strip()
    source = source.removeprefix(r"\(").removesuffix(r"\)")
    source = source.removeprefix(r"\[").removesuffix(r"\]").strip()
    if match[1] == "span":
        return convert(source)
    return f'<div class="formula">{convert(source, display="block")}</div>'
