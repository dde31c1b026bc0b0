"""One large customer and nine small ones compete for workers, under Oldest and PreferDistinct.

    python benchmarks/fairness.py
    python benchmarks/fairness.py --figure docs/fairness.svg
    python benchmarks/fairness.py --partitions 6

In a paused queue one customer's 10,000 chunks are submitted first, then those of nine customers
with 100 each. Then the queue is resumed. Two workers with four slots each run chunks that take 10
ms (asyncio.sleep, so that two cores suffice). Every 50 ms the reserved chunks of each customer are
counted.

The fair share: while ten customers have chunks left, each gets a tenth of the rate, so the nine are
done after 10 x 100 chunks at the rate of the run.

With --partitions, the large customer's chunks are in 50 submissions, which lie in all partitions,
and each small customer's are in one. PreferDistinct is measured without partitions, with them, and
with a partition for each customer's submissions. Where they lie is chance, so that runs differ.

Only --figure needs matplotlib (pip install matplotlib).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from opsqueue import Opsqueue
from opsqueue.cli.local_stack import LocalStack
from opsqueue.model.names import base_key
from opsqueue.model.submission import SubmissionId, SubmissionState
from opsqueue.producer import ProducerClient
from opsqueue.queue.connection import connect
from opsqueue.queue.queue import Queue
from report import Report

STRATEGIES = ("Oldest", "PreferDistinct(customer, Oldest)")
QUEUE = "fairness"
HANDLER_S, SAMPLE_S = 0.010, 0.05
WORKERS, SLOTS = 2, 4

app = Opsqueue()


@app.operation_handler(QUEUE)
async def wait(number: int) -> int:
    await asyncio.sleep(HANDLER_S)
    return number


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--large", type=int, default=10_000, help="chunks of the first customer")
    parser.add_argument("--small", type=int, default=100, help="chunks of each of the nine")
    parser.add_argument("--partitions", type=int, help="compare with so many partitions")
    parser.add_argument("--figure", type=Path, help="draw the samples there: .svg or .png")
    chosen = parser.parse_args()
    figure = chosen.figure and chosen.figure.resolve()

    os.chdir(Path(__file__).parent)  # workers find this file as a module
    report = Report("fairness", options=vars(chosen))
    report.say_where()
    report.say(f"{chosen.large:,} chunks of one customer, then {chosen.small} of each of nine")
    chunks = [chosen.large, *[chosen.small] * 9]
    if chosen.partitions:
        compare_partitions(report, chunks, chosen.partitions)
        return
    table = report.table(
        {
            "strategy": "`{strategy}`",
            "the nine done": "{nine_done_s:.1f} s",
            "fair share": "{fair_share_s:.1f} s",
            "the large one done": "{large_done_s:.1f} s",
            "rate": "{chunks_a_second:.0f} chunks a second",
        }
    )
    for strategy in STRATEGIES:
        table.add(measure(strategy, chunks))
    report.save()
    if figure:
        draw(table.rows, figure)


def compare_partitions(report: Report, chunks: list[int], partitions: int) -> None:
    table = report.table(
        {
            "partitions": "{partitions}",
            "the small ones done, in order": "{each_s} s",
            "fair share": "{fair_share_s:.1f} s",
            "small ones by partition": "{together}",
        }
    )
    for number, by_customer in ((1, False), (partitions, False), (partitions, True)):
        run = measure(
            STRATEGIES[1], chunks, partitions=number, large_in=50, by_customer=by_customer
        )
        each_s = " ".join(f"{done:.1f}" for done in sorted(run["done_s"][1:]))
        shown = f"{number}, by customer" if by_customer else f"{number}"
        table.add({**run, "partitions": shown, "each_s": each_s})


def measure(
    strategy: str,
    chunks: list[int],
    *,
    partitions: int = 1,
    large_in: int = 1,
    by_customer: bool = False,
) -> dict[str, Any]:
    """Run everything under a strategy; return when each customer was done, and the samples.

    Args:
        strategy: the workers' strategy.
        chunks: of each customer; the first one is the large one.
        partitions: of the queue.
        large_in: submissions that the large customer's chunks are divided into.
        by_customer: a customer's submissions lie in one partition.
    """
    with (
        tempfile.TemporaryDirectory(prefix="opsqueue-bench-") as folder,
        LocalStack(
            Path(folder),
            "fairness:app",
            api_port=0,
            concurrency=SLOTS,
            workers=WORKERS,
            worker_options=["--pool", "async", "--strategy", strategy],
            say=lambda _part, _line: None,
            log_level="WARNING",
            store_options="?durable=false",
        ) as stack,
        ProducerClient(stack.api_url, stack.store_url, queue=QUEUE) as producer,
    ):
        client = connect(stack.redis_url)
        queue = Queue(client, QUEUE)
        queue.set_partitions(partitions, by="customer" if by_customer else "")
        queue.pause_queue()

        def submit(customer: int, number: int) -> SubmissionId:
            pairs = {"customer": customer}
            return producer.insert_submission(range(number), chunk_size=1, strategic_metadata=pairs)

        ids = [
            [submit(0, chunks[0] // large_in) for _ in range(large_in)],
            *([submit(customer, number)] for customer, number in enumerate(chunks[1:], start=1)),
        ]
        homes = Counter(id_.partition for (id_,) in ids[1:])
        while min(part.count_queue().workers for part in queue.parts_now()) < WORKERS:
            stack.check()
            time.sleep(SAMPLE_S)
        queue.resume_queue()
        began = time.monotonic()
        done_s: dict[int, float] = {}
        samples: list[dict[str, Any]] = []
        while len(done_s) < len(ids):
            # The hash of the data model (_prelude.lua) that the strategy itself reads.
            in_hand = client.hgetall(base_key(QUEUE) + "inhand:customer")
            at_s = time.monotonic() - began
            by_customer = [int(in_hand.get(str(c).encode(), 0)) for c in range(len(ids))]
            samples.append({"at_s": at_s, "in_hand": by_customer})
            for customer, of_customer in enumerate(ids):
                if customer not in done_s and has_ended(queue, of_customer):
                    done_s[customer] = time.monotonic() - began
            stack.check()
            time.sleep(max(0, began + len(samples) * SAMPLE_S - time.monotonic()))
        client.close()
    rate = sum(chunks) / max(done_s.values())
    return {
        "strategy": strategy,
        "chunks": chunks,
        "done_s": [done_s[customer] for customer in range(len(ids))],
        "large_done_s": done_s[0],
        "nine_done_s": max(done_s[customer] for customer in range(1, len(ids))),
        "fair_share_s": len(chunks) * max(chunks[1:]) / rate,
        "chunks_a_second": rate,
        "samples": samples,
        "together": " ".join(str(homes[number]) for number in range(partitions)),
    }


def has_ended(queue: Queue, ids: list[SubmissionId]) -> bool:
    """Return whether all submissions have ended; those that have are removed from the list."""
    while ids and queue.get_submission(ids[-1]).state is not SubmissionState.IN_PROGRESS:
        ids.pop()
    return not ids


def draw(runs: list[dict[str, Any]], path: Path) -> None:
    """Draw the reserved chunks of each customer over time, with a panel for each strategy."""
    import matplotlib as mpl  # noqa: PLC0415 only for this

    mpl.use("agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415 only for this

    # Okabe and Ito's colours, which everybody can distinguish; the nine alternate in lightness.
    large, small = "#0072B2", ("#E69F00", "#F5CE7A")
    # Text stays text, which keeps the file small and identical between runs.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "opsqueue"})
    figure, panels = plt.subplots(
        len(runs), 1, figsize=(8, 5.2), sharex=True, sharey=True, layout="constrained"
    )
    figure.set_facecolor("white")
    for panel, run in zip(panels, runs, strict=True):
        at_s, in_hand = binned(run["samples"], 0.25)
        labels = [
            f"the customer with {run['chunks'][0]:,} chunks",
            f"nine customers with {run['chunks'][1]:,} each",
        ]
        panel.stackplot(
            at_s,
            in_hand,
            colors=[large, *(small[number % 2] for number in range(9))],
            labels=labels,
            linewidth=0,
        )
        done = run["nine_done_s"]
        panel.axvline(done, color="black", linewidth=1)
        is_late = done > max(run["done_s"]) / 2
        panel.annotate(
            f"the nine are done: {done:.1f} s",
            (done, 1.02),
            xycoords=("data", "axes fraction"),
            ha="right" if is_late else "left",
        )
        panel.set_title(run["strategy"], loc="left", pad=20, family="monospace")
        panel.set_ylabel("chunks in hand")
        panel.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlabel("seconds since the start")
    panels[-1].set_xlim(left=0)
    handles, texts = panels[-1].get_legend_handles_labels()
    figure.legend(handles[:2], texts[:2], loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)
    print(f"drawn: {path}")


def binned(samples: list[dict[str, Any]], width_s: float) -> tuple[list[float], list[list[float]]]:
    """Return the centres of the bins, and a list of their means for each customer."""
    bins: dict[int, list[list[int]]] = {}
    for sample in samples:
        bins.setdefault(int(sample["at_s"] / width_s), []).append(sample["in_hand"])
    means = [[sum(c) / len(rows) for c in zip(*rows, strict=True)] for rows in bins.values()]
    return [(number + 0.5) * width_s for number in bins], [
        list(c) for c in zip(*means, strict=True)
    ]


if __name__ == "__main__":
    main()
