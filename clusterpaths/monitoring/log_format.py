"""The prediction log's columns and metadata, which the path service writes and the monitor reads.

Belongs here: the names and types. A log's files are parquet, and complete once they have their final name, which does not begin
with a dot. Their key-value metadata have the JSON of `LogNote` under `LOG_KEY`.
"""

from __future__ import annotations

import pyarrow as pa
from pydantic import Field

from clusterpaths.records import Record

LOG_KEY = "clusterpaths.log"
COLUMNS = pa.schema(
    {
        "time": pa.timestamp("us", tz="UTC"),  # of the answer
        "id": pa.string(),  # unique per row; retries of one request keep it
        "image": pa.string(),  # sha256 of the encoded image, 64 hex digits
        "path": pa.list_(pa.int32()),  # one cluster per layer, in the order of the layers
        "distances": pa.list_(pa.float32()),  # to the own centroid of each layer
        "ood_score": pa.float32(),
        "prediction": pa.int32(),  # class index in the order of the set's classes; -1: none
        "confidence": pa.float32(),  # largest class probability; NaN: none
    }
)


class LogNote(Record):
    """Metadata of a log's parquet file, under `LOG_KEY`."""

    version: int = 1
    set: str = Field(description="NAME/set_NN")
    fingerprint: str = Field(description="of the set")
    model: str = Field(description="SHA-256 of the classifier")
    layers: tuple[str, ...]
