"""What the long forms of the claims gave when they were run last, from docs/claims; nothing is run.

python -m examples.claims.long_forms
"""

import json
from collections.abc import Iterator
from pathlib import Path

from examples.claims.statistics import Check, Interval

DOCS = Path(__file__).parents[2] / "docs" / "claims"


def told(folder: Path = DOCS) -> Iterator[str]:
    """A line per command, and one per direction that it checked.

    Args:
        folder: of the results.
    """
    for path in sorted(folder.glob("*.json")):
        results = json.loads(path.read_text(encoding="utf-8"))
        if not results.get("checks"):
            continue
        yield f"{results['command']} on {results['date']}, {len(results['seeds'])} seeds"
        for check in results["checks"]:
            yield f"  {Check(**{**check, 'measured': Interval(**check['measured'])})}"


if __name__ == "__main__":
    print("\n== what the long forms gave", *told(), sep="\n")
