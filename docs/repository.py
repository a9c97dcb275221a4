"""The repository's address, for the site: a link at the foot of each page, and one to edit it; see hatch_build.py.

Not by `repo_url` of mkdocs, for then the theme asks the host for stars and forks whenever a page is read.
"""

import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def on_config(config: Any) -> Any:
    """Take the address over from pyproject.toml; a hook of mkdocs. While there is none, there are no such links."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    address = project["tool"]["hatch"]["metadata"]["hooks"]["custom"]["repository"].rstrip("/")
    if address:
        config.extra["repository"] = address
        config.extra["social"] = [{"icon": "material/source-repository", "link": address, "name": "Source"}]
        config.theme["features"].append("content.action.edit")
    return config


def on_page_context(context: Any, page: Any, config: Any, **_: Any) -> Any:
    """Where a page that was written by hand is edited; a hook of mkdocs."""
    address = config.extra.get("repository")
    if address and page.file.edit_uri:
        page.edit_url = f"{address}/edit/main/docs/{page.file.edit_uri}"
    return context
