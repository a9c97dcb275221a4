"""The files that pages name, as pages of the site: a name such as `llada/noise/linear.py` is a link to its code."""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
NAMED = re.compile(r"(?<=`)(?:llada|examples|benchmarks|tests)/[\w/]+\.(?:py|yaml)(?=`)")
LINKED = re.compile(r"<a\b.*?</a>|<code>([\w/]+\.(?:py|yaml))</code>", re.DOTALL)
PAGE = '---\nsearch: {{exclude: true}}\n---\n# `{path}`\n\n````{language} linenums="1"\n{text}````\n'


def on_files(files: Any, config: Any) -> Any:
    """Add a page for each file that is named; a hook of mkdocs."""
    from mkdocs.structure.files import File

    named = {path for page in files.documentation_pages() for path in NAMED.findall(page.content_string)}
    for path in sorted(path for path in named if (ROOT / path).is_file()):
        text, language = (ROOT / path).read_text(encoding="utf-8"), path.rpartition(".")[2]
        made = PAGE.format(path=path, text=text, language={"py": "python"}.get(language, language))
        files.append(File.generated(config, f"source/{path}.md", content=made))
    return files


def on_page_content(html: str, page: Any, files: Any, **_: Any) -> str:
    """Link the names to those pages; a hook of mkdocs."""

    def link(found: re.Match[str]) -> str:
        made = found[1] and files.get_file_from_path(f"source/{found[1]}.md")
        return f'<a href="{made.url_relative_to(page.file)}">{found[0]}</a>' if made else found[0]

    return html if page.file.src_uri.startswith("source/") else LINKED.sub(link, html)
