"""Insert `range(NUMBER)` through an API, and print the submission's id."""

import sys

from opsqueue.producer import ProducerClient

api_url, store_url, queue, number = sys.argv[1:]
with ProducerClient(api_url, store_url, queue=queue) as producer:
    print(producer.insert_submission(range(int(number)), chunk_size=1))  # noqa: T201 for the test
