"""A model in its pipeline's own format on the Hugging Face hub, with a card of how it was made."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from undrift.exceptions import InvalidInput, reason_of

if TYPE_CHECKING:
    from undrift.measurement.profile import ErrorProfile

CARD, PROFILE, FIGURE = "README.md", "undrift-profile.json", "undrift-profile.png"


def check_target(name: str | None) -> None:
    """Check before any work that a model could be pushed: its name, the network, the token.

    Arguments:
        name: OWNER/NAME on the hub; None for no push.

    Raises:
        InvalidInput: If it cannot.
    """
    if name is None:
        return
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise InvalidInput(f"push_to_hub is {name!r}: give OWNER/NAME")
    from huggingface_hub import HfApi

    try:
        HfApi().whoami()
    except Exception as error:  # whatever the client or the network raise: one line of it
        raise InvalidInput(
            f"cannot push to {name}: {reason_of(error, 200)}; log in with hf auth login, or set "
            "HF_TOKEN"
        ) from error


def push(
    folder: Path, name: str, made: Mapping[str, Any], profile: ErrorProfile | None = None
) -> str:
    """Push a pipeline, its card and its profile, in one commit; return its address.

    Arguments:
        folder: The pipeline.
        name: OWNER/NAME on the hub.
        made: How it was made, by name, for the card.
        profile: Its error profile, if it was measured.

    Raises:
        InvalidInput: If the hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    added: dict[str, str | bytes] = {
        str(file.relative_to(folder)): str(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != CARD
    }
    added[CARD] = card(name, made, profile).encode()
    if profile is not None:
        added[PROFILE] = json.dumps(profile.to_dict(), indent=1).encode()
        added[FIGURE] = _figure(profile)
    operations = [CommitOperationAdd(path, content) for path, content in added.items()]
    api = HfApi()
    try:
        api.create_repo(name, exist_ok=True)
        api.create_commit(name, operations, commit_message="Model, card and profile of undrift")
    except Exception as error:  # whatever the client or the network raise: one line of it
        raise InvalidInput(
            f"{name} was not pushed: {reason_of(error, 200)}; the files are complete in {folder}"
        ) from error
    return f"{api.endpoint}/{name}"


def card(name: str, made: Mapping[str, Any], profile: ErrorProfile | None = None) -> str:
    """The card of a model, in Markdown: how it was made, and its error along the chain.

    Arguments:
        name: OWNER/NAME on the hub.
        made: How it was made, by name.
        profile: Its error profile, if it was measured.

    Example:
        >>> [line for line in card("me/digits", {"data": "digits"}).splitlines() if "data" in line]
        ['| data | `digits` |']
    """
    rows = [f"| {key} | {_cell(value)} |" for key, value in made.items() if value is not None]
    lines = ["---", "library_name: diffusers", "tags: [diffusion, undrift]"]
    if made.get("base"):
        lines.append(f"base_model: {json.dumps(str(made['base']))}")
    lines += ["---", "", f"# {name.partition('/')[2]}", "", "How it was made:", ""]
    lines += ["| | |", "|---|---|", *rows, ""]
    if profile is not None:
        lines += _measured(profile)
    call = f'images = DiffusionPipeline.from_pretrained("{name}")().images'
    lines += ["```python", "from diffusers import DiffusionPipeline", "", call, "```", ""]
    return "\n".join(lines)


def _measured(profile: ErrorProfile) -> list[str]:
    """The verdict on the error of a chain, its figure and its numbers."""
    from undrift.reporting.findings import verdict

    how = profile.how
    return [
        "## Its error along the sampling chain", "",
        " ".join(verdict([profile.to_dict()])), "",
        f"![D_t² along the chain]({FIGURE})", "",
        "```", profile.summary(), "```", "",
        f"{profile.num_samples:,} chains, seed {how.get('seed')}, measured by `undrift measure`; "
        f"all numbers are in `{PROFILE}`.", "",
    ]  # fmt: skip


def _cell(value: Any) -> str:  # noqa: ANN401
    return f"`{value}`".replace("|", "\\|").replace("\n", " ")


def _figure(profile: ErrorProfile) -> bytes:
    """The error along the chain, as a PNG."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), dpi=120, layout="constrained")
    profile.plot(axes)
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    plt.close(figure)
    return buffer.getvalue()
