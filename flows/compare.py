"""What changed from one set to another: `python flows/compare.py --first CelebA/set_01 --second CelebA/set_02`.

Two sets of one model, or of two models on the same images. NAME alone is its newest set.
"""

from __future__ import annotations

if __name__ == "__main__":  # first, as the command line is checked before Prefect is imported
    from flows.cli import run_script

    run_script("compare")

from pathlib import Path

from prefect import flow

from clusterpaths.comparison.compare import CompareConfig
from flows.shell import set_up_logging
from tasks.comparison_events import announce_comparison
from tasks.report import show_comparison
from tasks.stages import compare_sets, find_sets, write_comparison
from tasks.time_limit import in_one_paragraph


@flow(name="compare", flow_run_name="{config.first} and {config.second}")
def compare(config: CompareConfig) -> Path:
    """What changed from one set to another: path agreement, matched clusters, changed predictions, changed examples."""
    set_up_logging()
    with in_one_paragraph():
        first, second = find_sets(config)
        comparison = compare_sets(first, second, config.top)
        page = write_comparison(comparison, second, config.data_root)
    show_comparison(comparison, page)
    announce_comparison(comparison, config.alert_below)
    return page
