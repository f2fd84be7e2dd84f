"""What the classes of a package are decorated with, read from the source: names are known before anything is imported.

So `mhim --help` lists what a package offers without torch or OpenSlide, and adding a class is adding a file.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple


class Registration(NamedTuple):
    """One class's decorator: its only argument and its keywords, which are literals."""

    name: str
    module: str
    options: dict[str, Any]


def registrations(package: ModuleType, decorator: str) -> Iterator[Registration]:
    """Every class of the package's files that is decorated with a call of `decorator`, by file, then by place."""
    for path in sorted(path for folder in package.__path__ for path in Path(folder).glob("[!_]*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            for call in node.decorator_list if isinstance(node, ast.ClassDef) else ():
                if isinstance(call, ast.Call) and getattr(call.func, "id", "") == decorator:
                    (name,) = (ast.literal_eval(argument) for argument in call.args)
                    options = {word.arg: ast.literal_eval(word.value) for word in call.keywords if word.arg is not None}
                    yield Registration(name, f"{package.__name__}.{path.stem}", options)
