"""Options that name the API, Redis and the object store, and the clients made from them.

Commands use the HTTP API, or Redis directly if only that is given; contents come from the object
store. Each decorator here adds its options to a command and passes it the client for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, Final

import click
from click.core import ParameterSource

from opsqueue import config
from opsqueue.cli.tables import say
from opsqueue.exceptions import RedisUnavailableError
from opsqueue.producer.backends import Backend
from opsqueue.producer.http_api import HttpBackend
from opsqueue.producer.redis_api import RedisBackend
from opsqueue.queue.connection import connect
from opsqueue.queue.durability import Durability, check_durability
from opsqueue.store import open_store

DEFAULT_API_URL: Final = f"http://127.0.0.1:{config.PORT.default}"

Command = Callable[..., None]

_api_url = click.option(
    "--api-url",
    envvar="OPSQUEUE_API_URL",
    metavar="URL",
    help=f"URL of opsqueue-api.  [default: {DEFAULT_API_URL}]",
)
_token = click.option(
    "--token",
    envvar="OPSQUEUE_API_TOKEN",
    metavar="SECRET",
    help="Token for the API. Use the variable: everybody on the machine can see command lines.",
)
_redis_url = config.REDIS_URL(
    default=None,
    help="Ask this Redis instead of the API. If both are given, the command line goes before the "
    "environment, and then the API before Redis.",
)
as_json = click.option(
    "--json", "as_json", envvar="OPSQUEUE_JSON", is_flag=True, help="Print JSON."
)


durability_option = config.DURABILITY(
    help="What an insert waits for when Redis is asked directly: fsync waits for its disk, replica "
    "for a replica. An API decides this itself.",
)


def with_api(command: Command) -> Command:
    """Pass `api`, made from the options for API and Redis; honours `durability_option`."""

    @_redis_url
    @_token
    @_api_url
    @wraps(command)
    def run(
        *,
        api_url: str | None,
        token: str | None,
        redis_url: str | None,
        durability: str = Durability.NONE.value,
        **options: Any,  # noqa: ANN401 the command types them
    ) -> None:
        context = click.get_current_context()
        preferred = preferred_redis_url(context, api_url, redis_url)
        source = context.get_parameter_source("durability")
        if preferred is None and source is ParameterSource.COMMANDLINE:
            message = "--durability needs --redis-url: an API has a durability of its own"
            raise click.UsageError(message)
        with open_api(api_url, token, preferred, durability=Durability(durability)) as api:
            command(api=api, **options)

    return run


def with_store(command: Command) -> Command:
    """Pass `store`."""

    @config.STORE_URL(required=True)
    @wraps(command)
    def run(*, store_url: str, **options: Any) -> None:  # noqa: ANN401 the command types them
        store = open_store(store_url)
        try:
            command(store=store, **options)
        finally:
            store.close()

    return run


def with_optional_store(command: Command) -> Command:
    """Pass `store_url`, for commands that do not always need the store."""
    return config.STORE_URL()(command)


def _with_redis_url(command: Command) -> Command:
    """Pass `redis_url`; if none was given and the default fails, the error says how to give one."""

    @config.REDIS_URL()
    @wraps(command)
    def run(*, redis_url: str, **options: Any) -> None:  # noqa: ANN401 the command types them
        try:
            command(redis_url=redis_url, **options)
        except RedisUnavailableError as exc:
            source = click.get_current_context().get_parameter_source("redis_url")
            if source is not ParameterSource.DEFAULT:
                raise
            message = (
                f"{exc} This command needs Redis itself: give --redis-url or set OPSQUEUE_REDIS_URL"
            )
            raise RedisUnavailableError(message) from exc

    return run


def with_redis(command: Command) -> Command:
    """Pass `client`, for commands that need Redis itself."""

    @_with_redis_url
    @wraps(command)
    def run(*, redis_url: str, **options: Any) -> None:  # noqa: ANN401 the command types them
        client = connect(redis_url)
        try:
            command(client=client, **options)
        finally:
            client.close()

    return run


def with_redis_and_store_urls(command: Command) -> Command:
    """Pass `redis_url` and `store_url`, for commands that need both and no API."""
    return _with_redis_url(config.STORE_URL(required=True)(command))


def with_urls(command: Command) -> Command:
    """Pass the options themselves, as `doctor` needs them; none is required."""
    return _api_url(_token(_redis_url(config.STORE_URL()(command))))


def preferred_redis_url(
    context: click.Context, api_url: str | None, redis_url: str | None
) -> str | None:
    """Return the URL of the Redis to use instead of the API; None: use the API."""
    if api_url is None or redis_url is None:
        return redis_url
    is_typed = {
        name: context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        for name in ("api_url", "redis_url")
    }
    return redis_url if is_typed["redis_url"] and not is_typed["api_url"] else None


@contextmanager
def open_api(
    api_url: str | None,
    token: str | None,
    redis_url: str | None,
    *,
    durability: Durability = Durability.NONE,
) -> Iterator[Backend]:
    """Yield a back end on Redis if its URL is given, else on the API; connects with the first call.

    With a durability, which is for Redis only, check first that the server can keep it.
    """
    if redis_url is not None:
        client = connect(redis_url)
        try:
            for warning in check_durability(client, durability, url=redis_url):
                say(f"warning: {warning}")
            yield RedisBackend(client, durability=durability)
        finally:
            client.close()
        return
    api = HttpBackend(api_url or DEFAULT_API_URL, token=token)
    try:
        yield api
    finally:
        api.close()
