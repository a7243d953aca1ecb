// Asks a lab what an assistant would, with the TypeScript SDK of MCP, in each era that it speaks.
//
//     npx -y -p node@22 -p PACKAGE node mcp_client.mjs PACKAGE [--until-closed] DOOR...
//
// PACKAGE is @modelcontextprotocol/client (2026-07-28, and the handshake) or @modelcontextprotocol/sdk (the handshake).
// Doors, what is printed and how it ends are those of mcp_client.py, which says more.

import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { delimiter, dirname, join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";

const WANTED = "wanted:latest";
const NOBODY_HAS = "no-such-model";
// A call that takes longer counts as lost.
const CALL_MS = 10_000;
// Between two calls through one door, and how many are made after the end was told.
const PAUSE_MS = 500;
const CALLS_LAST = 3;
const RECONNECTS_MAX = 20;
const INVALID_PARAMS = -32602;
// What the first version says of an answer that did not come: the connection closed, or it took too long.
const LOST = [-32000, -32001];
// What the second one says of it.
const LOST_WORDS = ["CONNECTION_CLOSED", "REQUEST_TIMEOUT", "SEND_FAILED", "NOT_CONNECTED"];

const [PACKAGE, ...words] = process.argv.slice(2);
const IS_FIRST = PACKAGE === "@modelcontextprotocol/sdk";
const require = createRequire(installed(PACKAGE));
const VERSION = require(join(dirname(installed(PACKAGE)), "package.json")).version;
const { Client } = require(IS_FIRST ? `${PACKAGE}/client/index.js` : PACKAGE);
const { StdioClientTransport } = require(IS_FIRST ? `${PACKAGE}/client/stdio.js` : `${PACKAGE}/stdio`);
const { StreamableHTTPClientTransport } = require(IS_FIRST ? `${PACKAGE}/client/streamableHttp.js` : PACKAGE);

// How each version of the SDK may begin, and the revision that it comes to.
const MODES = IS_FIRST ? { handshake: "2025-11-25" } : { discover: "2026-07-28", handshake: "2025-11-25" };

// Where npx has put the package: it leads PATH to the programs beside it.
function installed(name) {
    const folders = process.env.PATH.split(delimiter).map((folder) => join(folder, "..", name, "package.json"));
    const found = folders.find((file) => existsSync(file));
    assert(found, `${name} is not beside any folder of PATH: start this with npx -p ${name}`);
    return found;
}

function say(step, door, mode, more) {
    console.log(JSON.stringify({ step, sdk: VERSION, door: door?.word ?? null, mode, ...more }));
}

// --- doors -----------------------------------------------------------------------------------------------------------

class Door {
    constructor(word) {
        this.word = word;
        this.isHttp = word.startsWith("http://");
        this.ways = this.isHttp ? word.split(",") : [split(word)];
    }

    async open(mode, way = 0) {
        const to = this.ways[way % this.ways.length];
        const [command, ...args] = this.isHttp ? [] : to;
        const transport = this.isHttp
            ? new StreamableHTTPClientTransport(new URL(to))
            : new StdioClientTransport({ command, args, stderr: "inherit" });
        const named = { discover: "auto", handshake: "legacy" }[mode];
        const options = IS_FIRST ? {} : { versionNegotiation: { mode: named } };
        const client = new Client({ name: "ollamax-tests", version: "1" }, options);
        await client.connect(transport, { timeout: CALL_MS });
        return client;
    }
}

// Words of a command; what stands in single quotes is one.
function split(word) {
    return [...word.matchAll(/'([^']*)'|(\S+)/g)].map((found) => found[1] ?? found[2]);
}

// --- what an assistant asks ------------------------------------------------------------------------------------------

async function check(door, mode) {
    const client = await door.open(mode);
    const revision = client.getNegotiatedProtocolVersion?.() ?? null;
    assert([MODES[mode], IS_FIRST ? null : MODES[mode]].includes(revision), `${door.word}, ${mode}: ${revision}`);
    say("connected", door, mode, { revision });
    // The SDK checks each answer against the schema that it read here.
    const { tools } = await client.listTools({}, { timeout: CALL_MS });
    for (const { name, description, inputSchema, outputSchema, annotations } of tools) {
        assert(description && inputSchema.type === "object" && outputSchema.type === "object", name);
        for (const hint of ["readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint"]) {
            assert.equal(typeof annotations[hint], "boolean", `${name}: ${hint}`);
        }
    }
    say("listed", door, mode, { tools: tools.length });
    const health = await told(client, "health_check");
    assert(["ok", "degraded"].includes(health.status) && health.node, JSON.stringify(health));
    say("health_check", door, mode, { status: health.status, node: health.node });
    const { nodes } = await told(client, "list_nodes");
    assert.equal(nodes.filter((node) => node.leader).length, 1, JSON.stringify(nodes));
    say("list_nodes", door, mode, { nodes: nodes.map((node) => node.name).sort() });
    await refused(client, "get_model_info_extended", { name: NOBODY_HAS }, "model_not_found");
    await refused(client, "list_nodes", { health: "Splendid" }, "bad_request");
    await assert.rejects(call(client, "no_such_tool", {}), (problem) => problem.code === INVALID_PARAMS);
    say("refused", door, mode);
    const asked = { name: WANTED, all: true, dry_run: true };
    if (door.isHttp) {
        assert(!tools.some((tool) => tool.name === "pull_model"), "a tool is listed that may not be called");
        await refused(client, "pull_model", asked, "forbidden");
    } else {
        const { task, plan } = await told(client, "pull_model", asked);
        assert(task === null && plan.some((line) => line.includes("asks the registry")), JSON.stringify(plan));
    }
    say("pull_model", door, mode);
    await client.close();
}

function call(client, name, args) {
    const asked = { name, arguments: args };
    return IS_FIRST
        ? client.callTool(asked, undefined, { timeout: CALL_MS })
        : client.callTool(asked, { timeout: CALL_MS });
}

// What a tool answers, as its schema says.
async function told(client, name, args = {}) {
    const answer = await call(client, name, args);
    assert(!answer.isError, `${name}: ${JSON.stringify(answer)}`);
    assert.deepEqual(JSON.parse(answer.content[0].text), answer.structuredContent, `${name} says two things`);
    return answer.structuredContent;
}

// What a tool says when it refuses: an answer, and no error of the protocol.
async function refused(client, name, args, code) {
    const answer = await call(client, name, args);
    assert(answer.isError && answer.structuredContent === undefined, `${name}: ${JSON.stringify(answer)}`);
    const error = JSON.parse(answer.content[0].text);
    assert(error.code === code && error.message && error.next, `${name}: ${JSON.stringify(error)}`);
}

// --- while nodes die -------------------------------------------------------------------------------------------------

async function readOn(door, mode, end, begun) {
    let client, slowest = 0;
    let [calls, reconnects, left] = [0, 0, CALLS_LAST];
    while (left > 0) {
        try {
            client ??= await door.open(mode, reconnects);
            const wasOver = end.isHere;
            const askedAt = performance.now();
            await told(client, ["health_check", "list_nodes"][calls % 2]);
            slowest = Math.max(slowest, performance.now() - askedAt);
            calls += 1;
            if (calls === 1) begun();
            if (wasOver) left -= 1;
        } catch (problem) {
            if (!door.isHttp || !isLost(problem) || reconnects === RECONNECTS_MAX) throw problem;
            await client?.close().catch(() => {});
            client = undefined;
            reconnects += 1;
        }
        await pause(PAUSE_MS);
    }
    await client?.close();
    say("read", door, mode, { calls, reconnects, slowest_ms: Math.round(slowest) });
}

// Whether the connection is what failed, and nothing else.
function isLost(problem) {
    if (problem instanceof assert.AssertionError) return false;
    // What `fetch` throws where nobody listens, and where the other end is gone.
    if (problem instanceof TypeError && problem.message === "fetch failed") return true;
    const says = [...LOST, ...LOST_WORDS].includes(problem.code);
    return says || (problem.cause !== undefined && isLost(problem.cause));
}

async function main() {
    const goesOn = words.includes("--until-closed");
    const doors = words.filter((word) => word !== "--until-closed").map((word) => new Door(word));
    assert(doors.length > 0, "no door is named");
    for (const door of doors) {
        for (const mode of Object.keys(MODES)) await check(door, mode);
    }
    if (!goesOn) return;
    const end = { isHere: false };
    process.stdin.on("end", () => (end.isHere = true)).resume();
    let left = doors.length * Object.keys(MODES).length;
    const begun = () => {
        left -= 1;
        if (left === 0) say("reading", null, null);
    };
    await Promise.all(doors.flatMap((door) => Object.keys(MODES).map((mode) => readOn(door, mode, end, begun))));
}

await main();
// What a client that was lost has left open does not keep this alive.
process.exit(0);
