import { execFile } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { connect as connectHttp2, constants } from "node:http2";
import { connect as connectTcp, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { connect as connectTls, type ConnectionOptions, type TLSSocket } from "node:tls";
import { promisify } from "node:util";
import { expect, test } from "@jest/globals";
import { atEnd, type Certificate, certificateAuthority, certificates, until } from "@bowline/testing";
import { listen, type Port, type PortHandler, type PortOptions } from "./port.ts";
import { clientThumbprintOf } from "./port-tls.ts";
import { openTls, type ServerTls } from "./tls.ts";

const run = promisify(execFile);
const quiet = { debug() {}, info() {}, warn() {}, error() {} };

/** Says which protocol it was, and with which client certificate it came. */
const echo: PortHandler = (request, response) => {
  response.setHeader("content-type", "application/json");
  response.end(JSON.stringify({ version: request.httpVersion, thumbprint: clientThumbprintOf(request.socket) }));
};

interface Opened extends Port {
  tls: ServerTls;
  files: { cert: string; key: string };
  told: string[];
  reloads: string[];
}

async function open(
  certificate: Certificate,
  options: Partial<PortOptions> & { clientCa?: string } = {},
): Promise<Opened> {
  const files = certificate.files();
  const told: string[] = [];
  const reloads: string[] = [];
  const over = new AbortController();
  const tls = await openTls(
    { ...files, clientCa: options.clientCa ?? "" },
    {
      sleep: (_, signal) => sleep(20, undefined, { signal }).catch(() => undefined),
      log: { info: (_, message) => told.push(message), warn: (fields) => told.push(JSON.stringify(fields)) },
      reloaded: (outcome) => reloads.push(outcome),
    },
  );
  const running = tls.run(over.signal);
  const port = await listen({ host: "127.0.0.1", port: 0, handler: echo, log: quiet, ...options, tls });
  atEnd(async () => {
    over.abort();
    await running;
    await port.close(0);
  });
  return { ...port, tls, files, told, reloads };
}

function dial(port: Port, options: ConnectionOptions): TLSSocket {
  const socket = connectTls({ port: port.port, host: "127.0.0.1", servername: "localhost", ...options });
  socket.on("error", () => undefined); // being closed is what some tests are about
  atEnd(() => void socket.destroy());
  return socket;
}

async function untilClosed(socket: Socket): Promise<string> {
  let text = "";
  socket.on("data", (chunk: Buffer) => (text += chunk.toString("latin1")));
  await new Promise<void>((resolve) => socket.once("close", () => resolve()));
  return text;
}

/** One request over HTTP/2; the session is closed after it. */
async function get(port: Port, options: ConnectionOptions): Promise<{ version: string; thumbprint: string }> {
  const session = connectHttp2(port.url, { servername: "localhost", ...options });
  const failed = new Promise<never>((_, reject) => session.once("error", reject));
  const read = async () => {
    const stream = session.request({ ":path": "/" });
    let text = "";
    for await (const chunk of stream) text += String(chunk);
    return JSON.parse(text) as { version: string; thumbprint: string };
  };
  try {
    return await Promise.race([read(), failed]);
  } finally {
    session.destroy();
  }
}

/** Fingerprint of the certificate that new connections get. */
async function shown(port: Port): Promise<string> {
  const socket = dial(port, { rejectUnauthorized: false });
  await once(socket, "secureConnect");
  const { fingerprint256 } = socket.getPeerCertificate();
  socket.destroy();
  return `sha256:${fingerprint256.replaceAll(":", "").toLowerCase()}`;
}

test("ALPN chooses HTTP/2 or HTTP/1.1; whoever brings none gets HTTP/1.1", async () => {
  const { ca, server } = certificates();
  const port = await open(server);
  expect(port.url).toMatch(/^https:/);
  expect(await get(port, { ca: ca.cert })).toMatchObject({ version: "2.0" });
  for (const ALPNProtocols of [["http/1.1"], undefined]) {
    const socket = dial(port, { ca: ca.cert, ...(ALPNProtocols === undefined ? {} : { ALPNProtocols }) });
    const answered = untilClosed(socket);
    socket.write("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    expect(await answered).toContain('"version":"1.1"');
  }
  const caFile = ca.files().cert;
  for (const [flag, version] of [
    ["--http1.1", "1.1"],
    ["--http2", "2.0"],
  ] as const) {
    const { stdout } = await run("curl", ["-s", "--cacert", caFile, flag, port.url]);
    expect(JSON.parse(stdout)).toMatchObject({ version });
  }
});

test("TLS 1.1 is refused", async () => {
  const { server } = certificates();
  const port = await open(server);
  const old = dial(port, {
    rejectUnauthorized: false,
    minVersion: "TLSv1",
    maxVersion: "TLSv1.1",
    ciphers: "ALL:@SECLEVEL=0",
  });
  const [error] = (await once(old, "error")) as [NodeJS.ErrnoException];
  expect(error.code).toContain("PROTOCOL");
});

test("clear text on a port of TLS is told to use https, and bytes of any kind are closed", async () => {
  const { ca, server } = certificates();
  const port = await open(server);
  const clear = connectTcp(port.port, "127.0.0.1");
  atEnd(() => void clear.destroy());
  const answered = untilClosed(clear);
  clear.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
  expect(await answered).toContain("https://");
  for (const bytes of ["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x16garbage that is no handshake at all", "\0\0\0\0"]) {
    const socket = connectTcp(port.port, "127.0.0.1");
    socket.on("error", () => undefined); // it is reset
    const closed = untilClosed(socket);
    socket.write(bytes);
    await closed;
  }
  expect(await get(port, { ca: ca.cert })).toMatchObject({ version: "2.0" });
  await until(() => port.connections() === 0);
});

test("silence, half a handshake and silence after it are closed within the named time", async () => {
  const { server } = certificates();
  const port = await open(server, { limits: { decideWithinMs: 150, pingEveryMs: 50, pingWithinMs: 50 } });
  const silent = connectTcp(port.port, "127.0.0.1");
  const half = connectTcp(port.port, "127.0.0.1");
  half.write(Buffer.from([0x16, 0x03, 0x01, 0x02, 0x00]));
  const after = dial(port, { rejectUnauthorized: false, ALPNProtocols: ["http/1.1"] });
  const mute = dial(port, { rejectUnauthorized: false, ALPNProtocols: ["h2"] });
  for (const socket of [silent, half]) socket.on("error", () => undefined); // they are reset
  await Promise.all([silent, half, after, mute].map(untilClosed));
  await until(() => port.connections() === 0);
});

test("more handshakes under way than allowed close the oldest", async () => {
  const { ca, server } = certificates();
  const port = await open(server, { limits: { maxUndecided: 1 } });
  const oldest = connectTcp(port.port, "127.0.0.1");
  oldest.on("error", () => undefined); // it is reset
  const closed = untilClosed(oldest);
  oldest.write(Buffer.from([0x16, 0x03, 0x01]));
  await once(oldest, "connect");
  expect(await get(port, { ca: ca.cert })).toMatchObject({ version: "2.0" });
  await closed;
});

test("closing says GOAWAY, lets what is open finish, and leaves no connection", async () => {
  const { ca, server } = certificates();
  const finish: (() => void)[] = [];
  const port = await open(server, { handler: (_, response) => void finish.push(() => void response.end("done")) });
  const session = connectHttp2(port.url, { ca: ca.cert, servername: "localhost" });
  const stream = session.request({ ":path": "/" });
  await until(() => finish.length === 1);
  const goaway = once(session, "goaway");
  const closed = port.close(60_000);
  expect((await goaway)[0]).toBe(constants.NGHTTP2_NO_ERROR);
  finish[0]?.();
  let text = "";
  for await (const chunk of stream) text += String(chunk);
  expect(text).toBe("done");
  await closed;
  expect(port.connections()).toBe(0);
});

test("a new pair of files is for new connections, and an open stream lives on", async () => {
  const ca = certificateAuthority();
  const port = await open(ca.issue());
  const session = connectHttp2(port.url, { ca: ca.cert, servername: "localhost" });
  await once(session, "remoteSettings");
  const next = ca.issue();
  writeFileSync(port.files.cert, next.chain);
  writeFileSync(port.files.key, next.key);
  await until(async () => (await shown(port)) === next.fingerprint);
  expect(port.reloads).toEqual(["ok"]);
  const stream = session.request({ ":path": "/" });
  const [headers] = (await once(stream, "response")) as [Record<string, number>];
  expect(headers[":status"]).toBe(200);
  session.destroy();
});

test("a pair that does not work keeps the old one, is told once and counted, and what follows it is taken", async () => {
  const ca = certificateAuthority();
  const first = ca.issue();
  const port = await open(first);
  const next = ca.issue();
  writeFileSync(port.files.key, next.key); // the certificate is still the old one
  await until(() => port.reloads.length > 0);
  expect(port.told.at(-1)).toContain("is not that of the certificate");
  expect(await shown(port)).toBe(first.fingerprint);
  writeFileSync(port.files.cert, "garbage");
  await until(() => port.reloads.length > 1);
  expect(port.told.at(-1)).toContain("holds no certificate in PEM");
  expect(port.reloads).toEqual(["failed", "failed"]);
  expect(await shown(port)).toBe(first.fingerprint);
  writeFileSync(port.files.cert, next.chain);
  await until(async () => (await shown(port)) === next.fingerprint);
  expect(port.reloads).toEqual(["failed", "failed", "ok"]);
});

test("files that cannot be used are named, with what is wrong", async () => {
  const ca = certificateAuthority();
  const good = ca.issue();
  const expired = ca.issue({ validTo: new Date("2020-01-01T00:00:00Z") });
  const wrong: [Partial<Certificate>, string][] = [
    [{ chain: "" }, "tls.crt holds no certificate"],
    [
      { chain: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n" },
      "tls.crt holds a certificate that cannot be read",
    ],
    [{ key: "nothing" }, "tls.key holds no private key"],
    [{ key: ca.key }, "is not that of the certificate"],
    [{ chain: expired.chain, key: expired.key }, "expired on 2020-01-01"],
  ];
  for (const [change, message] of wrong) {
    const files = good.files();
    writeFileSync(files.cert, change.chain ?? good.chain);
    writeFileSync(files.key, change.key ?? good.key);
    const opened = openTls({ ...files, clientCa: "" }, { sleep: async () => undefined, log: quiet, reloaded() {} });
    await expect(opened).rejects.toMatchObject({
      reason: "TLS_FILES_UNUSABLE",
      message: expect.stringContaining(message),
    });
  }
  const missing = openTls(
    { ...good.files(), cert: "/does/not/exist", clientCa: "" },
    { sleep: async () => undefined, log: quiet, reloaded() {} },
  );
  await expect(missing).rejects.toThrow("/does/not/exist cannot be read: ENOENT");
});

test("agents may pin the highest authority that the server shows, and nothing where there is none", async () => {
  const ca = certificateAuthority();
  const below = ca.intermediate();
  const pinOf = async (certificate: Certificate) => (await open(certificate)).tls.material().caFingerprint;
  expect(await pinOf(below.issue())).toBe(ca.fingerprint);
  const { cert, ...rest } = below.issue();
  expect(await pinOf({ ...rest, cert, files: () => withChain(rest, cert + below.cert) })).toBe(below.fingerprint);
  expect(await pinOf({ ...rest, cert, files: () => withChain(rest, cert) })).toBeUndefined();
  expect(await pinOf(ca)).toBe(ca.fingerprint);
});

function withChain(certificate: Pick<Certificate, "files">, chain: string) {
  const files = certificate.files();
  writeFileSync(files.cert, chain);
  return files;
}

test("a client certificate is asked for and not demanded, and counts only from the CA of clients", async () => {
  const { ca, server } = certificates();
  const clients = certificateAuthority("Clients");
  const port = await open(server, { clientCa: clients.files().cert });
  const press = clients.issue({ name: "press-1", names: [] });
  const foreign = certificateAuthority("Others").issue({ name: "press-1", names: [] });
  const own = (of: Certificate) => ({ ca: ca.cert, cert: of.cert, key: of.key });
  expect(await get(port, { ca: ca.cert })).toMatchObject({ thumbprint: "" });
  expect(await get(port, own(press))).toMatchObject({ thumbprint: press.fingerprint });
  expect(await get(port, own(foreign))).toMatchObject({ thumbprint: "" });
  const expired = clients.issue({ names: [], name: "late", validTo: new Date(Date.now() - 1) });
  expect(await get(port, own(expired))).toMatchObject({ thumbprint: "" });
});
