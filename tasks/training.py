"""The stages of the `train` flow as Prefect tasks: get the images, train, publish the results, announce the model."""

from __future__ import annotations

from pathlib import Path

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from clusterpaths.config import TIME_LIMIT
from clusterpaths.datasets.celeba import open_celeba
from clusterpaths.datasets.drawn_faces.draw import write_faces
from clusterpaths.errors import ClusterPathsError
from clusterpaths.training.train import TrainConfig, TrainRecord, describe, train_classifier
from clusterpaths.watching.announced import STATE_FILE, AnnouncedModels
from clusterpaths.watching.arrivals import Arrival, examine
from tasks.announcing import announce
from tasks.events import server_url
from tasks.time_limit import in_own_thread

TRAINING_LIMIT = 86_400.0  # seconds


# a complete directory is reused anyway
@task(task_run_name="draw {config.faces} faces", cache_policy=NO_CACHE, timeout_seconds=TIME_LIMIT)
@in_own_thread
def draw_faces(config: TrainConfig) -> Path:
    """Draw the faces to train on; the directory that holds celeba/."""
    logger = get_run_logger()

    def progress(done: int, total: int) -> None:
        if done % 2000 == 0:
            logger.info("Drew %d of %d faces.", done, total)

    folder = write_faces(config.images_root, config.faces, config.seed, progress, config.planted)
    logger.info("%d faces of seed %d in %s.", config.faces, config.seed, folder)
    return folder.parent


# a run always trains
@task(task_run_name="train on {config.dataset}", cache_policy=NO_CACHE, timeout_seconds=TRAINING_LIMIT)
@in_own_thread
def train_model(config: TrainConfig, images_root: Path) -> TrainRecord:
    """Train, measure and write the ONNX file; notes of the data set are logged."""
    logger = get_run_logger()
    dataset = open_celeba(images_root)
    for note in dataset.notes:
        logger.info(note)
    return train_classifier(dataset.examples(), dataset, config, logger.info)


@task(cache_policy=NO_CACHE)
def publish_training(record: TrainRecord) -> None:
    """Accuracy of each class and the confusion matrix as a page of the run."""
    key = f"training-{record.dataset}"
    create_markdown_artifact(describe(record), key=key, description=f"accuracy {record.accuracy:.1%}")


@task(cache_policy=NO_CACHE)
def announce_model(record: TrainRecord) -> None:
    """Announce the model to the server, if one is configured; a failure is only logged."""
    logger = get_run_logger()
    if server_url() is None:
        return
    outcome = examine(Path(record.path), patient=False)
    known = AnnouncedModels(Path(record.path).parent / STATE_FILE)
    try:
        sent = isinstance(outcome, Arrival) and announce([outcome], known)
    except ClusterPathsError as error:
        logger.warning("The model was not announced. %s", error)
    else:
        logger.info("Announced %s." if sent else "%s was announced before: not announced again.", record.path)
