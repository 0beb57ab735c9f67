"""A dashboard's client, written from the table of the contract alone: it knows nothing else of the server."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
from PIL import Image


class Dashboard:
    """Each method is one row of the table: it checks the shape, and gives what a dashboard shows."""

    def __init__(self, address: str) -> None:
        self.http = httpx.Client(base_url=address, timeout=60)

    def __enter__(self) -> Dashboard:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def health(self) -> str:
        return str(self._get({"status"}, "health")["status"])

    def models(self) -> list[str]:
        return list(self._get({"models"}, "models")["models"])

    def sets(self, model: str) -> list[str]:
        return list(self._get({"model", "sets"}, "models", model, "sets", model=model)["sets"])

    def metadata(self, model: str) -> dict[str, Any]:
        return dict(self._get({"model", "metadata"}, "models", model, "metadata", model=model)["metadata"])

    def centroids(self, model: str, name: str) -> dict[str, list[list[float]]]:
        keys = {"model", "set", "centroids"}
        return dict(self._get(keys, "models", model, "sets", name, "centroids", model=model, set=name)["centroids"])

    def page(self, model: str, name: str, limit: int, offset: int) -> dict[str, Any]:
        keys = {"model", "set", "total", "limit", "offset", "paths"}
        asked = {"limit": limit, "offset": offset}
        return self._get(keys, "models", model, "sets", name, "paths", query=asked, model=model, set=name, **asked)

    def paths(self, model: str, name: str, size: int = 50) -> Iterator[tuple[str, list[int]]]:
        """All of them, page by page."""
        offset, total = 0, 1
        while offset < total:
            page = self.page(model, name, size, offset)
            total = page["total"]
            assert len(page["paths"]) == min(size, total - offset)
            yield from page["paths"].items()
            offset += size

    def path(self, model: str, name: str, example: str) -> list[int]:
        keys = {"model", "set", "example_id", "path"}
        known = {"model": model, "set": name, "example_id": example}
        return list(self._get(keys, "models", model, "sets", name, "paths", example, **known)["path"])

    def example_image(self, number: int, **which: str) -> Image.Image:
        keys = {"example_id", "image_base64"}
        return decode(self._get(keys, "images", "example", str(number), query=which, example_id=number)["image_base64"])

    def cluster_images(self, layer: str, cluster: int, limit: int = 20, **which: str) -> list[Image.Image]:
        keys = {"layer", "cluster_id", "limit", "images"}
        known = {"layer": layer, "cluster_id": cluster, "limit": limit}
        query = {"limit": limit, **which}
        found = self._get(keys, "images", "cluster", layer, str(cluster), query=query, **known)["images"]
        return [decode(text) for text in found]

    def path_images(self, path: list[int], limit: int = 20, **which: str) -> list[Image.Image]:
        answer = self.http.post("/images/path", json={"path": path, "limit": limit, **which})
        found = _checked(answer, {"path", "limit", "images"}, path=path, limit=limit)["images"]
        return [decode(text) for text in found]

    def attributes(self, model: str) -> list[str]:
        return list(self._get({"model", "attributes"}, "models", model, "attributes", model=model)["attributes"])

    def having(self, model: str, attribute: str, value: int) -> list[int]:
        keys = {"model", "attribute", "value", "count", "example_ids"}
        query = {"attr": attribute, "value": value}
        known = {"model": model, "attribute": attribute, "value": value}
        answer = self._get(keys, "models", model, "attributes", "filter", query=query, **known)
        assert len(answer["example_ids"]) == answer["count"]
        return list(answer["example_ids"])

    def id_to_index(self, model: str) -> dict[str, int]:
        keys = {"model", "id_to_index", "count"}
        answer = self._get(keys, "models", model, "id-to-index", model=model)
        assert len(answer["id_to_index"]) == answer["count"]
        return dict(answer["id_to_index"])

    def run(self, model: str, dataset: str) -> httpx.Response:
        return self.http.post("/run", json={"model": model, "dataset": dataset})

    def _get(self, keys: set[str], *parts: str, query: dict[str, Any] | None = None, **known: Any) -> dict[str, Any]:
        url = "/" + "/".join(quote(part, safe="") for part in parts)
        return _checked(self.http.get(url, params=query), keys, **known)


def _checked(answer: httpx.Response, keys: set[str], **known: Any) -> dict[str, Any]:
    """The JSON of an answer that has exactly these keys, and these values."""
    assert answer.status_code == 200, f"{answer.request.url}: {answer.status_code} {answer.text[:200]}"
    assert answer.headers["content-type"] == "application/json"
    content: dict[str, Any] = answer.json()
    assert set(content) == keys
    assert {key: content[key] for key in known} == known
    return content


def decode(text: str) -> Image.Image:
    """The JPEG in an answer."""
    image = Image.open(io.BytesIO(base64.b64decode(text, validate=True)))
    image.load()
    assert image.format == "JPEG"
    return image


def walk_through(dashboard: Dashboard) -> dict[str, dict[str, list[int]]]:
    """Everything that a dashboard asks for, of every model and set; the paths by MODEL/SET. No run can be started."""
    assert dashboard.health() == "ok"
    seen = {}
    for model in dashboard.models():
        for name in dashboard.sets(model):
            metadata = dashboard.metadata(model)
            centroids = dashboard.centroids(model, name)
            paths = seen[f"{model}/{name}"] = dict(dashboard.paths(model, name, 500))
            assert all(len(path) == len(centroids) for path in paths.values())
            assert set(metadata["layers"]) <= set(centroids) or len(dashboard.sets(model)) > 1
            example = next(iter(paths))
            assert dashboard.path(model, name, example) == paths[example]
            mapping = dashboard.id_to_index(model)
            assert {int(key): number for key, number in mapping.items()} == {
                number: number for number in mapping.values()
            }
            for attribute in dashboard.attributes(model)[:3]:
                having, lacking = (set(dashboard.having(model, attribute, value)) for value in (1, -1))
                assert not having & lacking
            if "dataset" in metadata:
                which = {"model": model, "set": name}
                assert dashboard.example_image(int(example.removeprefix("example_")), **which).width > 1
                layer = next(iter(centroids))
                assert dashboard.cluster_images(layer, paths[example][0], 5, **which)
                assert dashboard.path_images(paths[example], 5, **which)
        assert dashboard.run(model, "CelebA").status_code == 503
    return seen
