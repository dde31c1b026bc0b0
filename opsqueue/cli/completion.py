"""`opsqueue completion`: prints the script by which a shell completes commands and queues."""

from __future__ import annotations

from typing import Final

import click
from click.shell_completion import get_completion_class

PROGRAM: Final = "opsqueue"
VARIABLE: Final = "_OPSQUEUE_COMPLETE"
_EPILOG: Final = """
\b
For one session:
  source <(opsqueue completion bash)
\b
For all:
  opsqueue completion bash > ~/.local/share/bash-completion/completions/opsqueue
  opsqueue completion zsh > ~/.zfunc/_opsqueue      # ~/.zfunc being in $fpath before compinit
  opsqueue completion fish > ~/.config/fish/completions/opsqueue.fish
\b
Names of queues are completed, too, where the API (OPSQUEUE_API_URL) answers within a second.
"""


@click.command(epilog=_EPILOG)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, *, shell: str) -> None:
    """Print the script that makes SHELL complete `opsqueue`."""
    found = get_completion_class(shell)
    if found is None:
        message = f"no completion for {shell}"
        raise AssertionError(message)
    click.echo(found(context.find_root().command, {}, PROGRAM, VARIABLE).source())
