"""`python -m tests.torture`: random schedules of actions and faults for some minutes, or one that was printed before.

Exit code 1 where a promise was broken: the seed is printed, and the schedule, shrunk, is written beside the results.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from tests.torture.driver import Driver, Violation
from tests.torture.schedule import Step, make_schedule
from tests.torture.shrink import shrink

STEPS = 20


def main() -> int:
    """Carry out schedules; 0 where nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument(
        "--seed", type=int, default=0, help="of the first schedule; the next ones have the next seeds [0]"
    )
    parser.add_argument("--minutes", type=float, default=30, help="no schedule begins later [30]")
    parser.add_argument("--schedules", type=int, default=10**9, help="at most so many [no bound]")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of a schedule [{STEPS}]")
    parser.add_argument("--replay", type=Path, help="carry out this schedule instead, a file that was written before")
    parser.add_argument("--folder", type=Path, default=Path("build/torture"), help="what is written [build/torture]")
    parser.add_argument("--no-shrink", action="store_true", help="do not shrink a schedule that fails")
    parser.add_argument("--go-on", action="store_true", help="go on with the next seed after a failure")
    options = parser.parse_args()
    folder: Path = options.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    until, failed = time.monotonic() + 60 * options.minutes, 0
    with Driver(folder) as driver:
        if options.replay:
            return _try(
                driver, json.loads(options.replay.read_text()), "replayed", folder, shrinks=not options.no_shrink
            )
        for seed in range(options.seed, options.seed + options.schedules):
            if time.monotonic() > until or (failed and not options.go_on):
                break
            schedule = make_schedule(seed, options.steps)
            failed += _try(driver, schedule, f"seed {seed}", folder, shrinks=not options.no_shrink)
        print("\n".join(driver.counts.lines()))
    print(f"{failed} schedules failed." if failed else "Nothing was found.")
    return int(failed > 0)


def _try(driver: Driver, schedule: list[Step], name: str, folder: Path, *, shrinks: bool) -> int:
    begun = time.monotonic()
    try:
        driver.carry_out(schedule)
    except Violation as found:
        violation = found
        print(f"\n{name} FAILED at {violation}", flush=True)
        if shrinks:
            schedule = shrink(schedule, lambda fewer: _fails_alike(driver, fewer, violation))
        file = folder / f"{name.replace(' ', '-')}.json"
        file.write_text(json.dumps(schedule, indent=1) + "\n")
        print(f"{len(schedule) - 1} steps remain: python -m tests.torture --replay {file}", flush=True)
        return 1
    print(f"{name}: {len(schedule) - 1} steps, {time.monotonic() - begun:.0f} s", flush=True)
    return 0


def _fails_alike(driver: Driver, schedule: list[Step], violation: Violation) -> bool:
    try:
        driver.carry_out(schedule)
    except Violation as other:
        return other.kind == violation.kind
    return False


if __name__ == "__main__":
    sys.exit(main())
