"""Files are written by `latent_ae.io.atomic`, and by the few others that are named here with their reason."""

import ast
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

IN_PLACED = (
    "latent_ae/export/*.py",  # the folder that `export` hands to every exporter
    "latent_ae/latent_dataset/conversion/*.py",  # the folder that `convert` hands to every format
    "latent_ae/models/discriminator.py",
    "latent_ae/priors/*.py",  # the folder that `Prior.write` hands to every kind
    "latent_ae/training/checkpoint/files.py",
    "latent_ae/training/model_directory.py",
)
"""write into a folder that `placed` made: it syncs what is in it, sets the modes and renames it"""
OTHERS = {
    "latent_ae/io/atomic.py": "the writer itself",
    "latent_ae/io/folder_lock.py": "a lock file, which must stay the same file",
}

_METHODS = {"write_text", "write_bytes", "save_pretrained", "save_file", "touch", "mkstemp", "copy2", "copyfile"}
_TO_BYTES = "safetensors.torch.save"


def writers(source: str) -> Iterator[int]:
    """The lines of a program in which a file is opened to be written."""
    tree = ast.parse(source)
    streams = {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and ast.unparse(node.value) in ("io.BytesIO()", "BytesIO()")
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
        words = [each.value for each in arguments if isinstance(each, ast.Constant) and isinstance(each.value, str)]
        opened = name == "open" and any(set(word) <= set("rwaxbt+") and set(word) & set("wax+") for word in words)
        flags = name == "open" and any("O_WRONLY" in ast.unparse(each) for each in arguments)
        places = [each for each in node.args[:2] if not isinstance(each, ast.Constant)]
        in_memory = any(isinstance(each, ast.Name) and each.id in streams for each in places)
        saved = name in ("save", "savez") and bool(places) and not in_memory and ast.unparse(node.func) != _TO_BYTES
        if name in _METHODS or opened or flags or saved:
            yield node.lineno


def programs() -> list[str]:
    files = [path for room in ("latent_ae", "train", "app") for path in (ROOT / room).rglob("*.py")]
    return sorted(path.relative_to(ROOT).as_posix() for path in files)


def is_in_placed(name: str) -> bool:
    return any(Path(name).match(pattern) for pattern in IN_PLACED)


def test_no_other_file_writes_files() -> None:
    found = [
        f"{name}:{line}"
        for name in programs()
        if name not in OTHERS and not is_in_placed(name)
        for line in writers((ROOT / name).read_text(encoding="utf-8"))
    ]
    assert found == [], "write by latent_ae.io.atomic"


def test_every_exception_is_needed() -> None:
    for name in OTHERS:
        assert list(writers((ROOT / name).read_text(encoding="utf-8"))), name
    for pattern in IN_PLACED:
        files = [name for name in programs() if Path(name).match(pattern)]
        texts = [(ROOT / name).read_text(encoding="utf-8") for name in files]
        assert any(list(writers(text)) for text in texts), pattern
        assert any("placed(" in text for text in texts), pattern


@pytest.mark.parametrize(
    ("line", "written"),
    [
        ("path.write_text('x')", True),
        ("path.open('w', encoding='utf-8')", True),
        ("open(path, mode='ab')", True),
        ("path.open('r+b')", True),
        ("os.open(path, os.O_WRONLY | os.O_CREAT)", True),
        ("tarfile.open(path, 'w', format=1)", True),
        ("torch.save(tensors, path)", True),
        ("np.save(folder / 'x.npy', array)", True),
        ("image.save(path, format='PNG')", True),
        ("model.save_pretrained(folder)", True),
        ("path.open('rb')", False),
        ("path.open()", False),
        ("Image.open(path, formats=('PNG',))", False),
        ("stream = io.BytesIO()\nimage.save(stream, 'PNG')", False),
        ("stream = io.BytesIO()\ntorch.save(tensors, stream)", False),
        ("safetensors.torch.save(tensors)", False),
        ("training.save()", False),
    ],
)
def test_what_counts_as_writing(line: str, written: bool) -> None:
    assert bool(list(writers(textwrap.dedent(line)))) == written
