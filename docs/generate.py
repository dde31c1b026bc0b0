"""Write the pages that are made from the code: `python -m docs.generate`.

docs/options.md has every option of the three programs, as click knows it; docs/exceptions.md has
every exception with its docstring. A test fails when a page is out of date.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import click

from opsqueue import exceptions
from opsqueue.cli.commands import main as opsqueue
from opsqueue_api.cli import main as opsqueue_api
from opsqueue_worker.cli import main as opsqueue_worker

FOLDER: Final = Path(__file__).parent
PROGRAMS: Final = {
    "opsqueue-worker": opsqueue_worker,
    "opsqueue-api": opsqueue_api,
    "opsqueue": opsqueue,
}
_DEFAULT: Final = re.compile(r"\s*\[(default: )?(?P<default>[^\[]*)\]$")
_OPTIONS: Final = """\
# Options

<!-- made by python -m docs.generate -->

Every option of the three programs. Each has a variable, which the command line overrules. The
programs also heed the variables of their libraries: `AWS_…` and `GOOGLE_…` of the object stores'
SDKs, `OTEL_…` of OpenTelemetry ([tracing.md](tracing.md)), `SSL_CERT_FILE` of clients.
"""
_EXCEPTIONS: Final = """\
# Exceptions

<!-- made by python -m docs.generate -->

All are in `opsqueue.exceptions`. Catch the most special one that you can handle; `OpsqueueError`
is the base of all. Attributes hold the data, and the message says what happened and what helps.
[api/README.md](../api/README.md#errors) has what the HTTP API answers instead.

## The tree

```text
{tree}
```
"""


def options_page() -> str:
    """Return docs/options.md."""
    sections = [_OPTIONS]
    for name, command in PROGRAMS.items():
        sections += _sections_of(name, command, str(command.context_settings["auto_envvar_prefix"]))
    return "\n".join(sections)


def _sections_of(path: str, command: click.Command, prefix: str) -> Iterator[str]:
    level = "##" if " " not in path else "###"
    arguments = " ".join(_argument(p) for p in command.params if isinstance(p, click.Argument))
    usage = f"`{path}{' ' + arguments if arguments else ''}`"
    about = inspect.cleandoc(command.help or "").replace("\b\n", "")
    rows = [_row(one, prefix) for one in command.params if _is_listed(one)]
    table = ["| option | variable | default | |", "|---|---|---|---|", *rows] if rows else []
    heading = f"{level} {path}\n\n{usage}\n\n{about}\n"
    yield heading + ("\n" + "\n".join(table) + "\n" if table else "")
    if isinstance(command, click.Group):
        with click.Context(command) as context:
            for name in command.list_commands(context):
                below = f"{prefix}_{name}".replace("-", "_").upper()
                yield from _sections_of(f"{path} {name}", command.commands[name], below)


def _argument(argument: click.Parameter) -> str:
    name = argument.make_metavar(click.Context(click.Command("none")))
    return name.replace("|", "\\|")


def _is_listed(parameter: click.Parameter) -> bool:
    return isinstance(parameter, click.Option) and parameter.name != "version"


def _row(option: click.Parameter, prefix: str) -> str:
    if not isinstance(option, click.Option):
        raise TypeError(option)
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    variable = str(option.envvar or f"{prefix}_{option.name}".upper())
    about = " ".join((option.help or "").split())
    found = _DEFAULT.search(about)
    about = _DEFAULT.sub("", about)
    default = found["default"] if found else _default_of(option)
    cells = [names + _values_of(option), f"`{variable}`", default, about]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _values_of(option: click.Option) -> str:
    if isinstance(option.type, click.Choice):
        return " " + "\\|".join(map(str, option.type.choices)).replace("\\|", "/")
    return ""


def _default_of(option: click.Option) -> str:
    if option.required:
        return "required"
    if isinstance(option.show_default, str):
        return option.show_default
    default = option.to_info_dict()["default"]
    if default in (None, "", ()) or default is False:
        return ""
    return f"`{default}`" if not isinstance(default, float) else f"`{default:g}`"


def exceptions_page() -> str:
    """Return docs/exceptions.md."""
    about = inspect.cleandoc(exceptions.__doc__ or "")
    # Between the first line, which is the summary, and the paragraph about all of them.
    tree = textwrap.dedent(about.partition("\n")[2].partition("\n\nAttributes")[0]).strip("\n")
    classes = [getattr(exceptions, name) for name in exceptions.__all__]
    own = {one.__name__: one for one in classes}  # a second name of a class is left out
    parts = [_EXCEPTIONS.format(tree=tree.rstrip()), "## Each of them\n"]
    for name, kind in sorted(own.items()):
        bases = ", ".join(f"`{base.__name__}`" for base in _public_bases(kind))
        text = _as_markdown(inspect.cleandoc(kind.__doc__ or ""))
        parts.append(f"### {name}\n\nA subclass of {bases}. {text}\n")
    names = sorted(set(exceptions.__all__) - own.keys())
    parts.append(_second_names(names))
    return "\n".join(parts)


def _public_bases(kind: type) -> Iterator[type]:
    for base in kind.__bases__:
        if base.__name__.startswith("_"):
            yield from _public_bases(base)
        else:
            yield base


def _as_markdown(docstring: str) -> str:
    return docstring.replace("*", "\\*")


def _second_names(names: list[str]) -> str:
    rows = [f"| `{name}` | `{getattr(exceptions, name).__name__}` |" for name in names]
    head = "## Other names\n\nFor programs that name them:\n\n| name | is |\n|---|---|\n"
    return head + "\n".join(rows) + "\n"


PAGES: Final[dict[str, Callable[[], str]]] = {
    "options.md": options_page,
    "exceptions.md": exceptions_page,
}


def main() -> None:
    """Write them."""
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page())


if __name__ == "__main__":
    main()
