"""Every command that the runbook, the README and the cluster files show can be typed as it stands."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.commands import FLOWS, find_command, read_flow, read_words
from mhim_core.types import ExitCode

ROOT = Path(__file__).parents[2]
DOCUMENTS = ("docs/operations.md", "README.md", "ray_cluster.yaml", "deploy/kubernetes/raycluster.yaml")
_VARIABLE = re.compile(r"[A-Z_]+=")


def shown_commands() -> Iterator[tuple[str, list[str]]]:
    """(document, words after mhim) of every command in an indented or commented block."""
    for document in DOCUMENTS:
        is_text = document.endswith(".md")
        text = (ROOT / document).read_text().replace("\\\n", " ")
        if document == "README.md":
            text = text.partition("\n## On a cluster\n")[2].partition("\n## ")[0]
        for line in text.splitlines():
            block = line.removeprefix("    ") if is_text else line.removeprefix("#   ")
            if block == line or "mhim " not in block:
                continue
            words = shlex.split(block, comments=True)
            while words and _VARIABLE.match(words[0]):
                words = words[1:]
            if words[:1] == ["mhim"]:
                words = words[1:]
                ends = [words.index(end) for end in ("|", "&&", "&") if end in words]
                yield document, words[: min(ends, default=None)]


COMMANDS = [command for command in shown_commands() if "…" not in " ".join(command[1]) and command[1]]


def shown(value: object) -> str:
    return value if isinstance(value, str) else " ".join(map(str, value))  # type: ignore[call-overload]


@pytest.mark.parametrize(("document", "words"), COMMANDS, ids=shown)
def test_a_shown_command_is_read_with_all_its_words(
    document: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("")
    name = find_command(words)
    config = read_words(name, words[len(name.split()) :])
    if FLOWS[name].wraps_flow:
        extra = [f"registry={config.registry}"] if name == "schedule add" and config.flow == "retrain" else []
        read_flow(config.flow, [*config.overrides, *extra])


def test_the_runbook_shows_every_command_of_the_cluster_and_of_models() -> None:
    shown = {find_command(words) for document, words in COMMANDS if document == "docs/operations.md"}
    groups = ("submit", "jobs ", "flow ", "schedule ", "model ", "pipeline", "retrain", "predict")
    wanted = {name for name in FLOWS if name.startswith(groups)}
    wrapped = {words[1] for _, words in COMMANDS if words[0] == "submit"}
    assert wanted <= shown | wrapped


def test_the_runbook_says_what_to_do_at_every_exit_code() -> None:
    text = (ROOT / "docs/operations.md").read_text()
    for code in set(ExitCode) - {ExitCode.DRIFT}:  # no command watches for drift
        assert f"\n| {code.value} |" in text


def test_the_files_that_the_runbook_names_are_there() -> None:
    text = (ROOT / "docs/operations.md").read_text() + (ROOT / "README.md").read_text()
    for name in ("ray_cluster.yaml", "deploy/Dockerfile", "deploy/kubernetes/raycluster.yaml", "constraints.txt"):
        assert name in text
        assert (ROOT / name).is_file()
