"""The `opsqueue` command: the group of all commands, each of which is in a module of its own.

Exit codes: 0 done, 1 failed or the answer is no, 2 wrong usage, 3 something can't be reached,
130 Ctrl-C.
"""

from __future__ import annotations

import click

from opsqueue import config
from opsqueue.cli.acl import acl
from opsqueue.cli.completion import completion
from opsqueue.cli.defaults import defaults, retention
from opsqueue.cli.demo import demo
from opsqueue.cli.dev import dev
from opsqueue.cli.doctor import doctor
from opsqueue.cli.group import Commands
from opsqueue.cli.limits import limits
from opsqueue.cli.orphans import orphans
from opsqueue.cli.partitions import partitions
from opsqueue.cli.queues import pause, queues, resume, workers
from opsqueue.cli.rebuild import rebuild_
from opsqueue.cli.repair import repair_
from opsqueue.cli.results import errors, results
from opsqueue.cli.submissions import cancel, list_, retry, show
from opsqueue.cli.submit import submit
from opsqueue.cli.top import top
from opsqueue.cli.upgrade import upgrade

_EPILOG = """
\b
Examples:
  opsqueue demo                    run a real batch on this machine, in under a minute
  opsqueue dev tasks:app           run server, API and workers for your app, until Ctrl-C
  opsqueue submit emails in.jsonl --chunk-size 100 --wait --output out.jsonl
  opsqueue defaults set emails --max-attempts 3 --retention 7d
  opsqueue list emails --state failed --since 2h

\b
Environment: each option has a variable, which is named in the help of its command. Many
commands read OPSQUEUE_API_URL, OPSQUEUE_API_TOKEN, OPSQUEUE_REDIS_URL and OPSQUEUE_STORE_URL.

\b
Exit codes:
    0  done
    1  something failed, or the answer is no
    2  the command line is wrong
    3  Redis, the API or the store can't be reached
  130  interrupted by Ctrl-C

\b
The other programs: opsqueue-worker runs an app's handlers, opsqueue-api serves the HTTP API.
"""

_SECTIONS = {
    "Submissions": (submit, list_, show, results, errors, cancel, retry),
    "Queues": (queues, workers, pause, resume, limits, defaults, retention, partitions, top),
    "Set-up": (doctor, acl, orphans, repair_, rebuild_, upgrade, demo, dev, completion),
}


@click.group(
    cls=Commands,
    sections=_SECTIONS,
    epilog=_EPILOG,
    context_settings={
        "auto_envvar_prefix": "OPSQUEUE",
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
    },
)
@config.version_option("opsqueue")
def main() -> None:
    """Submit work to opsqueue, follow it, and operate queues."""


config.name_variables(main)
