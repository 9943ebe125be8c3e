"""Make docs/api.md from the docstrings of what `latent_ae` exports: `python docs/make_api.py`."""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import latent_ae

PAGE = Path(__file__).with_name("api.md")
NAMES = ("load", "VAE", "Latents", "LatentDataset", "UserError")
_SPECIAL = ("__init__", "__getitem__")
_HEAD = """# Python API

Generated from the docstrings by `python docs/make_api.py`; [example.md](example.md) uses most of it.

```python
import latent_ae

{example}
```

`latent_ae.__version__` is the version, a string. Models are stock diffusers models, and latent files are safetensors:
neither needs this package to be read.
"""


def page() -> str:
    """The whole page."""
    example = inspect.cleandoc(latent_ae.__doc__ or "").split("\n\n")[1]
    parts = [_HEAD.format(example=textwrap.dedent(example))]
    for name in NAMES:
        source = inspect.getsource(getattr(latent_ae, name))
        (node,) = ast.parse(source).body
        parts += _entry(name, [node], source.splitlines())
    return "\n".join(parts)


def _entry(name: str, versions: list[ast.stmt], lines: list[str]) -> Iterator[str]:
    """A class with its members, or a function: its overloads and last the definition, which has the docstring."""
    node = versions[-1]
    if isinstance(node, ast.ClassDef):
        yield f"## `latent_ae.{name}`\n\n{_text(node)}\n"
        yield from _members(name, node, lines)
        return
    shown = versions[:-1] or versions
    yield f"### `{name}`\n" if "." in name else f"## `latent_ae.{name}`\n"
    if "property" not in _decorators(node):
        yield "```python\n" + "\n".join(_signature(each, lines) for each in shown) + "\n```\n"
    yield f"{_text(node)}\n"


def _members(name: str, node: ast.ClassDef, lines: list[str]) -> Iterator[str]:
    fields: list[str] = []
    versions: list[ast.stmt] = []
    for member, following in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(member, ast.AnnAssign):
            meaning = f": {_prose(following.value.value)}" if _is_text(following) else ""
            fields.append(f"- `{ast.unparse(member)}`{meaning}\n")
        if isinstance(member, ast.FunctionDef) and _is_public(member):
            if fields:
                yield "".join(fields)
                fields = []
            versions.append(member)
            if "overload" not in _decorators(member):
                yield from _entry(f"{name}.{member.name}", versions, lines)
                versions = []


def _is_public(node: ast.FunctionDef) -> bool:
    return not node.name.startswith("_") or (node.name in _SPECIAL and ast.get_docstring(node) is not None)


def _decorators(node: ast.FunctionDef) -> list[str]:
    return [ast.unparse(each) for each in node.decorator_list]


def _signature(node: ast.stmt, lines: list[str]) -> str:
    """As it is written, without the body."""
    last = node.body[0].lineno  # in an overload `...` follows the colon in the same line
    end = last if lines[last - 1].endswith(": ...") else last - 1
    text = re.sub(r" +# .*$", "", textwrap.dedent("\n".join(lines[node.lineno - 1 : end])), flags=re.MULTILINE)
    return text.removesuffix(" ...").removesuffix(":")


def _is_text(node: ast.stmt | None) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _text(node: ast.stmt) -> str:
    """The docstring, its arguments as a list."""
    text = ast.get_docstring(node) or ""
    text = re.sub(r"\n +(?! *\w+: )\s*", " ", text)  # what goes on in the next line
    return re.sub(r"^ +(\w+): ", r"- `\1`: ", text.replace("Args:\n", "Arguments:\n\n"), flags=re.MULTILINE)


def _prose(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
