/** Each step against real sockets: what works, and how each way of failing is called. */
import { once } from "node:events";
import { createServer as createHttp1, request } from "node:http";
import { createSecureServer, createServer as createHttp2 } from "node:http2";
import { createServer as createHttps, request as requestTls } from "node:https";
import { type AddressInfo, createServer as createTcp, type Server, type Socket } from "node:net";
import { createServer as createTls } from "node:tls";
import { expect, test } from "@jest/globals";
import {
  atEnd,
  type Certificate,
  certificateAuthority,
  certificates,
  freePort,
  startHttpProxy,
} from "@bowline/testing";
import { dialledAgent } from "./agents.ts";
import { dialHttp2, type DialOptions, type StepReport } from "./dial.ts";
import { pinAuthority } from "./pin.ts";
import { DialError } from "./reasons.ts";
import type { DialTarget } from "./target.ts";

/** A server's port; it and its connections end with the test. */
async function serve(server: Server): Promise<number> {
  const sockets = new Set<Socket>();
  server.on("connection", (socket: Socket) => {
    sockets.add(socket);
    socket.on("error", () => undefined); // a client that goes away is what some tests are about
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  atEnd(async () => {
    for (const socket of sockets) socket.destroy();
    server.close();
    await once(server, "close");
  });
  return (server.address() as AddressInfo).port;
}

const secureHttp2 = (certificate: Certificate): Promise<number> =>
  serve(createSecureServer({ cert: certificate.chain, key: certificate.key }) as unknown as Server);

/** Dials, hangs up, and says which steps there were. */
async function dialled(target: DialTarget, options: DialOptions = {}): Promise<StepReport[]> {
  const steps: StepReport[] = [];
  const session = await dialHttp2(target, { ...options, report: (step) => steps.push(step) });
  session.destroy();
  return steps;
}

async function failure(target: DialTarget): Promise<Pick<DialError, "step" | "reason" | "message" | "remedy">> {
  const error = await dialled(target).then(
    () => new Error("it was reached"),
    (thrown: unknown) => thrown,
  );
  if (!(error instanceof DialError)) throw error;
  const { step, reason, message, remedy } = error;
  return { step, reason, message, remedy };
}

test("a server in clear text is reached in four steps, one with TLS in five", async () => {
  const clear = await serve(createHttp2() as unknown as Server);
  expect((await dialled({ url: `http://127.0.0.1:${clear}/prefix` })).map(({ step }) => step)).toEqual([
    "dns",
    "tcp",
    "proxy",
    "http2",
  ]);
  const { ca, server } = certificates();
  const port = await secureHttp2(server);
  const steps = await dialled({ url: `https://localhost:${port}`, ca: ca.cert });
  expect(steps.map(({ step }) => step)).toEqual(["dns", "tcp", "proxy", "tls", "http2"]);
  expect(steps[1]).toMatchObject({ address: expect.stringMatching(/127\.0\.0\.1/), port });
  expect(steps[2]).toMatchObject({ proxy: undefined });
  expect(steps[3]).toMatchObject({ version: "TLSv1.3", alpn: "h2", fingerprint: server.fingerprint });
});

test("a name that does not exist is DNS_FAILED, a closed port TCP_REFUSED, a step without an answer ends in time", async () => {
  expect(await failure({ url: "https://nowhere.invalid" })).toMatchObject({ step: "dns", reason: "DNS_FAILED" });
  const closed = await freePort();
  expect(await failure({ url: `http://127.0.0.1:${closed}` })).toMatchObject({ step: "tcp", reason: "TCP_REFUSED" });
  const mute = await serve(createTcp());
  const short = { stepTimeoutMs: 2_000 }; // long enough for the steps before, on a busy machine too
  expect(await failure({ url: `https://127.0.0.1:${mute}`, ...short })).toMatchObject({
    step: "tls",
    reason: "TLS_FAILED",
  });
  expect(await failure({ url: `http://127.0.0.1:${mute}`, ...short })).toMatchObject({
    step: "http2",
    reason: "HTTP2_UNAVAILABLE",
  });
});

test("a certificate for another name, of an unknown CA, expired, or not valid yet is told apart, with what it says", async () => {
  const ca = certificateAuthority();
  const other = await secureHttp2(ca.issue({ names: ["other.example", "*.corp.example"] }));
  const wrong = await failure({ url: `https://127.0.0.1:${other}`, ca: ca.cert });
  expect(wrong).toMatchObject({ step: "tls", reason: "TLS_WRONG_NAME" });
  expect(wrong.message).toContain("other.example, *.corp.example");

  const good = await secureHttp2(ca.issue());
  const url = `https://127.0.0.1:${good}`;
  expect(await failure({ url })).toMatchObject({
    reason: "TLS_UNTRUSTED",
    remedy: expect.stringContaining("--ca-file"),
  });
  const strange = await failure({ url, ca: certificateAuthority("Somebody else").cert });
  expect(strange).toMatchObject({ reason: "TLS_UNTRUSTED", message: expect.stringContaining("Bowline test CA") });

  const yesterday = new Date(Date.now() - 86_400_000);
  const expired = await secureHttp2(ca.issue({ validFrom: new Date(0), validTo: yesterday }));
  const late = await failure({ url: `https://127.0.0.1:${expired}`, ca: ca.cert });
  expect(late).toMatchObject({ reason: "TLS_EXPIRED", message: expect.stringContaining("has expired") });
  const tomorrow = new Date(Date.now() + 3_600_000);
  const early = await secureHttp2(ca.issue({ validFrom: tomorrow }));
  expect(await failure({ url: `https://127.0.0.1:${early}`, ca: ca.cert })).toMatchObject({
    reason: "TLS_EXPIRED",
    message: expect.stringContaining("not valid yet"),
  });
});

test("https to a server of clear text and http to one of TLS are told, each with the other scheme", async () => {
  const { server } = certificates();
  const clear = await serve(createHttp1() as unknown as Server);
  expect(await failure({ url: `https://127.0.0.1:${clear}` })).toMatchObject({
    ...{ step: "tls", reason: "TLS_NOT_SPOKEN" },
    remedy: expect.stringContaining("http://"),
  });
  expect(await failure({ url: `http://127.0.0.1:${await secureHttp2(server)}` })).toMatchObject({
    ...{ step: "http2", reason: "HTTP2_UNAVAILABLE" },
    remedy: expect.stringContaining("https://"),
  });
});

test("a server of HTTP/1.1 only is HTTP2_UNAVAILABLE, with TLS and without", async () => {
  const { ca, server } = certificates();
  const clear = await serve(createHttp1() as unknown as Server);
  expect(await failure({ url: `http://127.0.0.1:${clear}` })).toMatchObject({ reason: "HTTP2_UNAVAILABLE" });
  for (const ALPNProtocols of [["http/1.1"], []]) {
    const tls = await serve(
      createTls({ cert: server.chain, key: server.key, ALPNProtocols }, (socket) => {
        socket.on("error", () => undefined).end("HTTP/1.1 400 Bad Request\r\n\r\n");
      }),
    );
    expect(await failure({ url: `https://127.0.0.1:${tls}`, ca: ca.cert })).toMatchObject({
      reason: "HTTP2_UNAVAILABLE",
    });
  }
});

test("a CA or a client certificate that is garbage is told and nothing is sent", async () => {
  const { ca, server } = certificates();
  const url = `https://127.0.0.1:${await secureHttp2(server)}`;
  expect(await failure({ url, ca: "garbage" })).toMatchObject({ step: "tls" });
  for (const clientCertificate of [
    { cert: "garbage", key: server.key },
    { cert: server.cert, key: ca.key },
    { cert: server.cert, key: "" },
  ]) {
    expect(await failure({ url, ca: ca.cert, clientCertificate })).toMatchObject({ step: "tls", reason: "TLS_FAILED" });
  }
});

test("an intermediate authority alone is enough to trust what it issued", async () => {
  const below = certificateAuthority().intermediate();
  const port = await secureHttp2(below.issue());
  expect((await dialled({ url: `https://localhost:${port}`, ca: below.cert })).at(-1)?.step).toBe("http2");
});

test("a CA is found in the server's chain by its fingerprint, and checked", async () => {
  const { ca, server } = certificates();
  const url = `https://localhost:${await secureHttp2(server)}`;
  expect(await pinAuthority({ url }, ca.fingerprint)).toBe(ca.cert);
  expect(await pinAuthority({ url }, server.fingerprint)).toBe(server.cert);
  const other = certificateAuthority().fingerprint;
  await expect(pinAuthority({ url }, other)).rejects.toMatchObject({ reason: "CA_FINGERPRINT_MISMATCH" });
});

test("whoever shows the right CA above a certificate that it did not issue is not believed", async () => {
  const { ca } = certificates();
  const liar = certificateAuthority(); // the same name, another key
  const made = liar.issue();
  const url = `https://localhost:${await secureHttp2({ ...made, chain: made.cert + ca.cert })}`;
  await expect(pinAuthority({ url }, ca.fingerprint)).rejects.toMatchObject({ step: "tls" });
});

test("an aborted dial ends at once and leaves no socket", async () => {
  const mute = await serve(createTcp());
  for (const url of [`http://127.0.0.1:${mute}`, `https://127.0.0.1:${mute}`]) {
    const stop = new AbortController();
    const end = dialHttp2(
      { url },
      { signal: stop.signal, report: ({ step }) => step === "tcp" && stop.abort(new Error("no more")) },
    );
    await expect(end).rejects.toThrow("no more");
  }
});

test("a proxy carries TLS and clear text, and looks the server's name up", async () => {
  const { ca, server } = certificates("bowline.test");
  const proxy = await startHttpProxy({ hosts: { "bowline.test": "127.0.0.1" } });
  const tls = await secureHttp2(server);
  const clear = await serve(createHttp2() as unknown as Server);
  const proxies = { https: proxy.url, http: proxy.url };
  const steps = await dialled({ url: `https://bowline.test:${tls}`, ca: ca.cert, proxies });
  expect(steps[2]).toMatchObject({ step: "proxy", proxy: new URL(proxy.url).host });
  await dialled({ url: `http://bowline.test:${clear}`, proxies });
  expect(proxy.asked.map(({ authority }) => authority)).toEqual([`bowline.test:${tls}`, `bowline.test:${clear}`]);
});

test("a proxy's credentials go to the proxy, decoded, and a refusal names neither", async () => {
  const { ca, server } = certificates("bowline.test");
  const proxy = await startHttpProxy({ credentials: "me:s3cret@x", hosts: { "bowline.test": "127.0.0.1" } });
  const url = `https://bowline.test:${await secureHttp2(server)}`;
  const withUser = (user: string) => proxy.url.replace("//", `//${user}@`);
  await dialled({ url, ca: ca.cert, proxies: { https: withUser("me:s3cret%40x") } });
  for (const https of [proxy.url, withUser("me:other-secret")]) {
    const refused = await failure({ url, ca: ca.cert, proxies: { https } });
    expect(refused).toMatchObject({ step: "proxy", reason: "PROXY_REFUSED", message: expect.stringContaining("407") });
    expect(JSON.stringify(refused)).not.toContain("other-secret");
  }
  const deaf = await startHttpProxy({ refuse: 403 });
  expect(await failure({ url, proxies: { https: deaf.url } })).toMatchObject({
    ...{ step: "proxy", reason: "PROXY_REFUSED" },
    message: expect.stringContaining("403"),
  });
});

test("a proxy that opens TLS is told by its CA, and by the protocol that it lacks", async () => {
  const { ca, server } = certificates("bowline.test");
  const corporate = certificateAuthority("Corporate");
  const url = `https://bowline.test:${await secureHttp2(server)}`;
  const hosts = { "bowline.test": "127.0.0.1" };
  const intercept = corporate.issue({ names: ["bowline.test"] });
  const open = await startHttpProxy({ hosts, intercept });
  expect(await failure({ url, ca: ca.cert, proxies: { https: open.url } })).toMatchObject({
    ...{ step: "tls", reason: "TLS_UNTRUSTED" },
    message: expect.stringContaining("Corporate"),
  });
  const proxies = { https: open.url };
  expect((await dialled({ url, ca: corporate.cert, proxies })).at(-1)?.step).toBe("http2");
  const old = await startHttpProxy({ hosts, intercept, interceptProtocols: ["http/1.1"] });
  expect(await failure({ url, ca: corporate.cert, proxies: { https: old.url } })).toMatchObject({
    reason: "HTTP2_UNAVAILABLE",
  });
});

test("node:http and node:https go the same way, and fail with the dial's error", async () => {
  const { ca, server } = certificates("bowline.test");
  const proxy = await startHttpProxy({ hosts: { "bowline.test": "127.0.0.1" } });
  const tls = createHttps({ cert: server.chain, key: server.key }, (_, response) => response.end("secure"));
  const secure = await serve(tls as unknown as Server);
  const answering = createHttp1((_, response) => response.end("clear"));
  const clear = await serve(answering as unknown as Server);
  const get = async (target: DialTarget): Promise<number | undefined> => {
    const agent = dialledAgent(target.url, () => target);
    const asked = (target.url.startsWith("https") ? requestTls : request)(`${target.url}/`, { agent });
    asked.end();
    try {
      const [response] = (await once(asked, "response")) as [{ statusCode?: number; resume(): void }];
      response.resume();
      return response.statusCode;
    } finally {
      agent.destroy();
    }
  };
  const proxies = { http: proxy.url, https: proxy.url };
  expect(await get({ url: `http://bowline.test:${clear}`, proxies })).toBe(200);
  expect(await get({ url: `https://bowline.test:${secure}`, ca: ca.cert, proxies })).toBe(200);
  expect(proxy.asked).toHaveLength(2);
  await expect(get({ url: `https://bowline.test:${secure}`, proxies })).rejects.toMatchObject({
    reason: "TLS_UNTRUSTED",
  });
});
