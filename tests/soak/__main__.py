"""`python -m tests.soak --minutes 30`: the soak. Exit code 0 when nothing was left or wrong."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.soak.run import soak


def main() -> int:
    """Run it for as long as is asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0, help="of load, before the rest")
    minutes = parser.parse_args().minutes
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        left = soak(Path(folder), seconds=minutes * 60, say=lambda line: print(line, flush=True))
    print("\n".join(left) or "nothing is left", flush=True)
    return bool(left)


if __name__ == "__main__":
    sys.exit(main())
