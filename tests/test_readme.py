"""The README's two lines are what CI runs and what the other documents say."""

import re
from pathlib import Path

import pytest

import latent_ae

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def line(name: str) -> str:
    blocks = re.findall(rf"<!-- line: {name} -->\n```bash\n(.*?)\n```", README, flags=re.DOTALL)
    assert len(blocks) == 1
    assert "\n" not in blocks[0], "each line is complete by itself"
    return str(blocks[0])


@pytest.mark.parametrize(
    ("name", "end"),
    [
        (
            "train",
            '&& pip install -e ".[app]" && accelerate launch --config_file accelerate_config.yaml train/train.py',
        ),
        ("test", '&& pip install -e ".[test]" && pytest'),
    ],
)
def test_each_line_makes_its_environment_installs_and_goes(name: str, end: str) -> None:
    assert line(name).startswith("python3 -m venv .venv && . .venv/bin/activate")
    assert line(name).endswith(end)


def test_both_lines_are_on_the_first_screen() -> None:
    first_screen = README.splitlines()[:40]
    assert line("train") in first_screen
    assert line("test") in first_screen


def test_the_first_screen_has_one_picture_and_the_python_interface() -> None:
    first_screen = README[: README.index("\n## ")]
    assert first_screen.count("![") == README.count("![") == 1
    (python,) = re.findall(r"```python\nimport latent_ae\n\n(.*?)\n```", first_screen, flags=re.DOTALL)
    assert python in str(latent_ae.__doc__).replace("\n    ", "\n")


def test_ci_reads_both_lines_from_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert 'readme_line "line: $line"' in script
    assert "pip install" not in script.replace("a user's install", "")


def test_the_documents_say_the_same_line() -> None:
    assert line("test") in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert line("train") in (ROOT / "docs" / "training.md").read_text(encoding="utf-8")


def test_every_file_and_test_that_a_document_names_is_there() -> None:
    for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "benchmarks/README.md"]:
        named = r"`((?:latent_ae|train|tests|benchmarks)/[\w/.]+)(?:::(\w+))?`"
        for file, test in re.findall(named, document.read_text(encoding="utf-8")):
            assert (ROOT / file).exists(), f"{document.name} names {file}"
            assert not test or f"def {test}" in (ROOT / file).read_text(encoding="utf-8"), f"{document.name}: {test}"


def anchors(document: Path) -> set[str]:
    """What a link to a heading is called, as GitHub makes it."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_file_and_picture_that_is_linked_is_there() -> None:
    for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "benchmarks/README.md"]:
        for target, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", document.read_text(encoding="utf-8")):
            if "://" not in target:
                linked = document.parent / target if target else document
                assert linked.exists(), f"{document.name} links {target}"
                assert not anchor or anchor in anchors(linked), f"{document.name} links {target}#{anchor}"


def test_the_file_tree_of_the_readme_is_the_packages() -> None:
    for path in sorted((ROOT / "latent_ae").iterdir()):
        if path.suffix == ".py" and not path.name.startswith("_"):
            assert path.name in README, f"the README's tree leaves out {path.name}"
        if path.is_dir() and (path / "__init__.py").exists():
            assert f"{path.name}/" in README
