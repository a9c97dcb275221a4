"""What a release says of where the project lives: its links, and the README with links that work anywhere.

The address is one line of pyproject.toml, ``repository`` of ``[tool.hatch.metadata.hooks.custom]``, and nothing else
names it (`docs/repository.py` reads it for the site). While it is empty there are no links, and the README stays as it
is, since a link to a place that doesn't exist is worse than none.
"""

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)")
PICTURES = (".png", ".svg", ".gif", ".jpg")


class ProjectLinks(MetadataHookInterface):
    """Fills ``urls`` and ``readme``, in the layout of addresses that GitHub has."""

    PLUGIN_NAME = "custom"

    def update(self, metadata: dict[str, Any]) -> None:
        """Add both to the metadata.

        Args:
            metadata: of the project; changed.

        Raises:
            ValueError: if the address isn't one of a repository on the web.
        """
        address = checked(self.config.get("repository", ""))
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": absolute(text, address)}
        metadata["urls"] = urls(address)


def checked(address: str) -> str:
    """The address without a slash at its end; "" if there is none.

    Raises:
        ValueError: if it isn't one of a repository on the web.
    """
    parts = urlsplit(address)
    if address and (parts.scheme != "https" or len(parts.path.strip("/").split("/")) != 2):
        raise ValueError(f"repository = {address!r} of pyproject.toml isn't like https://github.com/OWNER/llada")
    return address.rstrip("/")


def urls(address: str) -> dict[str, str]:
    """The project's links by the names that package indexes know."""
    places = {
        "Source": "",
        "Documentation": "/blob/main/docs/index.md",
        "Changelog": "/blob/main/CHANGELOG.md",
        "Issues": "/issues",
    }
    return {name: address + place for name, place in places.items()} if address else {}


def absolute(text: str, address: str) -> str:
    """A page of the root folder, with links that work on any other site."""

    def link(found: re.Match[str]) -> str:
        return f"{address}/{'raw' if found[1].endswith(PICTURES) else 'blob'}/main/{found[1]}"

    return LINK.sub(link, text) if address else text
