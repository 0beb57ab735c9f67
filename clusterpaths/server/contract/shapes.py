"""The shapes of the contract's answers, for the OpenAPI description. The answers themselves are assembled as text."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from pydantic import BaseModel, Field


class AttributeValue(IntEnum):
    """As CelebA's list has them."""

    HAS = 1
    LACKS = -1


class Health(BaseModel):
    """The server answers."""

    status: str


class Models(BaseModel):
    """Directories of the results directory."""

    models: list[str]


class Sets(BaseModel):
    """Complete sets of one model."""

    model: str
    sets: list[str]


class Metadata(BaseModel):
    """metadata.json."""

    model: str
    metadata: dict[str, Any]


class Centroids(BaseModel):
    """centroids.json."""

    model: str
    set: str
    centroids: dict[str, list[list[float]]]


class Paths(BaseModel):
    """A piece of paths.json."""

    model: str
    set: str
    total: int
    limit: int
    offset: int
    paths: dict[str, list[int]]


class ExamplePath(BaseModel):
    """One entry of paths.json."""

    model: str
    set: str
    example_id: str
    path: list[int]


class ExampleImage(BaseModel):
    """One image, a JPEG in base64."""

    example_id: int
    image_base64: str


class ClusterImages(BaseModel):
    """Images of a cluster, nearest to its centroid first."""

    layer: str
    cluster_id: int
    limit: int
    images: list[str]


class PathImages(BaseModel):
    """Images of a path."""

    path: list[int]
    limit: int
    images: list[str]


class Attributes(BaseModel):
    """Names of the attributes."""

    model: str
    attributes: list[str]


class Filtered(BaseModel):
    """Ids of the examples that have a value of an attribute."""

    model: str
    attribute: str
    value: int
    count: int
    example_ids: list[int]


class IdToIndex(BaseModel):
    """Every example's id, as `attributes/filter` gives it, mapped to the number in its key of paths.json: the same."""

    model: str
    id_to_index: dict[str, int]
    count: int


class PathQuestion(BaseModel):
    """A path whose images are requested; of the default set unless a model (and set) is named."""

    path: Any = Field(None, description="cluster ids, one per layer")
    limit: int | None = 20
    model: str | None = None
    set: str | None = None
