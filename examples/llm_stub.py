"""A stand-in for an LLM's API, for llm.py: slow, unreliable, with a rate limit.

    python llm_stub.py 8080

`POST /` takes {"question"} and returns {"answer"} after 0.2 s. It answers 429 beyond 100 calls a
second and a burst of 20, 500 occasionally, and 500 to the first five calls with a question that
ends in "!". `GET /` returns statistics.
"""

import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TAKES_S = 0.2
CALLS_A_SECOND = 100
BURST = 20
FAILS_FOR_FIRST = 5

lock = threading.Lock()
seen: Counter[str] = Counter()
questions: Counter[str] = Counter()
refills = {"at": time.monotonic(), "calls": float(BURST)}
chance = random.Random(1)


class Llm(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["content-length"])))["question"]
        with lock:
            seen["at_once"] += 1
            seen["most_at_once"] = max(seen["most_at_once"], seen["at_once"])
            status = self.status_of(question)
            seen[str(status)] += 1
        time.sleep(TAKES_S)
        with lock:
            seen["at_once"] -= 1
        self.give(status, {"answer": question[::-1]} if status == 200 else {"error": "try later"})

    def status_of(self, question: str) -> int:
        now = time.monotonic()
        calls = min(BURST, refills["calls"] + (now - refills["at"]) * CALLS_A_SECOND)
        refills.update(at=now, calls=max(0, calls - 1))
        if calls < 1:
            return 429
        questions[question] += 1
        is_hard = question.endswith("!") and questions[question] <= FAILS_FOR_FIRST
        return 500 if is_hard or chance.random() < 0.05 else 200

    def do_GET(self) -> None:
        self.give(200, seen)

    def give(self, status: int, body: Mapping[str, object]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        if status == 429:
            self.send_header("retry-after", "0.2")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Suppress the line for each call."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


if __name__ == "__main__":
    server = Server(("127.0.0.1", int(sys.argv[1])), Llm)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
