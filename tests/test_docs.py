"""The documents that are made by a program, and the example, which is one."""

import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def test_the_api_page_is_made_from_the_docstrings() -> None:
    made = subprocess.run(
        [sys.executable, "-c", "import make_api; print(make_api.page(), end='')"],
        cwd=DOCS,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (DOCS / "api.md").read_text(encoding="utf-8") == made.stdout, "run python docs/make_api.py"
