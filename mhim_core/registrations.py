"""The registering decorators in a package's files, read from the source: names are known before anything is imported.

So `mhim --help` lists what a package offers without torch or OpenSlide, and adding to it is adding a file.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple


class Reference(NamedTuple):
    """A keyword that is a name: of what the file imports from another module, or defines itself."""

    module: str
    name: str


class Registration(NamedTuple):
    """One decorator: its only argument, a literal, and its keywords, literals or a `Reference` each."""

    name: str
    module: str
    options: dict[str, Any]


def registrations(package: ModuleType, decorator: str) -> Iterator[Registration]:
    """Every class and function of the package's files decorated with a call of `decorator`, by file and place."""
    names: set[str] = set()
    for path in sorted(path for folder in package.__path__ for path in Path(folder).glob("[!_]*.py")):
        module = f"{package.__name__}.{path.stem}"
        body = ast.parse(path.read_text(encoding="utf-8")).body
        imports = [node for node in body if isinstance(node, ast.ImportFrom)]
        module_of = {alias.name: node.module or "" for node in imports for alias in node.names if not alias.asname}

        def read(value: ast.expr, module: str = module, module_of: dict[str, str] = module_of) -> Any:
            if isinstance(value, ast.Name):
                return Reference(module_of.get(value.id, module), value.id)
            return ast.literal_eval(value)

        for node in body:
            for call in node.decorator_list if isinstance(node, ast.ClassDef | ast.FunctionDef) else ():
                if isinstance(call, ast.Call) and getattr(call.func, "id", "") == decorator:
                    (name,) = (ast.literal_eval(argument) for argument in call.args)
                    options = {word.arg: read(word.value) for word in call.keywords if word.arg is not None}
                    assert name not in names, f"{module}: {name} is registered twice"
                    names.add(name)
                    yield Registration(name, module, options)
