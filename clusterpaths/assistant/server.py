"""The Model Context Protocol: tools of `tools.py` over stdin and stdout, by the official SDK.

Belongs here: what the protocol wants around a tool. Importing this module imports the SDK, which is an extra.
"""

from __future__ import annotations

import base64
import functools
import inspect
import logging
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated, Any

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import CallToolResult, ContentBlock, ImageContent, TextContent, ToolAnnotations
from pydantic import BaseModel, Field, TypeAdapter

from clusterpaths.assistant.tools import LARGEST_PICTURE, Few, Id, Set, Tools
from clusterpaths.common.disclosure import LOGGER, describe
from clusterpaths.errors import ClusterPathsError
from clusterpaths.explore.library import Library
from clusterpaths.explore.records import ExampleDetail

INSTRUCTIONS = (
    "Answers about cluster paths: which route each image takes through the layers of an image classifier. Call sets first, then "
    "choices for the names of classes and attributes. Classes are what the model predicted (prediction) or what the data say "
    "(label). Report shares with their counts, and lifts only where clear is true. Nothing can be changed through these tools."
)
READ_ONLY = ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False)
Pixels = Annotated[int, Field(ge=0, le=LARGEST_PICTURE, description="of the picture's longer side; 0: no picture")]


def make_server(library: Library) -> MCPServer[Any]:
    """The server of a library, read-only."""
    tools = Tools(library)
    server: MCPServer[Any] = MCPServer(
        "clusterpaths", instructions=INSTRUCTIONS, version=version("clusterpaths"), log_level="WARNING"
    )

    def example(
        set: Set,  # noqa: A002
        id: Id,  # noqa: A002
        neighbours: Few = 6,
        picture: Pixels = 320,
    ) -> Annotated[CallToolResult, ExampleDetail]:
        detail = tools.example(set, id, neighbours)
        content: list[ContentBlock] = [TextContent(type="text", text=detail.model_dump_json())]
        jpeg = tools.picture(set, id, picture) if picture else None
        if jpeg is not None:
            content.append(ImageContent(type="image", data=base64.b64encode(jpeg).decode(), mime_type="image/jpeg"))
        return CallToolResult(content=content, structured_content=detail.model_dump(mode="json"))

    LOGGER.setLevel(logging.INFO)  # what a text left out, also of what was not found
    for function in tools.all():
        server.add_tool(_reported(_answering(function)), annotations=READ_ONLY)
    server.add_tool(_reported(example), description=Tools.example.__doc__, annotations=READ_ONLY)
    return server


def _answering(function: Callable[..., Any]) -> Callable[..., CallToolResult]:
    """The same function, whose record is the result: as text without white space, which an assistant reads, and structured."""
    signature = inspect.signature(function, eval_str=True)
    kind = signature.return_annotation
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    is_record = isinstance(kind, type) and issubclass(kind, BaseModel)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> CallToolResult:
        found = function(*args, **kwargs)
        value = adapter.dump_python(found, mode="json")
        return CallToolResult(
            content=[TextContent(type="text", text=adapter.dump_json(found).decode())],
            structured_content=value if is_record else {"result": value},
        )

    vars(call)["__signature__"] = signature.replace(return_annotation=Annotated[CallToolResult, kind])
    return call


def _reported(function: Callable[..., CallToolResult]) -> Callable[..., CallToolResult]:
    """The same function; expected errors become errors of the tool, with the HTTP API's text: no file of this machine."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> CallToolResult:
        try:
            return function(*args, **kwargs)
        except ClusterPathsError as error:
            raise ToolError(describe(error)[1]) from error

    return call
