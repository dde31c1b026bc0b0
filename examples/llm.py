"""Ask an LLM many questions: 50 calls at a time, with retries, a back-off and collected errors.

    python llm_stub.py 8080                                    # in place of a real one
    LLM_URL=http://127.0.0.1:8080 opsqueue dev llm:app -c 1
    python llm.py http://127.0.0.1:3999 STORE_URL

The handler tries each call a few times. A call that still fails becomes its operation's error; the
other operations of the chunk keep their answers, which may have cost money. Then only the failed
operations are retried.
"""

import asyncio
import os
import random
import sys

import httpx

from opsqueue import Opsqueue
from opsqueue.producer import OperationFailed, ProducerClient

TRIES = 4
app = Opsqueue()
clients: list[httpx.AsyncClient] = []


@app.on_worker_start
def connect() -> None:
    limits = httpx.Limits(max_connections=50)
    clients.append(httpx.AsyncClient(base_url=os.environ["LLM_URL"], limits=limits, timeout=30))


@app.operation_handler("questions", concurrency=50, on_error="collect", time_limit=300)
async def ask(question: str) -> str:
    tried = 0
    async with asyncio.timeout(60):
        while True:
            response = await clients[0].post("/", json={"question": question})
            if response.status_code == 429:
                # It is not a failure: the answer says when to try again. The pauses differ.
                pause_s = float(response.headers["retry-after"])
                await asyncio.sleep(pause_s * random.uniform(1, 2))
                continue
            tried += 1
            if response.status_code < 500 or tried == TRIES:
                response.raise_for_status()
                answer: str = response.json()["answer"]
                return answer
            await asyncio.sleep(0.05 * 2**tried * random.random())


def main() -> None:
    api_url, store_url = sys.argv[1:]
    questions = [f"question {n}{'!' if n % 25 == 0 else '?'}" for n in range(100)]
    with ProducerClient(api_url, store_url, queue="questions") as producer:
        # If more than a fifth fail, something is wrong with all of them, so the submission fails.
        submission_id = producer.insert_submission(
            questions, chunk_size=100, max_failed_operations=0.2
        )
        answers = list(producer.iter_results(submission_id, errors="yield"))
        failed = [answer for answer in answers if isinstance(answer, OperationFailed)]
        print(f"{len(answers) - len(failed)} answers")
        for error in failed:
            print(f"{questions[error.index]}: {error.message.splitlines()[0]}")

        if failed:
            # A new submission of only the failed operations, in order.
            retry_id = producer.retry_submission(submission_id, only="failed")
            retried = producer.iter_results(retry_id, errors="yield")
            for error, answer in zip(failed, retried, strict=True):
                answers[error.index] = answer
        left = sum(isinstance(answer, OperationFailed) for answer in answers)
        print(f"{len(answers) - left} answers after the retry, {left} failed again")


if __name__ == "__main__":
    main()
