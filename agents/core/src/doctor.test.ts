/** Each step of `doctor`, by making it really fail, against sockets of this machine. */
import { once } from "node:events";
import { readdirSync, writeFileSync } from "node:fs";
import { createServer as createHttp1 } from "node:http";
import { createServer as createHttp2, createSecureServer } from "node:http2";
import { createServer as createHttps } from "node:https";
import type { AddressInfo, Server } from "node:net";
import { join } from "node:path";
import { Code, ConnectError, type ConnectRouter, type HandlerContext } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { expect, test } from "@jest/globals";
import { AgentService, type ExamineRequest } from "@bowline/contract/agent";
import { atEnd, certificateAuthority, certificates, freePort, startHttpProxy, temporaryFolder } from "@bowline/testing";
import { readDoctorConfig } from "./config.ts";
import { reportOf } from "./doctor-report.ts";
import { diagnose } from "./doctor.ts";

const token = `bwr_${"a".repeat(26)}_${"s".repeat(43)}`;
const speaks = { serverVersion: "0.9.0", protocolMin: 1, protocolMax: 1 };
type Examine = (request: ExamineRequest, context: HandlerContext) => object;

/** A server that examines as told; `date` instead of its own time. */
function handler(examine: Examine = () => ({ ...speaks, cluster: "factory-7" }), date?: Date) {
  const routes = (router: ConnectRouter) => router.service(AgentService, { examine });
  const adapter = connectNodeAdapter({ routes });
  return (request: Parameters<typeof adapter>[0], response: Parameters<typeof adapter>[1]): void => {
    if (date !== undefined) response.setHeader("date", date.toUTCString());
    adapter(request, response);
  };
}

async function listening(server: Server): Promise<number> {
  const sockets = new Set<{ destroy(): void }>();
  server.on("connection", (socket) => sockets.add(socket.on("error", () => undefined)));
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  atEnd(async () => {
    for (const socket of sockets) socket.destroy();
    server.close();
    await once(server, "close");
  });
  return (server.address() as AddressInfo).port;
}

const clear = (examine?: Examine, date?: Date) => listening(createHttp2(handler(examine, date)) as unknown as Server);

/** What `doctor` says, with a registration token unless the flags have their own mind. */
async function doctor(flags: readonly string[], environment: Record<string, string> = {}) {
  const dataDir = temporaryFolder();
  const settings = { BOWLINE_REGISTRATION_TOKEN: token, ...environment };
  const { config } = readDoctorConfig(["--data-dir", dataDir, ...flags], () => undefined, settings);
  const report = reportOf(await diagnose(config));
  expect(readdirSync(dataDir)).toEqual([]); // D1
  expect(report.text).not.toContain(token);
  const { steps, ...json } = report.json as { steps: { step: string; state: string }[] };
  const inState = (state: string) => steps.filter((step) => step.state === state).map(({ step }) => step);
  return { ...report, ...json, ok: inState("ok"), left: inState("not-reached"), spared: inState("not-needed") };
}

test("where all is well each step says so, and the exit code is 0", async () => {
  const { ca, server } = certificates();
  const secure = createSecureServer({ cert: server.chain, key: server.key }, handler());
  const port = await listening(secure as unknown as Server);
  const well = await doctor(["--server", `https://localhost:${port}`, "--ca-fingerprint", ca.fingerprint]);
  expect(well).toMatchObject({ exitCode: 0, left: [], spared: [] });
  expect(well.ok).toEqual(["dns", "tcp", "proxy", "tls", "http2", "clock", "token", "version"]);
  expect(well.text).toContain("it enrols an agent in factory-7");
});

test("a name that nobody knows fails at DNS, a closed port at TCP; what is behind was not reached", async () => {
  const unknown = await doctor(["--server", "https://nowhere.invalid"]);
  expect(unknown).toMatchObject({ exitCode: 5, failed: "dns", reason: "DNS_FAILED", ok: [] });
  expect(unknown.text).toMatch(/✗ DNS[^]*– TCP, proxy, TLS, HTTP\/2, clock, token, version: not reached\nDNS_FAILED$/);
  const closed = await doctor(["--server", `http://127.0.0.1:${await freePort()}`]);
  expect(closed).toMatchObject({ exitCode: 5, failed: "tcp", reason: "TCP_REFUSED", ok: ["dns"] });
});

test("a proxy that opens no tunnel fails at the proxy, and its password is not told", async () => {
  const proxy = await startHttpProxy({ refuse: 403 });
  const environment = { HTTPS_PROXY: proxy.url.replace("//", "//me:s3cret@") };
  const refused = await doctor(["--server", "https://bowline.example.com"], environment);
  expect(refused).toMatchObject({ exitCode: 5, failed: "proxy", reason: "PROXY_REFUSED", ok: ["dns", "tcp"] });
  expect(JSON.stringify(refused)).not.toContain("s3cret");
});

test("a CA that is not trusted, or has another fingerprint, fails at TLS with what to give", async () => {
  const { server } = certificates();
  const secure = createSecureServer({ cert: server.chain, key: server.key }, handler());
  const url = `https://localhost:${await listening(secure as unknown as Server)}`;
  const untrusted = await doctor(["--server", url]);
  expect(untrusted).toMatchObject({ exitCode: 5, failed: "tls", reason: "TLS_UNTRUSTED", ok: ["dns", "tcp", "proxy"] });
  expect(untrusted.text).toContain("--ca-file");
  const other = await doctor(["--server", url, "--ca-fingerprint", certificateAuthority().fingerprint]);
  expect(other).toMatchObject({ failed: "tls", reason: "CA_FINGERPRINT_MISMATCH", ok: ["dns", "tcp", "proxy"] });
});

test("behind a proxy that speaks HTTP/1.1 alone HTTP/2 fails, and the rest is asked as an agent would that polls", async () => {
  const { server } = certificates("bowline.test");
  const corporate = certificateAuthority("Corporate");
  const intercept = corporate.issue({ names: ["bowline.test"] });
  const secure = createHttps({ cert: server.chain, key: server.key }, handler());
  const port = await listening(secure as unknown as Server);
  const hosts = { "bowline.test": "127.0.0.1" };
  const proxy = await startHttpProxy({ hosts, intercept, interceptProtocols: ["http/1.1"] });
  const flags = ["--server", `https://bowline.test:${port}`, "--ca-file", corporate.files().cert];
  const environment = { HTTPS_PROXY: proxy.url };
  const polls = await doctor(flags, environment);
  expect(polls).toMatchObject({ exitCode: 1, failed: "http2", reason: "HTTP2_UNAVAILABLE" });
  expect(polls.ok).toEqual(["dns", "tcp", "proxy", "tls", "clock", "token", "version"]);
  const streams = await doctor([...flags, "--transport", "stream"], environment);
  expect(streams).toMatchObject({ exitCode: 5, failed: "http2", left: ["clock", "token", "version"] });
  const meant = await doctor([...flags, "--transport", "poll"], environment);
  expect(meant).toMatchObject({ exitCode: 0, spared: ["http2"] });
});

test("a server that is not Bowline's is told apart, over HTTP/2 and over HTTP/1.1", async () => {
  const page = await listening(createHttp2((_, response) => response.end("<html>")) as unknown as Server);
  const strange = await doctor(["--server", `http://127.0.0.1:${page}`]);
  expect(strange).toMatchObject({ exitCode: 5, failed: "http2", reason: "NO_BOWLINE_SERVER" });
  const old = await listening(createHttp1((_, response) => response.end("<html>")) as unknown as Server);
  expect(await doctor(["--server", `http://127.0.0.1:${old}`])).toMatchObject({ exitCode: 5, failed: "http2" });
});

test.each([
  ["ahead of", -3_600_000],
  ["behind", 3_600_000],
])("a clock that is %s the server's by an hour fails at the clock, whatever else is answered", async (how, offset) => {
  const date = new Date(Date.now() + offset);
  for (const examine of [
    undefined,
    () => {
      throw new ConnectError("no such token", Code.Unauthenticated);
    },
  ]) {
    const skewed = await doctor(["--server", `http://127.0.0.1:${await clear(examine, date)}`]);
    expect(skewed).toMatchObject({ exitCode: 1, failed: "clock", reason: "CLOCK_SKEW", left: ["token", "version"] });
    expect(skewed.text).toMatch(new RegExp(`\\b3[56]\\d\\d s ${how} the server's`));
  }
});

test("a server whose protocol this agent does not speak fails at the version, and says which of both is to be upgraded", async () => {
  const newer = await clear(() => ({ ...speaks, protocolMin: 2, protocolMax: 3, cluster: "factory-7" }));
  const old = await doctor(["--server", `http://127.0.0.1:${newer}`]);
  expect(old).toMatchObject({ exitCode: 1, failed: "version", reason: "PROTOCOL_UNSUPPORTED", left: [] });
  expect(old.text).toContain("Upgrade this agent.");
});

test("a folder whose files are broken is said to be, and nothing is dialled", async () => {
  const dataDir = temporaryFolder();
  writeFileSync(join(dataDir, "agent.json"), "{", { mode: 0o600 });
  const flags = ["--data-dir", dataDir, "--server", "https://nowhere.invalid"];
  const { config } = readDoctorConfig(flags, () => undefined, {});
  await expect(diagnose(config)).rejects.toThrow(/is not the folder of an agent/);
});

test("without a token in a folder where none has enrolled it is the token that is missing", async () => {
  const port = await clear(() => {
    throw new ConnectError("send something", Code.Unauthenticated);
  });
  const nobody = await doctor(["--server", `http://127.0.0.1:${port}`], { BOWLINE_REGISTRATION_TOKEN: "" });
  expect(nobody).toMatchObject({ exitCode: 4, failed: "token", reason: "NOT_ENROLLED", left: ["version"] });
});
