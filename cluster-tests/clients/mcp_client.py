"""Asks a lab what an assistant would, with the Python SDK of MCP, in each era that it speaks.

    python mcp_client.py [--until-closed] DOOR...

A DOOR is a URL (http://127.0.0.1:11435/mcp), several with commas between them, of which the next is taken where one is
gone, or a command ('ollamax mcp --data-dir DIR') that is spoken with over its standard input and output. A command goes
over the admin socket, so its caller may do everything; callers over HTTP may read.

Prints a line of JSON for each step. With --until-closed it then goes on reading through all doors at once, says
`reading` when each has answered, and ends some calls after standard input was closed: nodes may die meanwhile. A
command must not fail a single call then; over HTTP the client may connect again, and the call must be answered then.

Ends with exit code 0 when all of that held; else with the traceback of the first thing that did not.
"""

import json
import shlex
import sys
import threading
import time
from contextlib import asynccontextmanager
from datetime import timedelta
from importlib.metadata import version

import anyio
from jsonschema import Draft202012Validator
from mcp import StdioServerParameters

VERSION = version("mcp")
IS_FIRST = VERSION.startswith("1.")
if IS_FIRST:
    import httpx
    from mcp import ClientSession
    from mcp.client.stdio import stdio_client
    from mcp.client.streamable_http import streamable_http_client
    from mcp.shared.exceptions import McpError
else:
    import httpx2 as httpx
    from mcp import Client
    from mcp.shared.exceptions import MCPError as McpError

# How each version of the SDK may begin, and the revision that it comes to.
MODES = {"handshake": "2025-11-25"} if IS_FIRST else {"discover": "2026-07-28", "handshake": "2025-11-25"}
WANTED = "wanted:latest"
NOBODY_HAS = "no-such-model"
# A call that takes longer counts as lost.
SECONDS = 10
# Between two calls through one door, and how many are made after the end was told.
PAUSE = 0.5
CALLS_LAST = 3
RECONNECTS_MAX = 20
INVALID_PARAMS = -32602
# What both versions say of an answer that did not come: the connection closed, or it took too long.
LOST = (-32000, -32001, 408)


def main():
    words = sys.argv[1:]
    goes_on = "--until-closed" in words
    doors = [Door(word) for word in words if word != "--until-closed"]
    assert doors, __doc__
    anyio.run(ask, doors, goes_on)


async def ask(doors, goes_on):
    for door in doors:
        for mode in MODES:
            await check(door, mode)
    if goes_on:
        end, begun = Event(), Countdown(len(doors) * len(MODES))
        threading.Thread(target=end.watch, daemon=True).start()
        async with anyio.create_task_group() as group:
            for door in doors:
                for mode in MODES:
                    group.start_soon(read_on, door, mode, end, begun)


def say(step, door, mode, **more):
    line = {"step": step, "sdk": VERSION, "door": door and door.word, "mode": mode, **more}
    print(json.dumps(line), flush=True)


# --- doors ----------------------------------------------------------------------------------------------------------


class Door:
    def __init__(self, word):
        self.word = word
        self.is_http = word.startswith("http://")
        command, *arguments = shlex.split(word)
        self.ways = word.split(",") if self.is_http else [StdioServerParameters(command=command, args=arguments)]

    @asynccontextmanager
    async def open(self, mode, way=0):
        """A client, and the revision that it came to."""
        way = self.ways[way % len(self.ways)]
        if IS_FIRST:
            transport = streamable_http_client(way) if self.is_http else stdio_client(way)
            patience = timedelta(seconds=SECONDS)
            async with transport as (read, write, *_), ClientSession(read, write, patience) as session:
                yield session, (await session.initialize()).protocolVersion
        else:
            named = {"discover": "auto", "handshake": "legacy"}[mode]
            async with Client(way, mode=named, read_timeout_seconds=SECONDS) as client:
                yield client, client.protocol_version


class Event:
    """That standard input was closed."""

    def __init__(self):
        self.is_here = False

    def watch(self):
        sys.stdin.read()
        self.is_here = True


class Countdown:
    """Says `reading` when all have begun."""

    def __init__(self, count):
        self.left = count

    def begin(self):
        self.left -= 1
        if self.left == 0:
            say("reading", None, None)


# --- what an assistant asks -----------------------------------------------------------------------------------------


async def check(door, mode):
    async with door.open(mode) as (client, revision):
        assert revision == MODES[mode], f"{door.word}, {mode}: {revision}"
        say("connected", door, mode, revision=revision)
        tools = {tool["name"]: tool for tool in plain(await client.list_tools())["tools"]}
        check_tools(tools)
        say("listed", door, mode, tools=len(tools))
        health = await told(client, tools, "health_check")
        assert health["status"] in ("ok", "degraded") and health["node"], health
        say("health_check", door, mode, status=health["status"], node=health["node"])
        nodes = (await told(client, tools, "list_nodes"))["nodes"]
        (leader,) = [node["name"] for node in nodes if node["leader"]]
        say("list_nodes", door, mode, nodes=sorted(node["name"] for node in nodes), leader=leader)
        await check_refusals(client)
        say("refused", door, mode)
        say("pull_model", door, mode, plan=await dry_run(door, client, tools))


def check_tools(tools):
    for name, tool in tools.items():
        assert tool["description"], name
        for schema in (tool["inputSchema"], tool["outputSchema"]):
            Draft202012Validator.check_schema(schema)
            assert schema["type"] == "object", f"{name}: {schema}"
        hints = [tool["annotations"][f"{hint}Hint"] for hint in ("readOnly", "destructive", "idempotent", "openWorld")]
        assert all(isinstance(hint, bool) for hint in hints), f"{name}: {hints}"


async def told(client, tools, name, arguments=None):
    """What a tool answers, as its schema says."""
    answer = plain(await client.call_tool(name, arguments or {}))
    assert not answer["isError"], f"{name}: {answer}"
    value = answer["structuredContent"]
    assert json.loads(answer["content"][0]["text"]) == value, f"{name} says two things: {answer}"
    if tools is not None:
        Draft202012Validator(tools[name]["outputSchema"]).validate(value)
    return value


async def refused(client, name, arguments, code):
    """What a tool says when it refuses: an answer, and no error of the protocol."""
    answer = plain(await client.call_tool(name, arguments))
    assert answer["isError"] and answer.get("structuredContent") is None, f"{name}: {answer}"
    error = json.loads(answer["content"][0]["text"])
    assert error["code"] == code and error["message"] and error["next"], f"{name}: {error}"


async def check_refusals(client):
    await refused(client, "get_model_info_extended", {"name": NOBODY_HAS}, "model_not_found")
    await refused(client, "list_nodes", {"health": "Splendid"}, "bad_request")
    try:
        answer = await client.call_tool("no_such_tool", {})
    except McpError as problem:
        assert problem.error.code == INVALID_PARAMS, problem.error
    else:
        raise AssertionError(f"a tool that does not exist answers {answer}")


async def dry_run(door, client, tools):
    """What would come of a pull; over HTTP nobody may ask."""
    asked = {"name": WANTED, "all": True, "dry_run": True}
    if door.is_http:
        assert "pull_model" not in tools, "a tool is listed that may not be called"
        await refused(client, "pull_model", asked, "forbidden")
        return None
    done = await told(client, tools, "pull_model", asked)
    assert done["task"] is None and done["result"] is None, done
    assert any("asks the registry" in line for line in done["plan"]), done
    return done["plan"]


def plain(answer):
    return answer.model_dump(mode="json", by_alias=True)


# --- while nodes die ------------------------------------------------------------------------------------------------


async def read_on(door, mode, end, begun):
    calls, reconnects, slowest, left = 0, 0, 0.0, CALLS_LAST
    while left:
        try:
            async with door.open(mode, way=reconnects) as (client, _):
                while left:
                    asked_at = time.monotonic()
                    await told(client, None, ("health_check", "list_nodes")[calls % 2])
                    slowest = max(slowest, time.monotonic() - asked_at)
                    calls += 1
                    if calls == 1:
                        begun.begin()
                    if end.is_here:
                        left -= 1
                    await anyio.sleep(PAUSE)
        except Exception as problem:
            if not door.is_http or not is_lost(problem) or reconnects == RECONNECTS_MAX:
                raise
            reconnects += 1
            await anyio.sleep(PAUSE)
    say("read", door, mode, calls=calls, reconnects=reconnects, slowest_ms=round(1000 * slowest))


def is_lost(problem):
    """Whether the connection is what failed, and nothing else."""
    if isinstance(problem, BaseExceptionGroup):
        return all(is_lost(inner) for inner in problem.exceptions)
    if isinstance(problem, McpError):
        return problem.error.code in LOST
    return isinstance(problem, (httpx.TransportError, anyio.ClosedResourceError, anyio.BrokenResourceError))


if __name__ == "__main__":
    main()
