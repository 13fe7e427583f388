"""YAML files of settings: YAML 1.2's booleans, every key once, a mapping at the top."""

import re
from pathlib import Path

import yaml

from reward_modeling.common.errors import UserError


class TwiceInYaml(yaml.YAMLError):
    """A key stands twice in one mapping, of which YAML's readers take the last."""


class YamlLoader(yaml.SafeLoader):
    """YAML 1.2's booleans: `save_strategy: no` is the word, not False."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (as in the base class)
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        lines: dict[str, int] = {}
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if (first := lines.setdefault(key.value, line)) != line:
                raise TwiceInYaml(
                    f"expected each key once, found {key.value} in line {first} and again in line {line}. Keep one of "
                    f"them; several values of one key are a list: {key.value}: [a, b]"
                )
        return super().construct_mapping(node, deep)


YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def read_yaml(path: str | Path, shown: str, expected: str) -> dict[str, object]:
    """The mapping that a YAML file holds.

    Raises:
        UserError: it cannot be read, or holds something else; `shown` is how the message names it, `expected` what it
            should hold.
    """
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), YamlLoader)
    except OSError as error:
        raise UserError(f"{shown}: expected a readable YAML file ({error.strerror})") from error
    except TwiceInYaml as error:
        raise UserError(f"{shown}: {error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{shown}: expected YAML, found {_first_problem(error)}") from error
    if not isinstance(content, dict):
        found = {type(None): "an empty file", list: "a list", str: "a text"}
        raise UserError(f"{shown}: expected {expected}, found {found.get(type(content), type(content).__name__)}")
    return {str(name): value for name, value in content.items()}


def _first_problem(error: yaml.YAMLError | UnicodeDecodeError) -> str:
    """What PyYAML says on five lines, on one."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())
    words = f"{error.context}: {error.problem}" if error.context else error.problem
    return f"it broken in line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1} ({words})"
