"""The checks are written down once, and whatever runs them runs that."""

import re
import subprocess
from pathlib import Path

import yaml

from latent_ae import __version__

ROOT = Path(__file__).parent.parent


def test_the_static_checks_are_in_one_script_that_all_others_run() -> None:
    checks = (ROOT / ".ci/checks").read_text(encoding="utf-8")
    hook = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"][0]
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))["jobs"]
    run = (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert (hook["entry"], hook["pass_filenames"]) == (".ci/checks", False)
    assert jobs["linux"]["steps"][-1]["run"] == ".ci/run"
    assert ".ci/checks" in run.splitlines()
    assert ".ci/checks" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for tool in ("ruff format", "ruff check", "mypy", "lint-imports"):
        assert re.search(rf"^{tool}", checks, flags=re.MULTILINE)
        assert tool not in run


def test_the_scripts_are_executable_and_are_bash() -> None:
    for name in ("checks", "run"):
        script = ROOT / ".ci" / name
        assert script.stat().st_mode & 0o111
        subprocess.run(["bash", "-n", script], check=True)


def test_the_citation_is_of_this_version() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == __version__
