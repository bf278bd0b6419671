"""README.md and docs/: links lead somewhere, commands exist, and the first page stays short."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import typer
from typer.core import TyperGroup

from orchestrator.cli import app
from orchestrator.state.trial.folder import TrialFile
from tests.orchestrator.documented import PAGE, documented_fields

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
MAX_LINES = 150

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
OPERATORS = {"&&", "||", "|", ";", ">", "#"}


FOLDERS = ("docs", "sweeps", "orchestrator", "trainers", "tests", "benchmarks", "docker")
PAGES = [
    *ROOT.glob("*.md"),
    *(page for folder in FOLDERS for page in sorted((ROOT / folder).rglob("*.md"))),
    ROOT / "mlruns" / "README.md",
]
MANUAL = [page for page in PAGES if page == README or ROOT / "docs" in page.parents]


def strip_code(text: str) -> str:
    """The page without code, in which brackets are no links and # is no heading."""
    return SPAN.sub("`", FENCE.sub("", text))


def anchors(text: str) -> set[str]:
    """The anchors that a forge gives the headings."""
    found: dict[str, int] = {}
    names = set()
    for heading in HEADING.findall(FENCE.sub("", text)):
        plain = LINK.sub(lambda link: link[0][1 : link[0].index("]")], heading)
        name = re.sub(r"[^\w\- ]", "", plain.lower()).strip().replace(" ", "-")
        number = found[name] = found.get(name, -1) + 1
        names.add(f"{name}-{number}" if number else name)
    return names


def broken_links(page: Path, text: str) -> list[str]:
    """Relative links of the text whose file or anchor is missing."""
    broken = []
    for link in LINK.findall(strip_code(text)):
        path, _, anchor = unquote(link).partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        target = (page.parent / path).resolve() if path else page
        content = text if target == page else target.read_text(encoding="utf-8") if target.is_file() else ""
        if not target.exists() or ROOT not in (target, *target.parents) or (anchor and anchor not in anchors(content)):
            broken.append(link)
    return broken


def command_lines(text: str) -> Iterator[list[str]]:
    """The words of every `orchestrate ...` in code blocks and code spans, up to the next operator of the shell."""
    code = [line for _, block in FENCE.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    for line in code + SPAN.findall(FENCE.sub("", text)):
        for part in re.split(r"--wrap|'|^\$ |\bexec\b|\.venv/bin/", line):
            words = shlex.split(part, comments=True) if part.count('"') % 2 == 0 else part.split()
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words = words[1:]
            if words and words[0] == "orchestrate":
                end = next((i for i, word in enumerate(words) if word in OPERATORS), len(words))
                yield words[1:end]


def unknown_words(words: list[str]) -> list[str]:
    """Commands and options among the words that the CLI does not have."""
    command: Any = typer.main.get_command(app)
    rest = list(words)
    while isinstance(command, TyperGroup) and rest and not rest[0].startswith("-"):
        if rest[0] == "COMMAND":
            return []
        if rest[0] not in command.commands:
            return [rest[0]]
        command = command.commands[rest.pop(0)]
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    return [word for word in rest if word.startswith("--") and word.partition("=")[0] not in known]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_has_its_file_and_its_anchor(page: Path) -> None:
    """On every page of the project."""
    assert broken_links(page, page.read_text(encoding="utf-8")) == []


def test_a_broken_link_is_found() -> None:
    """A file that is missing, an anchor that is missing, and neither in code."""
    text = "# One two\n[a](docs/missing.md) [b](#one-two) [c](#three) `[d](no.md)`\n```\n[e](no.md)\n# Three\n```\n"
    assert broken_links(README, text) == ["docs/missing.md", "#three"]


def test_the_index_lists_every_page() -> None:
    """A page that nothing links to is not found by readers."""
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / link).resolve() for link in LINK.findall(index.read_text(encoding="utf-8"))}
    assert {page for page in MANUAL if page not in (README, index)} == linked


@pytest.mark.parametrize("page", MANUAL, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_and_option_exists(page: Path) -> None:
    """As the CLI declares them."""
    lines = list(command_lines(page.read_text(encoding="utf-8")))
    assert {" ".join(line): found for line in lines if (found := unknown_words(line))} == {}


def command_names(command: Any, path: str = "orchestrate") -> Iterator[str]:
    """Every command of the CLI, as it is typed."""
    for name, inner in getattr(command, "commands", {"": None}).items():
        yield from command_names(inner, f"{path} {name}") if name else [path]


def test_every_command_is_described() -> None:
    """On the page of commands."""
    page = (ROOT / "docs" / "reference" / "commands.md").read_text(encoding="utf-8")
    assert [name for name in command_names(typer.main.get_command(app)) if f"`{name}" not in page] == []


def test_an_unknown_command_or_option_is_found() -> None:
    """In a block, behind a variable or in a job's command, and in a code span."""
    text = "```bash\nA=b orchestrate sweeep x\nsbatch --wrap 'exec orchestrate worker x --leave-befor 3' # orchestrate y\n```\n"
    assert [unknown_words(line) for line in command_lines(text)] == [["sweeep"], ["--leave-befor"]]
    assert [unknown_words(line) for line in command_lines("`orchestrate data check x --sett a=b`")] == [["--sett"]]
    assert [unknown_words(line) for line in command_lines("`orchestrate data check x --set a=b`")] == [[]]


def test_the_readme_is_short_and_opens_with_the_two_commands() -> None:
    """A stranger reads the first screen."""
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MAX_LINES
    first = "\n".join(lines[:20])
    assert "make demo" in first
    assert "make test" in first


def written_names() -> set[str]:
    """Every string and every field of a class in orchestrator/, of which documents take their keys."""
    names = set()
    for file in (ROOT / "orchestrator").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                names.add(node.value)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names.add(node.target.id)
    return names


def test_every_documented_json_field_exists() -> None:
    """A field that was renamed in the code is renamed on the page too."""
    commands = re.findall(r"^## `(.+)`$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert {"sweep", "leaderboard", "best-ensemble", "compare", "status"} < set(commands)
    written = written_names()
    assert {command: missing for command in commands if (missing := documented_fields(command) - written)} == {}


def test_every_file_of_a_trial_is_described() -> None:
    """By its name, or by its folder's."""
    page = (ROOT / "docs" / "reference" / "files.md").read_text(encoding="utf-8")
    names = {str(file) if "/" not in file else f"{file.partition('/')[0]}/" for file in TrialFile}
    assert {name for name in names if f"`{name}`" not in page} == set()


def test_the_files_on_the_map_exist() -> None:
    """Paths of orchestrator/README.md start at orchestrator/ or at the project's folder."""
    text = (ROOT / "orchestrator" / "README.md").read_text(encoding="utf-8")
    paths = {path for path in re.findall(r"`([\w./]+/[\w./]+)`", text)}
    assert {path for path in paths if not (ROOT / path).exists() and not (ROOT / "orchestrator" / path).exists()} == set()
