"""All addresses of the server, pages included: odd and wrong parameters, bodies, forms and uploads.

Belongs here: making requests. Whatever is asked, the answer is none with status 500, names no file of this
machine, and comes soon.
That answers fit the schema is tested with schemathesis, in tests/server/test_openapi.py.
"""

from __future__ import annotations

import json
import logging
import random
import re
import shutil
import traceback
from pathlib import Path
from typing import Any
from urllib.parse import quote

from clusterpaths.config import RunConfig
from clusterpaths.datasets.drawn_faces.draw import write_faces
from clusterpaths.explore.ask import Question
from clusterpaths.monitoring.config import MonitorConfig
from clusterpaths.monitoring.monitor import watch
from clusterpaths.naming.annotations import edit
from clusterpaths.sets.published import open_set
from tests.fuzz.engine import Case, FindError
from tests.fuzz.images import an_image, mutate_image
from tests.fuzz.mutate import a_value, mutate_bytes, mutate_json
from tests.runs import SAMPLE_MODEL, run_pipeline

SECONDS = 60.0
_SITE = "http://127.0.0.1:8000"
REAL: dict[str, tuple[str, ...]] = {
    "model": ("Faces", "Faces", "Faces", "Other"),
    "set": ("set_01",),
    "layer": ("fc1", "fc2"),
    "cluster": ("0", "1", "fc1:0", "fc1/0"),
    "path": ("0-0", "1-2", "0"),
    "id": ("0", "1", "9"),
    "example": ("0", "3"),
    "example_id": ("example_0000", "0"),
    "key": ("fc1/0", "0-0"),
    "kind": ("label-errors", "near-duplicates", "under-covered", "nearest"),
    "series": ("s",),
    "number": ("1", "2"),
    "picture": ("picture_00.jpg",),
    "first": ("Faces/set_01", "Faces"),
    "second": ("Faces/set_01",),
    "limit": ("1", "50"),
    "offset": ("0", "3"),
    "size": ("64", "128"),
    "color": ("label", "prediction", "cluster"),
    "order": ("id", "ood", "distance"),
    "attribute": ("Smiling", "Male", "not:Smiling"),
    "label": ("Blond", "Black"),
    "prediction": ("Blond",),
    "split": ("train", "test"),
    "attr": ("Smiling",),
    "value": ("1", "-1"),
    "name": ("style.css", "map.js"),
    "format": ("csv", "json"),
    "right": ("right", "wrong"),
}
_ODD = (
    "", "0", "-1", "1e3", "nan", "inf", "9" * 30, "9223372036854775808", "2147483648", "a" * 3000, "..", "../..", "%", "\0",
    "\r\nX: 1", "ä", "\ud7ff", "😀", "<script>", "' OR 1=1", "a:b", "fc1:99", "fc9:0", "0-0-0-0", "99-99", "-", ":", ",", "0,1",
    "true", "null", "{}", "[]", "*", "1.0", " 1 ", "+1", "0x10", "\u0661", "0" * 400, "1-" * 900,
)  # fmt: skip
_HEADERS = (
    ("accept", ("text/html", "application/json", "*/*", "", "a/b;q=x")),
    ("if-none-match", ("*", '"x"', 'W/"a"', '"')),
    ("range", ("bytes=0-", "bytes=-1", "bytes=9-1", "bytes=99999999999999999999-", "lines=1")),
    ("accept-encoding", ("gzip", "br", "x", "identity;q=0")),
    ("origin", ("http://evil.example", "null", _SITE)),
    ("content-type", ("application/json", "text/plain", "multipart/form-data", "")),
    ("cookie", ("session=x", "a=b; session=" + "x" * 3000, "=")),
    ("authorization", ("Bearer x", "Basic !!", "")),
    ("last-event-id", ("x",)),
    ("if-modified-since", ("yesterday",)),
    ("host", ("127.0.0.1:8000", "localhost", "evil.example", "")),
)
_FORM = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\nx\r\n--b--\r\n'


def prepare(root: Path) -> None:
    """A set with a series of windows and names, and one of another program."""
    write_faces(root / "faces", 60, seed=1)
    run_pipeline(
        RunConfig(
            model=SAMPLE_MODEL, data_root=root / "faces", cache_root=str(root / "cache"), name="Faces", layers=("fc1", "fc2"),
            k=4, causal=False,
        )
    )  # fmt: skip
    write_faces(root / "drawn", 12, seed=2)
    published = open_set(root / "cache" / "Faces" / "set_01")
    config = MonitorConfig(
        reference="Faces", cache_root=str(root / "cache"), data_root=str(root / "drawn" / "celeba" / "img_align_celeba"),
        series="s", window="6", workers=1,
    )  # fmt: skip
    assert len(list(watch(config))) == 2
    edit(published, "fc1/0", name="round")
    folder = root / "cache" / "Other" / "set_01"
    folder.mkdir(parents=True)
    (folder / "paths.json").write_text(json.dumps({f"example_{i:04d}": [i % 3, i % 2] for i in range(30)}))
    (folder / "centroids.json").write_text(json.dumps({"a": [[0.0]] * 3, "b": [[1.0]] * 2}))


class _Last(logging.Handler):
    """The last exception that the server logged."""

    def __init__(self) -> None:
        super().__init__()
        self.error: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        if record.exc_info and record.exc_info[1]:
            self.error = record.exc_info[1]


def open_kind(root: Path, scratch: Path) -> Case:
    """A case: a request to the application, in this process."""
    from fastapi.testclient import TestClient

    from clusterpaths.server.app import create_app
    from clusterpaths.server.settings import ServeConfig

    shutil.copytree(root / "cache", scratch / "cache")  # names may be edited
    app = create_app(ServeConfig(cache_root=str(scratch / "cache"), edit=True))
    last = _Last()
    logging.getLogger("clusterpaths.server").addHandler(last)
    client = TestClient(app, base_url=_SITE, raise_server_exceptions=False, follow_redirects=False)
    client.__enter__()  # the server's lifespan; the process ends with it
    operations = _operations(app)
    names = sorted(
        {name for _, _, own in operations for name in own} | set(Question.model_fields) | {"page", "x", "compare"}
    )

    def run(rng: random.Random) -> tuple[str, str]:
        method, template, own = rng.choice(operations)
        group = f"{method} {template}"[:60]
        request = _request(rng, method, template, own, names)
        last.error = None
        try:
            answer = client.request(**request)
        except ValueError as error:  # what the client cannot send
            if "clusterpaths/server" in "".join(traceback.format_tb(error.__traceback__)):
                raise
            return group, "not sent"
        text = answer.content[:200_000].decode("utf-8", "replace")
        if answer.status_code == 500 or "Traceback" in text:
            where = traceback.extract_tb(last.error.__traceback__)[-1] if last.error else "?"
            asked = f"{request['url'][:200]!r} {request.get('content', b'')[:80]!r}"
            find = FindError(f"{answer.status_code} of {asked}: {last.error!r} at {where}")
            find.add_note(group)
            raise find
        if str(scratch) in text or str(root) in text:
            find = FindError(f"{answer.status_code} of {request['url'][:200]!r} names a directory of this machine")
            find.add_note(group)
            raise find
        return group, f"{answer.status_code // 100}xx"

    return run


def _operations(app: Any) -> list[tuple[str, str, list[str]]]:
    """(method, path with {names}, names of its query) of every address, those of pages too."""
    found = []
    documented = app.openapi()["paths"]
    for path, methods in documented.items():
        for method, operation in methods.items():
            own = [one["name"] for one in operation.get("parameters", ()) if one["in"] == "query"]
            found.append((method.upper(), path, own))
    for route in _routes(app.routes):
        path = re.sub(r":\w+\}", "}", route.path)
        if path not in documented and getattr(route, "methods", None):
            found += [(method, path, list(Question.model_fields)) for method in sorted(route.methods - {"HEAD"})]
    found.append(("GET", "/static/{name}", []))
    return found


def _routes(routes: Any) -> list[Any]:
    """Also those of included routers, which FastAPI keeps as they are from 0.150 on."""
    every = []
    for route in routes:
        inner = getattr(route, "original_router", None)
        every += _routes(inner.routes) if inner is not None else [route]
    return [route for route in every if hasattr(route, "path")]


def _request(rng: random.Random, method: str, template: str, own: list[str], names: list[str]) -> dict[str, Any]:
    def value(name: str) -> str:
        return rng.choice(REAL.get(name, ("0", "1"))) if rng.random() < 0.92 else rng.choice(_ODD)

    if template.startswith("/explore"):
        template = template.replace("{name}", "{set}").replace("{set_name}", "{set}")
    path = re.sub(r"\{(\w+)\}", lambda match: quote(value(match[1]), safe=rng.choice(("", "/"))), template)
    pairs = []
    for _ in range(rng.choice((0, 0, 1, 1, 2, 3, 8))):
        name = rng.choice(own) if own and rng.random() < 0.95 else rng.choice((*names, "x" * 300, "ä"))
        pairs.append(f"{quote(name)}={quote(value(name))}")
    query = "&".join(pairs)
    if rng.random() < 0.05:
        query = mutate_bytes(rng, query.encode() or b"a=b").decode("latin-1")
        query = re.sub(r"[^!-~]", "%ff", query).replace("#", "")
    headers = {name: rng.choice(values) for name, values in rng.sample(_HEADERS, rng.choice((0, 0, 1, 3)))}
    if method in ("POST", "PUT") and rng.random() < 0.8:  # else the gate's refusal is all that is seen
        headers.pop("origin", None)
    if rng.random() < 0.9:
        headers.pop("host", None)
    if rng.random() < 0.02:
        method = rng.choice(("DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "QUERY"))
    request: dict[str, Any] = {"method": method, "url": f"{path}?{query}" if query else path, "headers": headers}
    if method in ("POST", "PUT"):
        request |= _body(rng, path)
    return request


def _body(rng: random.Random, path: str) -> dict[str, Any]:
    if path.endswith(("explain", "image")) and rng.random() < 0.9:
        _, content = an_image(rng)
        content = mutate_image(rng, content) if rng.random() < 0.7 else content
        field, name = rng.choice(("image", "image", "image", "file")), rng.choice(("a.jpg", "../../x", "ä" * 300, ""))
        return {"files": {field: (name, content, "image/jpeg")}}
    document = {
        "path": [0, 0], "model": "Faces", "set": "set_01", "name": "a name", "note": "", "by": "me", "revision": 0,
        "cluster": ["fc1:0"], "password": "x", "query": "path=0-0",
    }  # fmt: skip
    kept = {name: value for name, value in document.items() if rng.random() < 0.5}
    match rng.randrange(5):
        case 0:
            return {
                "content": mutate_json(rng, json.dumps(kept or document).encode()),
                "headers": {"content-type": "application/json"},
            }
        case 1:
            return {
                "content": json.dumps(a_value(rng)).encode("utf-8", "replace"),
                "headers": {"content-type": "application/json"},
            }
        case 2:
            return {"data": {name: str(value) for name, value in kept.items()}}
        case 3:
            return {"content": mutate_bytes(rng, _FORM),
                    "headers": {"content-type": "multipart/form-data; boundary=b"}}  # fmt: skip
        case _:
            return {"json": kept}
