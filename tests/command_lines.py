"""Commands in pages of documentation, and a check that their options exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

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
    """Return the words of each call in a page's blocks."""
    for block in _BLOCK.findall(page):
        for line in block.replace("\\\n", " ").splitlines():
            for call in _CALL.findall(_QUOTED.sub("QUOTED", line)):
                yield call.split()


def problem_of(call: list[str]) -> str:
    """Return the option that the command lacks; "" if it has all."""
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


@dataclass(frozen=True)
class Declared:
    """An option of a command."""

    command: str
    option: click.Option
    variable: str

    @property
    def program(self) -> str:
        return self.command.partition(" ")[0]


def declared() -> Iterator[Declared]:
    """Return every option of every command, with the variable that it reads."""
    commands = [
        (name, command, str(command.context_settings["auto_envvar_prefix"]))
        for name, command in PROGRAMS.items()
    ]
    for path, command, prefix in commands:
        for option in command.params:
            if isinstance(option, click.Option):
                own = f"{prefix}_{option.name}".upper()
                yield Declared(path, option, str(option.envvar or own))
        if isinstance(command, click.Group):
            commands += [
                (f"{path} {name}", below, f"{prefix}_{name}".replace("-", "_").upper())
                for name, below in command.commands.items()
            ]


def all_options() -> set[str]:
    """Of all commands together."""
    names = {name for one in declared() for name in (*one.option.opts, *one.option.secondary_opts)}
    return {"--help", "-h"} | names


def _options_of(command: click.Command) -> set[str]:
    return {name for p in command.params for name in (*p.opts, *p.secondary_opts)}
