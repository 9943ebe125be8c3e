"""The checks are written down once, and whatever runs them runs that."""

import os
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
    assert [jobs[name]["steps"][-1]["run"] for name in ("linux", "macos")] == [".ci/run", ".ci/run train"]
    assert "run .ci/checks" in run
    assert ".ci/checks" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for tool in ("ruff format", "ruff check", "mypy", "lint-imports"):
        assert re.search(rf"^{tool}", checks, flags=re.MULTILINE)
        assert tool not in run


def test_the_scripts_are_executable_and_are_bash() -> None:
    for name in ("checks", "run"):
        script = ROOT / ".ci" / name
        assert script.stat().st_mode & 0o111
        subprocess.run(["bash", "-n", script], check=True)


def test_ci_runs_the_lines_of_the_readme_and_then_the_checks(tmp_path: Path) -> None:
    """In a repository whose lines and checks only say that they run."""
    files = {
        "README.md": "".join(
            f"<!-- line: {name} -->\n```bash\nmkdir -p .venv/bin && touch .venv/bin/activate && echo {name}ed\n```\n"
            for name in ("train", "test")
        ),
        ".ci/run": (ROOT / ".ci/run").read_text(encoding="utf-8"),
        ".ci/checks": "echo checked",
        "bin/chromium": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@x"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *words], cwd=tmp_path, check=True)

    def said(*words: str) -> list[str]:
        path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
        run = subprocess.run(
            [".ci/run", *words], cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr
        return [line for line in run.stdout.splitlines() if not line.startswith("==")]

    assert said() == ["tested", "checked", "trained"]
    assert said("train") == ["trained"]


def test_the_citation_is_of_this_version() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == __version__
