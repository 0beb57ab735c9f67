"""A run that publishes the next set of a model takes the names of the one before along, into its report too."""

from __future__ import annotations

from pathlib import Path

from clusterpaths.config import RunConfig
from clusterpaths.naming.annotations import edit, read_annotations
from clusterpaths.naming.carry_over import GOOD
from clusterpaths.naming.record import cluster_key
from clusterpaths.pipeline import run
from tests.runs import SAMPLE_MODEL
from tests.server.made import draw_faces


def test_the_next_set_is_published_with_the_names_of_the_one_before(tmp_path: Path) -> None:
    config = RunConfig(
        model=SAMPLE_MODEL,
        data_root=draw_faces(tmp_path / "data"),
        cache_root=tmp_path / "cache",
        workers=1,
        evaluate=False,
        k=2,
    )
    first = run(config).published
    assert first
    for layer in first.layers:
        for cluster in range(2):
            edit(first, cluster_key(layer, cluster), name=f"{layer} was {cluster}", by="Ada")
    outcome = run(config.model_copy(update={"seed": 7}))
    second = outcome.published
    assert second
    assert outcome.report
    assert second.folder != first.folder
    entries = read_annotations(second).entries
    assert entries
    for entry in entries:
        assert entry.carried
        assert entry.carried.share >= GOOD
        assert entry.name == entry.carried.key.replace("/", " was ")
        layer, _, cluster = entry.key.rpartition("/")
        old = int(entry.carried.key.rpartition("/")[2])
        at = first.layers.index(layer)
        both = ((first.clusters[:, at] == old) & (second.clusters[:, at] == int(cluster))).sum()
        sizes = (first.clusters[:, at] == old).sum(), (second.clusters[:, at] == int(cluster)).sum()
        assert entry.carried.share == both / max(sizes)
        assert (
            f"carried over from {first.name} ({entry.carried.share:.0%} of its examples)" in outcome.report.read_text()
        )
    again = run(config.model_copy(update={"seed": 7})).published  # the same set: nothing is written again
    assert again == second
    assert read_annotations(second).revision == 1
