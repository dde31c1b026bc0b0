"""An asynchronous handler, and a producer that never blocks its event loop.

    opsqueue dev asynchronous:app
    python asynchronous.py http://127.0.0.1:3999 STORE_URL

With `opsqueue-worker asynchronous:app --pool async -c 50` one child process runs many chunks at the
same time, for handlers that mostly wait.
"""

import asyncio
import sys
from collections.abc import AsyncIterator

from opsqueue import Opsqueue
from opsqueue.producer import ProducerClient

app = Opsqueue()


@app.operation_handler("names", concurrency=10)
async def greet(name: str) -> str:
    await asyncio.sleep(0.01)  # a database, another service
    return f"Hello {name}!"


async def names(prefix: str) -> AsyncIterator[str]:
    """Yield the operations, which may come from an asynchronous source, too."""
    for number in range(20):
        await asyncio.sleep(0)
        yield f"{prefix}-{number}"


async def greetings(producer: ProducerClient, prefix: str) -> list[str]:
    results = await producer.async_run_submission(names(prefix), chunk_size=5)
    return [result async for result in results]


async def main() -> None:
    api_url, store_url = sys.argv[1:]
    with ProducerClient(api_url, store_url, queue="names") as producer:
        # Three submissions at once, on one event loop.
        for some in await asyncio.gather(*(greetings(producer, prefix) for prefix in "abc")):
            print(some[0], "...", some[-1])

        # Results as they come, whichever chunk is done first.
        submission_id = await producer.async_insert_submission(names("d"), chunk_size=1)
        coming = await producer.async_iter_results(submission_id, ordered=False)
        print(len([result async for result in coming]), "more as they came")


if __name__ == "__main__":
    asyncio.run(main())
