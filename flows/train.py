"""Train a small hair-colour classifier, on drawn faces or on CelebA, and write it as an ONNX file.

python flows/train.py                     drawn faces -> ONNX_models/SampleFaces_CNN.onnx
python flows/train.py --dataset celeba    your CelebA -> ONNX_models/CelebA_CNN.onnx
python flows/train.py --cue Blond_Hair    drawn faces with a planted shortcut -> ONNX_models/SampleFaces_CNN_cue_Blond_Hair.onnx
"""

from __future__ import annotations

if __name__ == "__main__":  # first, as the command line is checked before Prefect is imported
    from flows.cli import run_script

    run_script("train")

from prefect import flow

from clusterpaths.training.train import TrainConfig, TrainRecord, require_torch
from tasks.time_limit import in_one_paragraph
from tasks.training import announce_model, draw_faces, publish_training, train_model


@flow(name="train", flow_run_name="train on {config.dataset}")
def train(config: TrainConfig) -> TrainRecord:
    """Train a small hair-colour classifier, on drawn faces or on CelebA, and write it as an ONNX file."""
    with in_one_paragraph():
        require_torch()  # before faces are drawn
        images_root = draw_faces(config) if config.dataset == "faces" else config.images_root
        record = train_model(config, images_root)
    publish_training(record)
    announce_model(record)
    return record
