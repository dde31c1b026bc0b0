"""`opsqueue-api`: reads options and OPSQUEUE_* variables, checks Redis and the store, serves.

Exit codes: 0 after SIGTERM or Ctrl-C, 2 wrong options, 3 Redis, store or port is not available.
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NoReturn

import click

from opsqueue import config
from opsqueue.exceptions import (
    ConnectionTroubleError,
    FormatTooNewError,
    IncorrectUsageError,
    InvalidArgumentError,
)
from opsqueue.model.new_submission import (
    INLINE_BYTES,
    MAX_CHUNKS,
    MAX_METADATA_BYTES,
)
from opsqueue.model.version import __version__
from opsqueue.queue.connection import check, connect, masked
from opsqueue.queue.durability import Durability, check_durability
from opsqueue.queue.store_identity import identify_store
from opsqueue.store import open_store
from opsqueue.tracing.logs import set_up_logging
from opsqueue_api.http.hosts import AllowedHosts, is_name
from opsqueue_api.http.request_ids import add_request_id
from opsqueue_api.http.settings import (
    METRICS_FOLDER,
    MULTIPROCESS_DIR,
    Limits,
    Settings,
)
from opsqueue_api.http.tokens import FORM, Scope, Token, parse_tokens

EXIT_UNAVAILABLE: Final = 3
_DEFAULTS: Final = Settings(store_url="")
_LIMITS: Final = _DEFAULTS.limits

_EPILOG: Final = """\b
Examples:
  opsqueue-api --store-url file:///var/lib/opsqueue
  opsqueue-api --redis-url redis://:secret@redis:6379/0 --store-url s3://bucket/prefix -p 8080
  OPSQUEUE_STORE_URL=file:///tmp/store OPSQUEUE_API_THREADS=64 opsqueue-api
\b
Then:
  curl http://127.0.0.1:3999/readyz
  curl --json '{"operations": [1, 2, 3], "chunk_size": 2}' \\
      http://127.0.0.1:3999/v1/queues/default/submissions
\b
Tokens are read from the environment or a file. Without tokens, everybody who can reach the
port can do everything:
  OPSQUEUE_API_TOKENS='web:SECRET:produce@emails,images;ops:SECRET:admin' opsqueue-api ...
  curl -H "authorization: Bearer SECRET" http://127.0.0.1:3999/v1/queues/emails
"""


@click.command(
    cls=config.Program,
    context_settings={
        "auto_envvar_prefix": "OPSQUEUE_API",
        "help_option_names": ["-h", "--help"],
        "show_default": True,
        "max_content_width": 100,
    },
    epilog=_EPILOG,
)
@config.REDIS_URL()
@config.STORE_URL(required=True)
@click.option(
    "--host",
    default=_DEFAULTS.host,
    help="Address to listen on. An address that other machines can reach needs tokens or "
    "--insecure.",
)
@config.PORT()
@click.option(
    "--tokens",
    default="",
    show_default=False,
    metavar="TOKENS",
    help=f"Tokens of the form {FORM}, separated by semicolons. Scopes are {', '.join(Scope)}. Use "
    "the variable: everybody on the machine can see command lines.",
)
@click.option(
    "--tokens-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with further tokens, one on each line. It is read at the start.",
)
@click.option(
    "--insecure",
    is_flag=True,
    help="Allow any address to listen on without tokens.",
)
@click.option(
    "--allowed-hosts",
    multiple=True,
    show_default=False,
    metavar="NAMES",
    help="Names that requests may be sent to when there are no tokens, beside localhost, IP "
    "addresses and --host. Separate them by commas, or repeat the option. *.example.com allows all "
    "names below example.com, * allows all names.",
)
@click.option(
    "--threads",
    type=click.IntRange(2, 1_000),
    default=_DEFAULTS.threads,
    help="Requests that each process answers at the same time. Up to three quarters of them may be "
    "long polls.",
)
@click.option(
    "-w",
    "--workers",
    type=click.IntRange(1, 100),
    default=_DEFAULTS.workers,
    help="Number of processes.",
)
@click.option(
    "--max-body-bytes",
    type=click.IntRange(1),
    default=_LIMITS.body_bytes,
    help="Maximum size of a request's body in bytes, after decompression.",
)
@click.option(
    "--max-chunk-bytes",
    type=click.IntRange(1_024, 1 << 30),
    default=_LIMITS.chunk_bytes,
    help="Maximum size in bytes, before compression, of a chunk that is decoded at once, which are "
    "operations as JSON and encoded results that are reported. Result streams decode larger chunks "
    "piece by piece.",
)
@config.MAX_LINE_BYTES(help="Maximum size of a line of an NDJSON body in bytes.")
@click.option(
    "--max-operations",
    type=click.IntRange(1),
    default=_LIMITS.operations,
    help="Maximum number of operations in a body.",
)
@click.option(
    "--max-body-chunks",
    type=click.IntRange(1),
    default=_LIMITS.body_chunks,
    help="Maximum number of chunks that are cut from a body.",
)
@click.option(
    "--max-chunks",
    type=click.IntRange(1, MAX_CHUNKS),
    default=_LIMITS.chunks,
    help="Maximum number of chunks of a submission whose chunks are uploaded already. Each takes a "
    "bit of Redis's memory.",
)
@click.option(
    "--max-metadata-bytes",
    type=click.IntRange(0, MAX_METADATA_BYTES),
    default=_LIMITS.metadata_bytes,
    help="Maximum size of a submission's metadata in bytes.",
)
@click.option(
    "--inline-bytes",
    type=click.IntRange(0, INLINE_BYTES),
    default=_LIMITS.inline_bytes,
    help="Submissions whose chunks have at most this many bytes together are kept in Redis instead "
    "of the store. 0 puts all of them into the store.",
)
@config.HEARTBEAT_TIMEOUT(
    help="Seconds without a heartbeat after which a consumer over HTTP counts as dead, unless it "
    "asks for another time."
)
@config.with_default_options
@config.DURABILITY()
@config.LOG_LEVEL()
@config.LOG_FORMAT()
@click.option(
    "--access-log/--no-access-log", default=False, help="Write a line to stdout for each request."
)
@config.version_option("opsqueue-api")
def main(**options: Any) -> None:  # noqa: ANN401 _settings_of gives each its type
    """Serve the HTTP API and the dashboard."""
    settings = _settings_of(options)
    set_up_logging(settings.log_level, settings.log_format, add_request_id)
    warnings = _check_outside(settings)
    if not settings.tokens and not is_loopback(settings.host):
        warnings.append(_no_tokens(settings))
    config.say(f"opsqueue-api {__version__}")
    config.say(f"redis  {masked(settings.redis_url)}")
    config.say(f"store  {_masked_store(settings.store_url)}")
    for warning in warnings:
        config.say(f"warning: {warning}")
    if settings.workers > 1 and MULTIPROCESS_DIR not in os.environ:
        _remove_dead_metrics()
        os.environ[MULTIPROCESS_DIR] = _make_metrics_folder()
    # Imported here because importing gunicorn takes longer than `--help` should.
    from opsqueue_api.server import Server  # noqa: PLC0415

    Server(settings).run()


config.name_variables(main)


def _make_metrics_folder() -> str:
    """Create a folder that is locked as long as this process or a child of it runs."""
    while True:
        folder = tempfile.mkdtemp(prefix=METRICS_FOLDER)
        lock = os.open(folder, os.O_RDONLY)
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if Path(folder).exists():
                return folder
        os.close(lock)  # another API has just removed it, taking its process for dead


def _remove_dead_metrics() -> None:
    """Remove the folders of APIs that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{METRICS_FOLDER}*"):
        with suppress(OSError):  # another user's, in use, or gone meanwhile
            lock = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(lock)


def settings_of_environment() -> Settings:
    """Return the settings that `opsqueue-api` would read without arguments.

    Raises:
        click.UsageError: a variable is missing or wrong, or tokens are missing; the message names
            it.
    """
    with main.make_context("opsqueue-api", []) as context:
        return _settings_of(context.params)


def _settings_of(options: dict[str, Any]) -> Settings:
    tokens = _tokens_of(options["tokens"], options["tokens_file"])
    if not tokens and not options["insecure"] and not is_loopback(options["host"]):
        message = (
            f"refusing to listen on {options['host']!r} without tokens, since everybody who "
            f"reaches it could use every queue: set OPSQUEUE_API_TOKENS ({FORM}) or --tokens-file; "
            "or pass --insecure (OPSQUEUE_API_INSECURE=true) if something else restricts access"
        )
        raise click.UsageError(message)
    allowed_hosts = _allowed_hosts_of(options["allowed_hosts"], options["host"])
    return Settings(
        redis_url=options["redis_url"],
        store_url=options["store_url"],
        host=options["host"],
        port=options["port"],
        threads=options["threads"],
        workers=options["workers"],
        tokens=tokens,
        allowed_hosts=allowed_hosts,
        log_level=options["log_level"],
        log_format=options["log_format"],
        has_access_log=options["access_log"],
        heartbeat_timeout_s=options["heartbeat_timeout"],
        durability=Durability(options["durability"]),
        defaults=config.default_options(options),
        limits=Limits(
            body_bytes=options["max_body_bytes"],
            chunk_bytes=options["max_chunk_bytes"],
            line_bytes=options["max_line_bytes"],
            operations=options["max_operations"],
            body_chunks=options["max_body_chunks"],
            chunks=options["max_chunks"],
            metadata_bytes=options["max_metadata_bytes"],
            inline_bytes=options["inline_bytes"],
        ),
    )


def _no_tokens(settings: Settings) -> str:
    names = ", ".join(dict.fromkeys(("localhost", *settings.allowed_hosts)))
    return (
        f"no tokens: everybody who reaches {settings.host} can use every queue; requests may be "
        f"sent to its IP addresses and to {names}, and to other names only with --allowed-hosts"
    )


def _allowed_hosts_of(given: Sequence[str], host: str) -> tuple[str, ...]:
    names = tuple(name for text in given for name in re.split(r"[,\s]+", text) if name)
    try:
        AllowedHosts(names)
    except InvalidArgumentError as exc:
        message = f"--allowed-hosts (OPSQUEUE_API_ALLOWED_HOSTS): {exc}"
        raise click.UsageError(message) from exc
    return (host, *names) if is_name(host) else names


def _tokens_of(text: str, file: Path | None) -> tuple[Token, ...]:
    given = [("OPSQUEUE_API_TOKENS", text)] if text else []
    if file is not None:
        try:
            given.append((str(file), file.read_text()))
        except (OSError, UnicodeDecodeError) as exc:
            message = f"can't read the tokens' file {file}: {getattr(exc, 'strerror', 'no UTF-8')}"
            raise click.UsageError(message) from exc
    # Each is parsed alone first, so that the error names its place. Then both together, since
    # names and secrets must differ across them.
    if len(given) > 1:
        places, texts = zip(*given, strict=True)
        given.append((" and ".join(places), "\n".join(texts)))
    tokens: tuple[Token, ...] = ()
    for place, one in given:
        try:
            tokens = parse_tokens(one)
        except InvalidArgumentError as exc:
            message = f"{place}: {exc}"
            raise click.UsageError(message) from exc
    return tokens


def is_loopback(host: str) -> bool:
    """Return whether an address is reachable from this machine only."""
    try:
        found = [entry[4][0] for entry in socket.getaddrinfo(host or None, None)]
    except (OSError, UnicodeError):
        return False
    return bool(host) and all(ipaddress.ip_address(one).is_loopback for one in found)


def _check_outside(settings: Settings) -> list[str]:
    """Check Redis, the store and the address at start; return warnings.

    Otherwise the first request would fail.
    """
    try:
        client = connect(settings.redis_url)
        store = open_store(settings.store_url)
        warnings = check(client, url=settings.redis_url)
        warnings += check_durability(client, settings.durability, url=settings.redis_url)
        identify_store(client, store)
        store.check()
    except IncorrectUsageError as exc:
        raise click.UsageError(str(exc)) from exc
    except (ConnectionTroubleError, FormatTooNewError) as exc:
        _give_up(str(exc))
    client.close()
    store.close()
    _check_address(settings.host, settings.port)
    if settings.store_url.startswith("memory:"):
        warnings.append("memory:// is lost when this process ends, and no worker can read it")
    return warnings


def _check_address(host: str, port: int) -> None:
    # gunicorn would try five times and then print its own message.
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as exc:
        _give_up(
            f"can't listen on {host}:{port} ({exc.strerror}): is another opsqueue-api running? "
            "Choose another address with --host and --port"
        )


def _masked_store(url: str) -> str:
    return url.partition("?")[0]


def _give_up(message: str) -> NoReturn:
    config.say(f"error: {message}")
    sys.exit(EXIT_UNAVAILABLE)
