"""The large form: `python -m tests.fuzz KIND --cases N --seed S`; see engine.py."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.fuzz.engine import KINDS, fuzz, run_one
from tests.runs import PROJECT


def main() -> int:
    """Run cases of one kind, or of all; 1 where there were finds."""
    parser = argparse.ArgumentParser("tests.fuzz", description="Fuzz what the program reads.")
    parser.add_argument("kinds", nargs="*", choices=[*KINDS, []], help="default: all of them")
    parser.add_argument("--cases", type=int, default=5_000, help="of each kind (%(default)s)")
    parser.add_argument("--first", type=int, default=0, help="the first case (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="(%(default)s)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time, of each kind")
    parser.add_argument("--out", type=Path, default=PROJECT / "build" / "fuzz", help="for the finds (%(default)s)")
    parser.add_argument("--only", type=int, nargs=2, metavar=("SEED", "CASE"), help="one case, in this process")
    options = parser.parse_args()
    if options.only:
        seed, case = options.only
        print(*run_one(options.kinds[0], seed, case, options.out))
        return 0
    failed = False
    for kind in options.kinds or KINDS:
        outcome = fuzz(kind, options.cases, options.seed, options.out, first=options.first, seconds=options.seconds)
        print(f"{kind}, seed {options.seed}\n{outcome.text()}\n", flush=True)
        failed |= bool(outcome.finds)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
