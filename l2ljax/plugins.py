"""A user's own files: methods, models, data sets, attacks, recipes and augmentations of their own.

    plugins = Plugins(["mine.py"])
    plugins.find("method", "mine.py:momentum_l2l", METHODS)    # a function in mine.py
    plugins.find("method", "grad_l2l", METHODS)                # a row of the package's own table

Everywhere a word of a table is understood, `FILE.py:NAME` is understood too: the thing called NAME
in that file. A file is run once, when it is given; a file that only a run's config.json names is
never run. The file's sha256 belongs to the configuration of the run, so that a run whose file has
changed is not resumed as if nothing had happened.
"""

import hashlib
import importlib.util
import pathlib
import sys
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

from l2ljax.errors import InputError, nearest

ENDING = ".py:"
"""Between the file and the name of the thing in it."""


def split(text: Any) -> tuple[str, str] | None:
    """The file and the name in `FILE.py:NAME`; None for any other word."""
    if not isinstance(text, str) or ENDING not in text:
        return None
    file, _, name = text.rpartition(":")
    return file, name


class Plugins:
    """The files of one command or call: by base name, since folders differ between machines."""

    def __init__(self, files: "Plugins | Iterable[str | pathlib.Path]" = ()) -> None:
        """Read and run each of the files; those of other `Plugins` were run already."""
        if isinstance(files, Plugins):
            self._modules, self.sha256 = files._modules, files.sha256
            return
        self._modules: dict[str, ModuleType] = {}
        self.sha256: dict[str, str] = {}
        for file in [files] if isinstance(files, (str, pathlib.Path)) else files:
            self.add(file)

    def add(self, file: str | pathlib.Path) -> str:
        """Run that file, unless it was run before; returns its base name.

        A base name alone means the file of that name that was run, wherever it lies.
        """
        path = pathlib.Path(file).expanduser()
        if str(file) in self._modules:
            return str(file)
        try:
            source = path.read_bytes()
        except OSError as error:
            raise InputError(f"plug-in {path} cannot be read: {error.strerror}") from None
        digest = hashlib.sha256(source).hexdigest()
        if self.sha256.setdefault(path.name, digest) != digest:
            raise InputError(f"two different plug-ins are called {path.name}: rename one of them")
        if path.name not in self._modules:
            self._modules[path.name] = _run(path, source, digest)
        return path.name

    def take(self, text: Any) -> Any:
        """Run the file that a word names, and return the word with the file's base name alone."""
        parts = split(text)
        return text if parts is None else f"{self.add(parts[0])}:{parts[1]}"

    def take_attacks(self, attacks: Any) -> tuple[Any, dict[str, Any]]:
        """The same attacks with base names, and those of the user's own files by their words.

        `attacks` are names joined by commas, of which `a+b` is two, or a list of names and others.
        """
        if isinstance(attacks, str):
            attacks = attacks.split(",")
        elif type(attacks) not in (list, tuple):
            return attacks, {}
        own, taken = {}, []
        for words in attacks:
            parts = [self.take(p.strip()) for p in words.split("+")] if _names_file(words) else []
            own |= {part: self.find("attack", part, {}) for part in parts if split(part)}
            taken.append("+".join(parts) or words)
        return taken, own

    def find(self, kind: str, text: str, table: Mapping[str, Any]) -> Any:
        """The thing of that name in the table, or `FILE.py:NAME` in one of these files."""
        parts = split(text)
        if parts is None:
            if text not in table:
                raise InputError(nearest(kind, str(text), [*table, "FILE.py:NAME"]))
            return table[text]
        file, name = pathlib.Path(parts[0]).name, parts[1]
        if file not in self._modules:
            raise InputError(
                f"{kind} {text} is in a file of the user's own: give it, --plugins=PATH/{file} or "
                f"plugins=['PATH/{file}']"
            )
        names = [n for n in vars(self._modules[file]) if not n.startswith("_")]
        if name not in names:
            raise InputError(nearest(f"name in {file}", name, names))
        return getattr(self._modules[file], name)

    def words(self, texts: Iterable[Any]) -> dict[str, str]:
        """The sha256 of every file that one of these words names, by the file's base name."""
        files = {pathlib.Path(parts[0]).name for text in texts if (parts := split(text))}
        return {file: self.sha256[file] for file in sorted(files) if file in self.sha256}


def _names_file(words: Any) -> bool:
    return isinstance(words, str) and ENDING in words


def _run(path: pathlib.Path, source: bytes, digest: str) -> ModuleType:
    """The file as a module of a name that no other file has."""
    name = f"l2ljax_plugin_{path.stem}_{digest[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    module.__file__ = str(path)
    try:
        code = compile(source, str(path), "exec")
    except SyntaxError as error:
        raise InputError(f"plug-in {path}, line {error.lineno}: {error.msg}") from None
    sys.modules[name] = module  # where dataclasses look up the types of their fields
    try:
        exec(code, module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    return module
