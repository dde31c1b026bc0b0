"""Capitalize a text: each line is an operation, and the producer reads the results in order.

    opsqueue dev capitalize:app
    python capitalize.py http://127.0.0.1:3999 STORE_URL < some.txt

`opsqueue dev` prints the store's URL.
"""

import sys

from opsqueue import Opsqueue
from opsqueue.producer import ProducerClient

app = Opsqueue()


@app.chunk_handler("lines")
def capitalize(lines: list[str]) -> list[str]:
    """Process a whole chunk; return one result for each operation, in the same order."""
    return [line.upper() for line in lines]


def main() -> None:
    api_url, store_url = sys.argv[1:]
    with ProducerClient(api_url, store_url, queue="lines") as producer:
        # Any iterable will do: the file is never in memory as a whole.
        for line in producer.run_submission(sys.stdin, chunk_size=100):
            sys.stdout.write(line)


if __name__ == "__main__":
    main()
