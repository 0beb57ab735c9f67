"""Have new images, or how the model treats them, drifted? `python flows/monitor.py --reference CelebA --images NEW`.

Each run judges the windows of a series that are complete since the last one, and raises `cluster-paths.drifted` for each that
drifted. `clusterpaths monitor` does the same without Prefect, and without events.
"""

from __future__ import annotations

if __name__ == "__main__":  # first, as the command line is checked before Prefect is imported
    from flows.cli import run_script

    run_script("monitor")

from prefect import flow, get_run_logger

from clusterpaths.monitoring.config import MonitorConfig
from clusterpaths.monitoring.words import headline
from flows.shell import set_up_logging
from tasks.drift_events import announce_drift
from tasks.report import show_windows
from tasks.stages import observe
from tasks.time_limit import in_one_paragraph


@flow(name="monitor", flow_run_name="{config.reference}: {config.series}")
def monitor(config: MonitorConfig) -> int:
    """Judge new images against a set; returns how many windows drifted."""
    set_up_logging()
    log = get_run_logger()
    with in_one_paragraph():
        windows = observe(config)
    for window in windows:
        log.info("%s to %s: %s", window.start, window.end, headline(window))
    if not windows:
        log.info("No window of the series %s has become complete since the last run", config.series)
    show_windows(windows)
    announce_drift(config, windows)
    return sum(window.drifted for window in windows)
