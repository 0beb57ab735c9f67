"""Requests made up from the OpenAPI schema: none breaks the server, and every answer is as the schema says."""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

import httpx
import pytest

from tests import patient
from tests.server.conftest import Site
from tests.server.watched import DRIFTED, SERIES

schemathesis = pytest.importorskip("schemathesis", reason="pip install schemathesis")
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis.errors import Unsatisfiable  # noqa: E402
from schemathesis.specs.openapi import checks as openapi  # noqa: E402

EXAMPLES = 5  # an operation and kind of data
REAL = {"model": "SampleFaces", "set": "set_01", "layer": "conv1", "cluster": 0, "id": 0, "path": "0-0-0-0-0"}
REAL |= {"kind": "label-errors"}
REAL |= {"example_id": "example_0000", "key": "conv1/0"}
REAL |= {"series": SERIES, "number": DRIFTED, "picture": "picture_00.jpg"}
CHECKS = [
    openapi.status_code_conformance,
    openapi.content_type_conformance,
    openapi.response_schema_conformance,
    openapi.negative_data_rejection,
    openapi.unsupported_method,
]


@pytest.fixture(scope="module")
def schema(site: Site) -> Any:
    return schemathesis.openapi.from_url(f"{site.url}/api/v1/openapi.json")


def test_the_schema_lists_every_endpoint_with_a_summary_and_its_errors(site: Site) -> None:
    document = patient.get(f"{site.url}/api/v1/openapi.json").json()
    paths = document["paths"]
    for name in (
        "routes",
        "clusters",
        "transitions",
        "paths",
        "examples",
        "examples.csv",
        "metrics",
        "choices",
        "explain",
        "map",
        "map/points",
        "map/columns",
        "names",
        "find/{kind}",
        "find/{kind}.csv",
        "find/{kind}/fiftyone",
        "monitoring",
        "monitoring/{series}/windows",
        "monitoring/{series}/windows/{number}",
    ):
        assert f"/api/v1/models/{{model}}/sets/{{set}}/{name}" in paths
    assert not any(path.startswith(("/explore", "/login", "/static", "/compare")) or path == "/" for path in paths)
    for path, methods in paths.items():
        for operation in methods.values():
            assert operation["summary"], path
            assert {"404", "422", "500"} <= set(operation["responses"]), path
    records = document["components"]["schemas"]
    for name in ("Routes", "ClusterDetail", "PathDetail", "ExampleDetail", "Evaluation", "Comparison", "Explanation"):
        assert name in records


@pytest.mark.parametrize("mode", ["positive", "negative"])
@pytest.mark.parametrize("real", [False, True], ids=["any names", "names that are there"])
def test_no_request_of_the_schemas_making_breaks_the_server(schema: Any, site: Site, mode: str, real: bool) -> None:
    generation = getattr(schemathesis.GenerationMode, mode.upper())
    with httpx.Client(base_url=site.url, timeout=30) as client, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the fuzzer, about its own data
        for found in schema.get_all_operations():
            _fuzz(found.ok(), generation, real, client)


def _fuzz(operation: Any, mode: Any, real: bool, client: httpx.Client) -> None:
    names = [name for name in REAL if f"{{{name}}}" in operation.path]
    if real and not names:
        return

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode))
    def tried(case: Any) -> None:
        if real:
            case.path_parameters = {name: REAL[name] for name in names}
        response = case.call(base_url=str(client.base_url))
        assert response.status_code != 500, response.text  # 503 is an answer: no Prefect server, for example
        if real and str(mode).endswith("negative"):  # the names were made right; the rest may have been right before
            case.validate_response(response, checks=CHECKS[:3])
        else:
            case.validate_response(response, checks=CHECKS)

    with contextlib.suppress(Unsatisfiable):  # an operation that takes nothing has no wrong data
        tried()
