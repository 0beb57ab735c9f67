"""The tools of an assistant: the SDK's own client, over stdio, with the server in a process of its own as an assistant starts it.

The answers are those of the HTTP API of the same results.
"""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from PIL import Image

from clusterpaths.config import RunConfig
from clusterpaths.datasets.drawn_faces.draw import write_faces
from clusterpaths.evaluation.evaluate import evaluate_set
from clusterpaths.sets.published import open_set
from tests.clusterpaths.find.mapped import generated_mapped, small_mapped
from tests.evaluating import publish
from tests.runs import PROJECT, SAMPLE_MODEL
from tests.serving import serving

mcp = pytest.importorskip("mcp", reason="pip install mcp")
FACES = "/api/v1/models/Faces/sets/set_01"
TOOLS = {
    "sets", "summary", "metrics", "choices", "search", "cluster", "paths", "path", "example", "compare", "explain", "find",
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Faces/set_01 and set_02 with pictures, set_01 measured; Small and CelebA with maps."""
    root = tmp_path_factory.mktemp("assistant")
    write_faces(root / "faces", 120, seed=3)
    config = RunConfig(
        model=SAMPLE_MODEL, data_root=root / "faces", cache_root=str(root / "cache"), name="Faces", layers=("fc1", "fc2"),
        check_preprocessing=False,
    )  # fmt: skip
    folder, job = publish(config)
    evaluate_set(open_set(folder), job)
    publish(config.model_copy(update={"seed": 1}))
    small_mapped(root / "cache", [1, 2, 2, 3, 4, 5, 6, 7])
    generated_mapped(root / "cache")
    return root / "cache"


@pytest.fixture(scope="module")
def api(root: Path) -> Iterator[httpx.Client]:
    with serving(root) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


def talk(root: Path, ask: Callable[[Any], Awaitable[Any]]) -> Any:
    """What `ask` returns of a client whose server runs while it asks."""
    server = mcp.StdioServerParameters(
        command=sys.executable,
        args=["-m", "clusterpaths.commands.main", "mcp", "--cache-root", str(root)],
        env={"PYTHONPATH": str(PROJECT)},
        cwd=root.parent,
    )

    async def run() -> Any:
        with anyio.fail_after(120):
            async with mcp.Client(server) as client:
                return await ask(client)

    return anyio.run(run)


def call(root: Path, *calls: tuple[str, dict[str, Any]]) -> list[Any]:
    async def ask(client: Any) -> list[Any]:
        return [await client.call_tool(name, arguments) for name, arguments in calls]

    found: list[Any] = talk(root, ask)
    return found


def test_every_tool_is_described_and_read_only(root: Path) -> None:
    async def ask(client: Any) -> Any:
        return await client.list_tools(), client.instructions

    listed, instructions = talk(root, ask)
    assert {tool.name for tool in listed.tools} == TOOLS
    assert "Call sets first" in instructions
    for tool in listed.tools:
        assert len(tool.description) > 40
        assert (tool.annotations.read_only_hint, tool.annotations.destructive_hint) == (True, False)
        for name, shape in tool.input_schema["properties"].items():
            assert shape.get("description"), f"{tool.name}.{name} is not described"


def test_the_answers_are_those_of_the_http_api(root: Path, api: httpx.Client) -> None:
    path = api.get(f"{FACES}/paths?limit=1").json()["paths"][0]["path"]
    text = "-".join(map(str, path))
    pairs = [
        ("sets", {}, "/api/v1/models"),
        ("summary", {"set": "Faces/set_01"}, FACES),
        ("metrics", {"set": "Faces/set_01"}, f"{FACES}/metrics"),
        ("choices", {"set": "Faces/set_01"}, f"{FACES}/choices"),
        (
            "search",
            {"set": "Faces/set_01", "filters": {"attribute": ["Smiling"], "order": "strange"}, "limit": 5, "offset": 2},
            f"{FACES}/examples?attribute=Smiling&order=strange&limit=5&offset=2",
        ),
        ("search", {"set": "Faces/set_01", "filters": {"right": "wrong"}}, f"{FACES}/examples?right=wrong&limit=20"),
        ("search", {"set": "Faces/set_01"}, f"{FACES}/examples?limit=20"),
        (
            "cluster",
            {"set": "Faces/set_01", "layer": "fc2", "cluster": 1, "exemplars": 3},
            f"{FACES}/clusters/fc2/1?exemplars=3",
        ),
        (
            "paths",
            {"set": "Faces/set_01", "order": "rare", "limit": 3},
            f"{FACES}/paths?order=rare&limit=3&exemplars=2",
        ),
        ("path", {"set": "Faces/set_01", "path": text}, f"{FACES}/paths/{text}?exemplars=6"),
        ("example", {"set": "Faces/set_01", "id": 16}, f"{FACES}/examples/16?neighbours=6"),
        (
            "compare",
            {"first": "Faces/set_01", "second": "Faces/set_02"},
            "/api/v1/comparisons?first=Faces/set_01&second=Faces/set_02",
        ),
        (
            "find",
            {"set": "Small", "kind": "label-errors"},
            "/api/v1/models/Small/sets/set_01/find/label-errors?limit=20",
        ),
        (
            "find",
            {"set": "Small", "kind": "near-duplicates", "limit": 1},
            "/api/v1/models/Small/sets/set_01/find/near-duplicates?limit=1",
        ),
        (
            "find",
            {"set": "CelebA/set_01", "kind": "under-covered"},
            "/api/v1/models/CelebA/sets/set_01/find/under-covered?limit=20",
        ),
    ]
    for (name, arguments, address), result in zip(pairs, call(root, *(pair[:2] for pair in pairs)), strict=True):
        assert not result.is_error, f"{name}: {result.content}"
        expected = without_time(api.get(address).json())
        if name == "compare":
            expected = shortened(expected)
        assert without_time(json.loads(result.content[0].text)) == expected, f"{name} {arguments}"
        structured = result.structured_content
        assert without_time(structured.get("result", structured)) == expected, f"{name} {arguments}"


def without_time(answer: Any) -> Any:
    """A comparison without when it was made, which is once per process."""
    return {k: v for k, v in answer.items() if k != "created"} if "moved" in answer else answer


def shortened(comparison: dict[str, Any]) -> dict[str, Any]:
    """Without the examples of each changed decision."""
    for one in comparison["decisions"]["counts"][:50]:
        one["examples"] = []
    return comparison


def test_an_error_names_no_file_of_this_machine(tmp_path: Path) -> None:
    """Its text becomes part of the conversation; as the HTTP API, which has the same text."""
    small_mapped(tmp_path)
    maps = tmp_path / "Small" / "set_01" / "maps.parquet"
    content = maps.read_bytes()
    maps.write_bytes(b"PAR1" + bytes(len(content) - 12) + content[-8:])
    [found] = call(tmp_path, ("find", {"set": "Small", "kind": "under-covered"}))
    said = found.content[0].text
    assert found.is_error
    assert str(tmp_path) not in said
    assert "the set cannot be read: it is corrupted" in said
    assert "details in the server's log" in said


def test_a_set_without_a_number_is_the_newest(root: Path) -> None:
    assert call(root, ("summary", {"set": "Faces"}))[0].structured_content["set"] == "set_02"


def test_an_example_has_its_picture_of_the_size_that_is_asked_for(root: Path, api: httpx.Client) -> None:
    found, small, none = call(
        root,
        ("example", {"set": "Faces/set_01", "id": 16}),
        ("example", {"set": "Faces/set_01", "id": 16, "picture": 64}),
        ("example", {"set": "Faces/set_01", "id": 16, "picture": 0}),
    )
    assert [block.type for block in found.content] == ["text", "image"]
    assert base64.b64decode(found.content[1].data) == api.get(f"{FACES}/examples/16/image?size=320").content
    assert found.content[1].mime_type == "image/jpeg"
    with Image.open(io.BytesIO(base64.b64decode(small.content[1].data))) as picture:
        assert max(picture.size) == 64
    assert [block.type for block in none.content] == ["text"]


def test_a_picture_that_is_gone_leaves_the_text(root: Path) -> None:
    [found] = call(root, ("example", {"set": "CelebA/set_01", "id": 16}))
    assert not found.is_error
    assert [block.type for block in found.content] == ["text"]


def test_an_image_is_explained_as_the_api_explains_it(root: Path, api: httpx.Client) -> None:
    file = sorted((root.parent / "faces").rglob("*.jpg"))[5]
    sent = base64.b64encode(file.read_bytes()).decode()
    by_bytes, by_id = call(
        root,
        ("explain", {"set": "Faces/set_01", "image": sent}),
        ("explain", {"set": "Faces/set_01", "example": 5}),
    )
    lines = "\n".join(sent[i : i + 76] for i in range(0, len(sent), 76))
    [by_url] = call(root, ("explain", {"set": "Faces/set_01", "image": f"data:image/jpeg;base64,{lines}"}))
    expected = api.post(f"{FACES}/explain", files={"image": ("image", file.read_bytes())}).json()
    assert by_bytes.structured_content == by_url.structured_content == expected
    assert by_id.structured_content == expected | {"image": file.name}


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("summary", {"set": "Nobody"}, "There is no model 'Nobody'. There are CelebA, Faces, Small."),
        ("summary", {"set": "../../etc/passwd"}, "There is no model '..'"),
        ("summary", {"set": "Faces/../Small"}, "Faces has no set '../Small'. It has set_01, set_02."),
        ("summary", {"set": "/etc"}, "There is no model ''"),
        ("metrics", {"set": "Small"}, "Small/set_01 was not evaluated"),
        ("search", {"set": "Faces", "filters": {"attribute": ["Smile"]}}, "has no attribute 'Smile'. It has"),
        ("search", {"set": "Faces", "filters": {"colour": "red"}}, "filters.colour"),
        ("search", {"set": "Faces", "limit": 100_000}, "less than or equal to 50"),
        ("cluster", {"set": "Faces", "layer": "fc3", "cluster": 0}, "has no layer 'fc3'. It has fc1, fc2."),
        ("path", {"set": "Faces", "path": "1-2-3"}, "is no path of"),
        ("example", {"set": "Faces", "id": 5_000}, "has no example 5000"),
        ("compare", {"first": "Faces/set_01", "second": "Faces/set_01"}, "was given twice"),
        ("explain", {"set": "Faces"}, "Expected either image or example"),
        ("explain", {"set": "Faces", "image": "not base64"}, "The image is not base64"),
        ("explain", {"set": "Faces", "image": "größer"}, "The image is not base64"),
        ("explain", {"set": "Faces", "image": "YWJj"}, "are not an image of a supported format"),
        ("explain", {"set": "Small", "example": 10}, "have been moved since the set was made"),
        ("find", {"set": "Faces", "kind": "typos"}, "label-errors"),
    ],
)
def test_an_error_is_one_of_the_tool_with_our_sentence(
    errors: dict[str, Any], name: str, arguments: dict[str, Any], said: str
) -> None:
    result = errors[json.dumps([name, arguments])]
    assert result.is_error
    assert said in result.content[0].text


@pytest.fixture(scope="module")
def errors(root: Path) -> dict[str, Any]:
    """All of the bad calls, of one server, which is there after each."""
    marks = test_an_error_is_one_of_the_tool_with_our_sentence.pytestmark[0]  # type: ignore[attr-defined]
    calls = [(name, arguments) for name, arguments, _ in marks.args[1]]
    return {json.dumps(one): result for one, result in zip(map(list, calls), call(root, *calls), strict=True)}


def test_nothing_but_the_protocol_is_on_stdout_and_the_end_of_stdin_ends_the_server(root: Path) -> None:
    hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "0"}}
    lines = [
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "sets", "arguments": {}}},
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "clusterpaths.commands.main", "mcp", "--cache-root", str(root)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    answers = []
    for line in lines:
        process.stdin.write(json.dumps(line) + "\n")
        process.stdin.flush()
        if "id" in line:
            answers.append(json.loads(process.stdout.readline()))
    rest, told = process.communicate(timeout=60)
    assert [answer["id"] for answer in answers] == [1, 2]
    assert answers[0]["result"]["serverInfo"]["name"] == "clusterpaths"
    assert (rest, process.returncode) == ("", 0), told


def test_help_and_other_commands_do_not_import_the_sdk() -> None:
    check = (
        "import sys; from clusterpaths.commands.main import call, library; library();"
        "import clusterpaths.commands.mcp, clusterpaths.commands.find, clusterpaths.assistant.tools;"
        "assert 'mcp' not in sys.modules and 'fastapi' not in sys.modules, 'imported'"
    )
    subprocess.run(
        [sys.executable, "-c", check], check=True, env=os.environ | {"PYTHONPATH": str(PROJECT)}, timeout=120
    )


def test_without_the_sdk_the_command_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from clusterpaths.commands import mcp as command
    from clusterpaths.common import extras

    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as ended:
        command.main([])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert "needs mcp, which is not installed" in told
    assert "[mcp]" in told
