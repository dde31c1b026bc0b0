"""`python -m tests.chaos --seed 7`, `--seed 1..20`: the fault suite, with a report per seed.

The exit code is 0 if all runs were clean.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys

from tests.chaos.run import run_seed


def main() -> int:
    """Run the given seeds."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", default="", help="a number, or FIRST..LAST; one by chance")
    parser.add_argument("--seconds", type=float, default=40.0, help="of faults, in each run")
    parser.add_argument("--without", default="", help="kinds of fault to leave out, by commas")
    options = parser.parse_args()
    # Told to end, we end all that we started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended before the run was over"))
    first, _, last = (options.seed or str(random.randrange(10**6))).partition("..")
    wrong = []
    for seed in range(int(first), int(last or first) + 1):
        result = run_seed(
            seed,
            seconds=options.seconds,
            without=frozenset(options.without.split(",")) - {""},
            say=lambda line: print(line, flush=True),
        )
        print(result.text, flush=True)
        if result.wrong:
            wrong.append(seed)
        else:
            shutil.rmtree(result.folder)
    if wrong:
        print(f"WRONG: seeds {', '.join(map(str, wrong))}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
