"""Our commands as pages write them: which options they name, and whether those exist."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click

from opsqueue.cli.commands import main as opsqueue
from opsqueue_api.cli import main as opsqueue_api
from opsqueue_worker.cli import main as opsqueue_worker

PROGRAMS: dict[str, click.Command] = {
    "opsqueue": opsqueue,
    "opsqueue-api": opsqueue_api,
    "opsqueue-worker": opsqueue_worker,
}
_BLOCK = re.compile(r"^```(?:sh|ini|yaml|dockerfile)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
# Up to what ends a command of the shell, or begins a comment.
_CALL = re.compile(r"(?:^|[\s=($/])(opsqueue(?:-api|-worker)?(?: [^\n|;&)#]*)?)(?=$|[\n|;&)#])")


def calls_in(page: str) -> Iterator[list[str]]:
    """Give the words of each call in a page's blocks."""
    for block in _BLOCK.findall(page):
        for line in block.replace("\\\n", " ").splitlines():
            for call in _CALL.findall(_QUOTED.sub("QUOTED", line)):
                yield call.split()


def problem_of(call: list[str]) -> str:
    """Say which option the command lacks; "" when it has all."""
    name, *words = call
    command = PROGRAMS[name]
    while isinstance(command, click.Group) and words and words[0] in command.commands:
        word, *words = words
        command, name = command.commands[word], f"{name} {word}"
    known = {*_options_of(command), "--help", "-h"}
    for word in words:
        option = word.partition("=")[0]
        if option.startswith("-") and option != "-" and option not in known:
            return f"{name} has no {option}"
    return ""


def all_options() -> set[str]:
    """Of all commands together."""
    found: set[str] = {"--help", "-h"}
    commands = list(PROGRAMS.values())
    for command in commands:
        found |= _options_of(command)
        if isinstance(command, click.Group):
            commands += command.commands.values()
    return found


def _options_of(command: click.Command) -> set[str]:
    return {name for p in command.params for name in (*p.opts, *p.secondary_opts)}
