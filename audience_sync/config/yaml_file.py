"""YAML with places: plain Python values, and for each path in them its line and column.

Scalars follow YAML 1.2's core schema, not 1.1, so that the country `NO` stays text; dates stay text too and
are read by whoever knows that a date is meant. `${NAME}` and `${NAME:-default}` come from the environment, in quotes
of either kind too: a secret that stayed `${NAME}` because of its quotes would sign wrongly without a word.
`$${NAME}` stands for `${NAME}` itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from audience_sync.errors import ConfigError, Problem

LARGEST_FILE = 2_000_000
MOST_VALUES = 100_000
DEEPEST = 40
_VARIABLE = re.compile(r"\$?\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_INTEGER = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")

Path_ = tuple[str | int, ...]


class Located(dict[str, Any]):
    """A mapping that knows its own path, so that a validator that sees only it can say where it stands."""

    path: Path_ = ()


@dataclass
class Place:
    line: int
    column: int
    written: str = ""
    """The scalar as it stands in the file, before variables are filled in: safe to show."""


@dataclass
class Document:
    file: str
    data: Any = None
    places: dict[Path_, Place] = field(default_factory=dict)
    keys: dict[Path_, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def place(self, path: Path_, *, of_key: bool = False) -> Place:
        """The place of a path, or of the nearest thing around it that stands in the file."""
        for end in range(len(path), -1, -1):
            table = self.keys if of_key and end == len(path) else self.places
            if path[:end] in table:
                return table[path[:end]]
        return Place(1, 1)

    def problem(self, path: Path_, message: str, hint: str = "", *, of_key: bool = False) -> Problem:
        place = self.place(path, of_key=of_key)
        return Problem(message, hint, self.file, place.line, place.column, self.title(path))

    def title(self, path: Path_) -> str:
        """`jobs › Lifecycle › audiences › VIP › sql`: list positions are shown by the name of what stands there."""
        parts: list[str] = []
        value = self.data
        for step in path:
            try:
                value = value[step]
            except (KeyError, IndexError, TypeError):
                value = None
            if isinstance(step, str):
                parts.append(step)
            elif isinstance(value, dict) and isinstance(value.get("name"), str):
                parts.append(value["name"])
            else:
                parts.append(f"no. {step + 1}")
        return " › ".join(parts)


def read_yaml(path: Path, environ: Mapping[str, str]) -> Document:
    """Read a file; raises ConfigError when it cannot be read as YAML at all."""
    document = Document(file=str(path))
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ConfigError([Problem(f"larger than {LARGEST_FILE:,} bytes", "split it", str(path))])
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            [Problem("there is no such file", "write one with `audience-sync init`", str(path))]
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError([Problem(f"not UTF-8 text (byte {error.start})", "save it as UTF-8", str(path))]) from None
    except OSError as error:
        raise ConfigError([Problem(f"cannot be read: {error.strerror}", "", str(path))]) from None
    try:
        _check_depth(text, str(path))
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        hint = "check the indentation, the colons and the quotes on this line and the one above it"
        if any("${" in written for written in text.splitlines()[line - 1 : line]):
            hint = 'inside { } and [ ], put a variable in quotes: "${NAME}"'
        raise ConfigError(
            [
                Problem(
                    f"not valid YAML: {error.problem or error.context}",
                    hint,
                    str(path),
                    line,
                    column,
                )
            ]
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError([Problem(f"not valid YAML: {str(error).splitlines()[0]}", "", str(path))]) from None
    if root is None:
        raise ConfigError([Problem("the file is empty", "write one with `audience-sync init`", str(path), 1, 1)])
    document.data = _Builder(document, environ).build(root, ())
    return document


def _check_depth(text: str, file: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEEPEST:
                mark = event.start_mark
                assert mark is not None
                raise ConfigError(
                    [Problem(f"nested deeper than {DEEPEST} levels", "", file, mark.line + 1, mark.column + 1)]
                )
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


class _Builder:
    def __init__(self, document: Document, environ: Mapping[str, str]) -> None:
        self.document = document
        self.environ = environ
        self.count = 0

    def build(self, node: yaml.Node, path: Path_) -> Any:
        mark = node.start_mark
        place = Place(mark.line + 1, mark.column + 1)
        self.document.places[path] = place
        self.count += 1
        if self.count > MOST_VALUES or len(path) > DEEPEST:
            raise ConfigError(
                [
                    Problem(
                        "unfolds to too many values (anchors that repeat each other?)",
                        "write it without anchors",
                        self.document.file,
                        place.line,
                        place.column,
                    )
                ]
            )
        if not node.tag.startswith("tag:yaml.org,2002:"):
            self.document.problems.append(
                self.document.problem(path, f"the tag {node.tag} is not known here", "write the value without it")
            )
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(child, (*path, index)) for index, child in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        place.written = node.value
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: Path_) -> Located:
        result = Located()
        result.path = path
        for key_node, value_node in node.value:
            mark = key_node.start_mark
            if not isinstance(key_node, yaml.ScalarNode):
                self.document.problems.append(
                    Problem(
                        "a name was expected before the colon",
                        "",
                        self.document.file,
                        mark.line + 1,
                        mark.column + 1,
                    )
                )
                continue
            key = self._text(key_node)
            here = (*path, key)
            if key in result:
                first = self.document.keys[here]
                self.document.problems.append(
                    Problem(
                        f"{key!r} stands here a second time (first on line {first.line})",
                        "remove one of them",
                        self.document.file,
                        mark.line + 1,
                        mark.column + 1,
                    )
                )
                continue
            self.document.keys[here] = Place(mark.line + 1, mark.column + 1)
            result[key] = self.build(value_node, here)
        return result

    def _scalar(self, node: yaml.ScalarNode, path: Path_) -> Any:
        text = self._text(node)
        if node.style not in (None, "") or "${" in text:
            return self._fill(text, path)
        if text in ("", "~", "null", "Null", "NULL"):
            return None
        if text in ("true", "True", "TRUE"):
            return True
        if text in ("false", "False", "FALSE"):
            return False
        if _INTEGER.fullmatch(text) and len(text) < 19:
            # 007 is an identifier that lost its quotes; as text it still equals itself
            return int(text) if str(int(text)) == text.lstrip("+") else text
        if _FLOAT.fullmatch(text):
            return float(text)
        return text

    def _text(self, node: yaml.ScalarNode) -> str:
        """PyYAML reads JSON's `\\ud83d\\udc4b`, which is one character, as two halves that no encoding takes."""
        text = str(node.value)
        if text.isascii():
            return text
        try:
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            mark = node.start_mark
            said = "holds half a character (\\ud800 to \\udfff stand in pairs)"
            self.document.problems.append(Problem(said, "", self.document.file, mark.line + 1, mark.column + 1))
            return text.encode("utf-8", "replace").decode()

    def _fill(self, text: str, path: Path_) -> str:
        def value(match: re.Match[str]) -> str:
            if match[0].startswith("$$"):
                return match[0][1:]
            found = self.environ.get(match[1])
            if found:
                return found
            if match[2] is not None:
                return match[2]
            state = "is set to nothing" if found == "" else "is not set"
            self.document.problems.append(
                self.document.problem(
                    path,
                    f"the environment variable {match[1]} {state}",
                    f"set {match[1]}, or give a default: ${{{match[1]}:-…}}",
                )
            )
            return ""

        return _VARIABLE.sub(value, text)
