"""Stage evaluate: quality measures of a set's paths, from its directory, its cache and its images to metrics.json.

Belongs here: which numbers are measured, and what is said where they cannot be. The measures are in `metrics/`, the
fit and held-out examples in `split.py`, runs of the model in `probe.py`, the record in `record.py`.

Alignment and OOD detection are evaluated on held-out examples: those outside the sample that the layers were fitted on,
or, where there are too few of them, 20% that a clustering of their own is not fitted on. OOD detection measures the
OOD score that is shipped (`metrics/ood.py`), with the statistics of the fit examples. Perturbed and OOD images are compared with
a limited number of held-out ones: each number has its own n.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from clusterpaths.cache.fit_sample import draw_ids
from clusterpaths.cache.predictions import check_stored
from clusterpaths.common.threads import one_thread
from clusterpaths.config import EVALUATION_IMAGES
from clusterpaths.evaluation import perturb
from clusterpaths.evaluation.causal import MAX_EXAMPLES, measure_interventions
from clusterpaths.evaluation.means import read_means, write_means
from clusterpaths.evaluation.probe import Probe, Work, measured
from clusterpaths.evaluation.record import (
    METRICS,
    VERSION,
    Alignment,
    Complexity,
    Evaluation,
    Measure,
    read_evaluation,
)
from clusterpaths.evaluation.scores import fit_scores
from clusterpaths.evaluation.split import MIN_EVAL, Split, choose_positions, read_features, split_set
from clusterpaths.extraction.job import ExtractionJob
from clusterpaths.metrics.alignment import (
    back_off,
    choose_unseen_rule,
    decision_alignment,
    graded_predictions,
    majority_baseline,
)
from clusterpaths.metrics.neighbours import nearest_neighbours, neighbours_vote
from clusterpaths.metrics.paths import in_majority, path_complexity
from clusterpaths.models.live import live_model
from clusterpaths.records import ModelOutputs, SetRecord
from clusterpaths.sets.columns import Classes
from clusterpaths.sets.published import PublishedSet

# Held-out examples: (m,) positions in the set, (m, d) rows of the last layer, projected, and (m, g) graded paths.
Queries = tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]


def evaluate_set(
    published: PublishedSet,
    job: ExtractionJob,
    seed: int | None = None,
    more: Mapping[str, perturb.OODImages] | None = None,
    images: int = EVALUATION_IMAGES,
    causal: bool = True,
    workers: int = 1,
    say: Callable[[str], None] = lambda _: None,
) -> Evaluation:
    """Measure a published set and write metrics.json into its directory; a stored one that is valid is returned instead.

    What cannot be measured is left out, with a note: too few examples, no class scores, no labels. The OOD
    images are crops of scikit-learn's two photographs, the set's own upside down, noise, and the sample's faces.

    Args:
        published: the set, in the cache that `job` filled.
        seed: of the split, the noise and the intervals; the set's own if left out.
        more: further OOD images, by name, at the model's size. With them nothing stored is returned and nothing is
            stored: metrics.json is about the same images for every set.
        images: at most so many held-out images are perturbed, and compared with as many OOD images of each kind.
        causal: measure interventions, too (`causal.py`).
        workers: threads; the result does not depend on them.
        say: told before a part that takes long.

    Raises:
        CacheError, CorruptedShardError: the cache does not hold the set's activations.
        DiskError: no room or no permission.
    """
    record = published.record
    seed = record.seed if seed is None else seed
    if not more and (found := stored_evaluation(published, seed, images, causal)):
        return found
    with one_thread():
        evaluation = _evaluate(published, job, seed, more or {}, images, causal, workers, say)
    if not more:
        published.write_json(METRICS, evaluation.model_dump(mode="json"))
    return evaluation


def stored_evaluation(
    published: PublishedSet, seed: int | None = None, images: int = EVALUATION_IMAGES, causal: bool = True
) -> Evaluation | None:
    """The set's metrics, if they were measured with this seed [the set's own], on so many images, and by this version.

    With interventions, if these are asked for.
    """
    record, found = published.record, read_evaluation(published)
    wanted = (record.fingerprint, record.seed if seed is None else seed, images, VERSION)
    if not found or (found.fingerprint, found.seed, found.max_images, found.version) != wanted:
        return None
    if not causal or (found.causal and (not found.necessity or read_means(published))):
        return found
    return None


def _evaluate(
    published: PublishedSet,
    job: ExtractionJob,
    seed: int,
    more: Mapping[str, perturb.OODImages],
    max_images: int,
    causal: bool,
    workers: int,
    say: Callable[[str], None],
) -> Evaluation:
    record, notes = published.record, list[str]()
    path_of = published.paths.of_example
    complexity = path_complexity(published.clusters)
    directory = job.storage
    outputs = check_stored(directory, job.model.outputs)
    predictions = published.predictions if outputs.predicts else np.full_like(published.predictions, -1)
    chosen = choose_positions(published, directory, seed)
    evaluation = Evaluation(
        set=record.set,
        fingerprint=record.fingerprint,
        seed=seed,
        max_images=max_images,
        causal=causal,
        num_fit=len(chosen.fit),
        num_eval=len(chosen.held_out),
        refitted=not chosen.published,
        num_images=0,
        complexity=Complexity(occupied=complexity.occupied, covering=complexity.covering, entropy=complexity.entropy),
        purity_labels=(by_labels := _mean(in_majority(path_of, published.labels), seed)),
        purity_predictions=(by_predictions := _mean(in_majority(path_of, predictions), seed)),
        chance_labels=published.purities["labels"].chance if by_labels else None,
        chance_predictions=published.purities["predictions"].chance if by_predictions else None,
    )
    if evaluation.purity_labels is None:
        notes.append("No example has a label: purity with labels is left out.")
    if evaluation.purity_predictions is None:
        notes.append(
            f"{_without_predictions(outputs)}: purity with predictions, decision "
            "alignment, preserved decisions, interventions, max softmax and energy are left out."
        )
    elif len(np.unique(predictions[predictions >= 0])) == 1:
        notes.append(
            "The model predicts one class for every example: alignment is perfect and not informative, and "
            "interventions are left out."
        )
    needed = max(MIN_EVAL, *record.k_per_layer.values())
    if len(chosen.held_out) < needed:
        notes.append(
            f"{len(chosen.held_out)} examples can be held out and at least {needed} are needed (30, and the largest k): "
            "alignment, path agreement and OOD detection are left out."
        )
        return evaluation.model_copy(update={"notes": tuple(notes)})
    split = split_set(published, directory, chosen, seed)
    with Probe(published, job, split, seed, outputs, workers) as probe:
        wanted = np.searchsorted(published.ids, draw_ids(published.ids[chosen.held_out], max_images))
        queries: Queries | None = None
        ask = causal and len(np.unique(predictions[predictions >= 0])) > 1  # else no decision can change
        if lacks := _why_not_run(record, job):
            notes.append(f"{lacks}: perturbed images, interventions and OOD detection are left out.")
            ask = False
            if split.features.held_out is None:
                queries = wanted, *read_features(published, directory, published.ids[wanted], split.features.projection)
            wanted = wanted[:0]
        elif len(wanted) < len(chosen.held_out):
            notes.append(
                f"{len(wanted):,} of {len(chosen.held_out):,} held-out images are perturbed and compared with OOD images; "
                "--evaluation-images sets how many."
            )
        asked = draw_ids(published.ids[chosen.held_out], MAX_EXAMPLES if ask else 0)
        every = np.union1d(wanted, np.searchsorted(published.ids, asked))
        read, pixels = probe.read(published, every, notes)
        positions, images = read[(own := np.isin(read, wanted))], pixels[own]
        measures: dict[str, object] = {"num_images": len(images)}
        if ask and len(pixels):
            found = measure_interventions(
                published, job, split, read, pixels, predictions, outputs, seed=seed, workers=workers, say=say
            )
            measures |= {"steering": found.steering, "necessity": found.necessity}
            notes += found.notes
            write_means(published, found.means)
        if len(images):
            others = probe.ood_images(images)
            (clean,) = probe.run([Work(images)])
            queries = positions, clean.features, clean.graded
            measures["perturbations"] = probe.perturbed(clean, images)
            scores = fit_scores(published, directory, split, predictions, outputs)
            measures["strangers"] = probe.ood_detection(clean, others, more, scores)
    if evaluation.purity_predictions is not None:
        measures["alignment"] = _alignment(split, predictions, queries, seed)
    return evaluation.model_copy(update={**measures, "notes": tuple(notes)})


def _why_not_run(record: SetRecord, job: ExtractionJob) -> str:
    """Why the model cannot be run on images; empty where it can."""
    if record.without_model:
        return "There is no model here, only its activations"
    if record.collected and (live_model(record.model.sha256) is None or job.preprocessing.name == "none"):
        return "The PyTorch model is not in memory, or how an image becomes its input is not known"
    return ""


def _without_predictions(outputs: ModelOutputs) -> str:
    if outputs.is_multi_label:
        return "The model is multi-label, so an image has no one predicted class"
    return "The model has no class scores (as in regression or an embedding)"


def _alignment(split: Split, predictions: Classes, queries: Queries | None, seed: int) -> Alignment | None:
    """Of all held-out examples; deep k-NN and graded paths of `queries`, if the split has none of the held-out ones."""
    fit, held_out = split.fit, split.held_out
    classes, own = predictions[fit.positions], predictions[held_out.positions]
    given, known = classes >= 0, own >= 0
    if not given.any() or not known.any():
        return None
    paths, held_paths = (fit.clusters[given], classes[given]), (held_out.clusters[known], own[known])
    rule = choose_unseen_rule(*paths)
    found = decision_alignment(*paths, *held_paths, rule)
    correct = found.predicted == own[known]
    deep_knn, graded = _neighbours_and_graded(split, predictions, queries, seed)
    return Alignment(
        daf=measured(correct, seed),
        coverage=measured(found.seen, seed),
        daf_seen=_mean(correct[found.seen], seed),
        paths=path_complexity(fit.clusters[given]).occupied,
        majority=measured(majority_baseline(classes[given], int(known.sum())) == own[known], seed),
        unseen=rule,
        back_off=measured(back_off(*paths, held_paths[0])[0] == own[known], seed),
        deep_knn=deep_knn,
        graded=graded,
        graded_values=split.features.graded.shape[1],
        features=split.features.fit.shape[1],
    )


def _neighbours_and_graded(
    split: Split, predictions: Classes, queries: Queries | None, seed: int
) -> tuple[Measure | None, Measure | None]:
    """How often deep k-NN, and a graded path, predict the decision."""
    features = split.features
    if features.held_out is not None and features.graded_held_out is not None:
        queries = split.held_out.positions, features.held_out, features.graded_held_out
    if queries is None:
        return None, None
    positions, rows, graded = queries
    classes, own = predictions[features.positions], predictions[positions]
    given, known = classes >= 0, own >= 0
    if not given.any() or not known.any():
        return None, None
    neighbours, _ = nearest_neighbours(features.fit[given], rows[known])
    voted = neighbours_vote(neighbours, classes[given])
    predicted = graded_predictions(features.graded[given], classes[given], graded[known])
    return measured(voted == own[known], seed), measured(predicted == own[known], seed)


def _mean(values: NDArray[np.bool_], seed: int) -> Measure | None:
    return measured(values, seed) if len(values) else None
