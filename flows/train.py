"""Train a small hair-colour classifier, on drawn faces or on CelebA, and write it as an ONNX file.

python flows/train.py                     drawn faces -> ONNX_models/SampleFaces_CNN.onnx
python flows/train.py --dataset celeba    your CelebA -> ONNX_models/CelebA_CNN.onnx
"""

from __future__ import annotations

import sys

from prefect import flow

from clusterpaths.errors import ClusterPathsError
from clusterpaths.train import TrainConfig, TrainRecord
from tasks.training import draw_faces, publish_training, train_model


@flow(name="train", flow_run_name="train on {config.dataset}")
def train(config: TrainConfig) -> TrainRecord:
    """Get the images, train on them, and show how good the model is on those it never saw."""
    images_root = draw_faces(config) if config.dataset == "faces" else config.images_root
    record = train_model(config, images_root)
    publish_training(record)
    return record


def main(argv: list[str] | None = None) -> None:
    """Run the flow with options from the command line."""
    # Stand-in until flows/running.py is there:
    #     run_flow(train, parse_config(TrainConfig, argv, prog="flows/train.py", description=__doc__))
    from pydantic_settings import CliApp

    config = CliApp.run(TrainConfig, cli_args=sys.argv[1:] if argv is None else argv)
    try:
        train(config)
    except ClusterPathsError as error:
        print(f"\n{error}", file=sys.stderr)  # noqa: T201  # stand-in
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
