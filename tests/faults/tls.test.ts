/** TLS at both ends: whom agents trust, through which proxy they come, with which certificate; and what is told when not. */
import { execFile } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { connect as connectTls } from "node:tls";
import { promisify } from "node:util";
import { Client, credentials, Metadata } from "@grpc/grpc-js";
import { beforeAll, expect, test } from "@jest/globals";
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { EmptySchema } from "@bufbuild/protobuf/wkt";
import { Agent_Connectivity as Connectivity, Agent_Transport as Transport } from "@bowline/contract/agents";
import {
  ClusterPolicy_ClientCertificates as ClientCertificates,
  RegistrationToken_State,
} from "@bowline/contract/clusters";
import { MeSchema } from "@bowline/contract/identity";
import {
  atEnd,
  type Certificate,
  type CertificateAuthority,
  certificateAuthority,
  certificates,
  startHttpProxy,
  temporaryFolder,
  testDatabase,
  until,
} from "@bowline/testing";
import { folderOfAnAgent, programs, type Server, startAgent, startServer } from "../e2e/fixture.ts";
import {
  applyProduct,
  freshName,
  issueToken,
  joinAgent,
  makePlace,
  online,
  type Place,
  publish,
} from "../e2e/operating.ts";

const run = promisify(execFile);
/** On two busy cores. */
const settledWithinMs = 45_000;
/** Nobody's address here but loopback's: what curl binds to be a trusted proxy. */
const proxyAddress = "127.0.0.3";

let ca: CertificateAuthority;
let clients: CertificateAuthority;
let files: { cert: string; key: string };
let caFile: string;
let server: Server;

beforeAll(async () => {
  clients = certificateAuthority("Clients");
  const made = certificates("bowline.test");
  ca = made.ca;
  files = made.server.files();
  caFile = ca.files().cert;
  server = await startServer({
    databaseUrl: (await testDatabase()).url,
    ca: ca.cert,
    flags: [
      ...["--tls-cert", files.cert, "--tls-key", files.key, "--tls-client-ca", clients.files().cert],
      ...["--trusted-proxies", proxyAddress],
    ],
  });
}, 60_000);

const trusting = (): string[] => ["--ca-file", caFile];

function certificateFlags(certificate: Certificate): string[] {
  const { cert, key } = certificate.files();
  return ["--client-cert", cert, "--client-key", key];
}

async function strictPlace(): Promise<Place> {
  const place = await makePlace(server.api);
  await setPolicy(place, ClientCertificates.REQUIRED);
  return place;
}

async function setPolicy(place: Place, clientCertificates: ClientCertificates): Promise<void> {
  await server.api.clusters.updateCluster({
    cluster: { id: place.clusterId, policy: { allowPrivateBackends: true, clientCertificates } },
    updateMask: { paths: ["policy"] },
  });
}

/** SHA-256 of the certificate that a new connection is shown. */
async function shown(): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connectTls({ port: server.port, host: "127.0.0.1", rejectUnauthorized: false }, () => {
      resolve(`sha256:${socket.getPeerCertificate().fingerprint256.replaceAll(":", "").toLowerCase()}`);
      socket.destroy();
    });
    socket.on("error", reject);
  });
}

test("an agent that trusts the CA joins; one that does not is told whose certificate it is, and spends no token", async () => {
  const place = await makePlace(server.api);
  const { id, token } = await server.api.tokens.createRegistrationToken({ clusterId: place.clusterId });
  const stranger = startAgent(server.url, { token });
  expect(await stranger.process.untilLine("TLS_UNTRUSTED")).toMatch(/Bowline test CA.*--ca-file/);
  await stranger.process.end();
  expect(await server.api.tokens.getRegistrationToken({ id })).toMatchObject({ state: RegistrationToken_State.ACTIVE });
  const agent = startAgent(server.url, { token, flags: trusting() });
  await online(server.api, agent);
});

test("a join line's fingerprint is enough: the CA is kept, and the next start needs neither", async () => {
  const place = await makePlace(server.api);
  const { token, joinCommand, caFingerprint } = await server.api.tokens.createRegistrationToken({
    clusterId: place.clusterId,
  });
  expect(caFingerprint).toBe(ca.fingerprint);
  expect(joinCommand).toContain(`agent join ${server.url} --token-file token --ca-fingerprint ${ca.fingerprint}`);

  const wrong = startAgent(server.url, { token, flags: ["--ca-fingerprint", certificateAuthority().fingerprint] });
  await wrong.process.untilLine("CA_FINGERPRINT_MISMATCH");
  await wrong.process.end();

  const dataDir = folderOfAnAgent();
  const agent = startAgent(server.url, { token, dataDir, flags: ["--ca-fingerprint", caFingerprint] });
  await online(server.api, agent);
  await agent.process.end();
  const again = startAgent(server.url, { dataDir });
  await until(async () => (await server.api.agents.getAgent({ id: await again.id() })).epoch === 2, {
    withinMs: settledWithinMs,
  });
});

test("an agent goes through HTTPS_PROXY, which looks the name up and gets its credentials; no log has them", async () => {
  const place = await makePlace(server.api);
  const proxy = await startHttpProxy({ credentials: "press:s3cret", hosts: { "bowline.test": "127.0.0.1" } });
  const url = `https://bowline.test:${server.port}`;
  const token = await issueToken(place);
  const without = startAgent(url, { token, flags: trusting(), env: { HTTPS_PROXY: proxy.url } });
  expect(await without.process.untilLine("PROXY_REFUSED")).toContain("407");
  await without.process.end();

  const env = { HTTPS_PROXY: proxy.url.replace("//", "//press:s3cret@") };
  const agent = startAgent(url, { token, flags: trusting(), env });
  await online(server.api, agent);
  expect(new Set(proxy.asked.map(({ authority }) => authority))).toEqual(new Set([`bowline.test:${server.port}`]));
  expect(proxy.tunnels()).toBeGreaterThan(0);
  expect(agent.process.output()).not.toContain("s3cret");
});

test("new TLS files are for new connections, and an agent's stream lives on", async () => {
  const place = await makePlace(server.api);
  const agent = await joinAgent(place, { flags: trusting() });
  const before = await shown();
  const next = ca.issue({ names: ["localhost", "127.0.0.1", "bowline.test"] });
  writeFileSync(files.cert, next.chain);
  writeFileSync(files.key, next.key);
  await until(async () => (await shown()) === next.fingerprint, { withinMs: settledWithinMs });
  expect(before).not.toBe(next.fingerprint);
  expect(await server.api.agents.getAgent({ id: await agent.id() })).toMatchObject({
    connectivity: Connectivity.ONLINE,
    epoch: 1,
  });
  writeFileSync(files.cert, "garbage");
  await server.process.untilLine("the new TLS files do not work", { withinMs: settledWithinMs });
  expect(await shown()).toBe(next.fingerprint);
  writeFileSync(files.cert, next.chain);
});

test("where a cluster requires client certificates a stolen token alone enrols nobody, and is not spent", async () => {
  const place = await strictPlace();
  const { id, token } = await server.api.tokens.createRegistrationToken({ clusterId: place.clusterId });
  const thieves = [
    trusting(),
    [...trusting(), ...certificateFlags(certificateAuthority("Others").issue({ names: [] }))],
  ];
  for (const flags of thieves) {
    const thief = startAgent(server.url, { token, flags });
    expect(await thief.process.ended).toMatchObject({ code: 4 });
    expect(thief.process.output()).toContain("CLIENT_CERTIFICATE_REQUIRED");
  }
  expect(await server.api.tokens.getRegistrationToken({ id })).toMatchObject({ state: RegistrationToken_State.ACTIVE });
  expect((await server.api.agents.listAgents({ clusterId: place.clusterId })).agents).toEqual([]);
});

test("an agent is bound to its certificate: a stolen key without it, or with another, opens nothing until an operator binds it anew", async () => {
  const { api } = server;
  const place = await strictPlace();
  const own = clients.issue({ name: "press-1", names: [] });
  const agent = await joinAgent(place, { flags: [...trusting(), ...certificateFlags(own)] });
  const id = await agent.id();
  expect(await api.agents.getAgent({ id })).toMatchObject({ clientCertificate: own.fingerprint, epoch: 1 });
  await agent.process.end();

  const { dataDir } = agent;
  // By either transport.
  const bare = startAgent(server.url, { dataDir, flags: [...trusting(), "--transport", "poll"] });
  await bare.process.untilLine("CLIENT_CERTIFICATE_REQUIRED");
  await bare.process.end();
  const renewed = clients.issue({ name: "press-1", names: [] });
  const other = startAgent(server.url, { dataDir, flags: [...trusting(), ...certificateFlags(renewed)] });
  await other.process.untilLine("CLIENT_CERTIFICATE_MISMATCH");
  await other.process.end();
  expect(await api.agents.getAgent({ id })).toMatchObject({ clientCertificate: own.fingerprint, epoch: 1 });
  const { auditEvents } = await api.audit.listAuditEvents({ pageSize: 200 });
  const refusals = auditEvents.filter(
    ({ action, resourceId }) => action === "agent.client-certificate" && resourceId === id,
  );
  expect(new Set(refusals.map(({ outcome }) => outcome))).toEqual(
    new Set(["CLIENT_CERTIFICATE_REQUIRED", "CLIENT_CERTIFICATE_MISMATCH"]),
  );

  await cli("agent", "bind-certificate", id);
  const polling = [...trusting(), ...certificateFlags(renewed), "--transport", "poll"];
  const back = startAgent(server.url, { dataDir, flags: polling });
  await until(async () => (await api.agents.getAgent({ id })).epoch === 2, { withinMs: settledWithinMs });
  expect(await api.agents.getAgent({ id })).toMatchObject({
    clientCertificate: renewed.fingerprint,
    transport: Transport.POLL,
    connectivity: Connectivity.ONLINE,
  });
  await back.process.end();
});

test("what an agent asks by unary calls needs the certificate too", async () => {
  const { api } = server;
  const place = await makePlace(api);
  await joinAgent(place, { flags: trusting() });
  await setPolicy(place, ClientCertificates.REQUIRED);
  const product = freshName("product");
  await applyProduct(api, product, { backend: "http://127.0.0.1:9" });
  await publish(place, product);
  const refused = 'bowline_agent_refusals_total{reason="CLIENT_CERTIFICATE_REQUIRED"}';
  const count = async (): Promise<number> => {
    const { stdout } = await run("curl", ["-s", "--cacert", caFile, `${server.url}/metrics`]);
    return Number(
      stdout
        .split("\n")
        .find((line) => line.startsWith(refused))
        ?.split(" ")
        .at(-1) ?? 0,
    );
  };
  const before = await count();
  await until(async () => (await count()) > before, { withinMs: settledWithinMs });
});

async function cli(...args: string[]): Promise<string> {
  const env = {
    ...process.env,
    ...{ HOME: temporaryFolder(), XDG_CONFIG_HOME: temporaryFolder(), BOWLINE_URL: server.url },
    ...{ BOWLINE_TOKEN: server.adminToken, BOWLINE_CA_FILE: caFile },
  };
  return (await run(process.execPath, [programs.cli, ...args], { env })).stdout;
}

test("the CLI speaks TLS with a CA of one's own, through a proxy, and names the step that failed", async () => {
  const { cluster } = await makePlace(server.api);
  expect(await cli("status")).toContain("you are admin");
  const proxy = await startHttpProxy({ hosts: { "bowline.test": "127.0.0.1" } });
  const env = { ...process.env, HOME: temporaryFolder(), BOWLINE_TOKEN: server.adminToken, HTTPS_PROXY: proxy.url };
  const url = `https://bowline.test:${server.port}`;
  const through = await run(process.execPath, [programs.cli, "cluster", "list", "--url", url, "--ca-file", caFile], {
    env,
  });
  expect(through.stdout).toContain(cluster);
  expect(proxy.asked).toHaveLength(1);
  const failed = await run(process.execPath, [programs.cli, "status", "--url", url, "-o", "json"], { env }).catch(
    (error: { code: number; stderr: string }) => error,
  );
  expect(failed).toMatchObject({ code: 5, stderr: expect.stringContaining("TLS_UNTRUSTED") });
});

test("a login by the CA's fingerprint keeps the CA with the context; with another's nothing is sent, and nothing kept", async () => {
  const env = { ...process.env, HOME: temporaryFolder(), BOWLINE_TOKEN: server.adminToken };
  const bowline = (...args: string[]) => run(process.execPath, [programs.cli, ...args], { env });
  const login = ["login", server.url, "--ca-fingerprint"];
  const refused = bowline(...login, certificateAuthority().fingerprint);
  await expect(refused).rejects.toMatchObject({ code: 5, stderr: expect.stringContaining("CA_FINGERPRINT_MISMATCH") });
  expect((await bowline("context", "list", "--quiet")).stdout).toBe("");
  expect((await bowline(...login, ca.fingerprint)).stdout).toContain("Signed in");
  expect((await bowline("status")).stdout).toContain("you are admin");
});

test("stock gRPC and curl over both versions of HTTP get answers over TLS", async () => {
  const client = new Client(`localhost:${server.port}`, credentials.createSsl(Buffer.from(ca.cert)));
  atEnd(() => client.close());
  const metadata = new Metadata();
  metadata.set("authorization", `Bearer ${server.adminToken}`);
  const me = await new Promise((resolve, reject) => {
    client.makeUnaryRequest(
      "/bowline.identity.v1.AuthService/GetMe",
      () => Buffer.from(toBinary(EmptySchema, { $typeName: "google.protobuf.Empty" })),
      (bytes) => fromBinary(MeSchema, bytes),
      {},
      metadata,
      (error, value) => (error === null ? resolve(value) : reject(error)),
    );
  });
  expect(me).toMatchObject({ name: expect.any(String) });
  for (const version of ["--http1.1", "--http2"]) {
    const format = "%{http_version} %{http_code}";
    const { stdout } = await run("curl", [
      "-s",
      "--cacert",
      caFile,
      version,
      "-o",
      "/dev/null",
      "-w",
      format,
      `${server.url}/health`,
    ]);
    expect(stdout).toBe(`${version === "--http2" ? "2" : "1.1"} 200`);
  }
});

test("the word of a trusted proxy tells where a call came from, and nobody else's does", async () => {
  const made = async (from: string, headers: string[]): Promise<string> => {
    const name = freshName("from");
    const file = join(temporaryFolder(), "headers");
    writeFileSync(file, [`Authorization: Bearer ${server.adminToken}`, ...headers].join("\n"));
    await run("curl", [
      ...["-sf", "--cacert", caFile, "--interface", from, "-H", `@${file}`],
      ...["--json", JSON.stringify({ name, runtime: "local" }), `${server.url}/v1/operator/clusters`],
    ]);
    const { auditEvents } = await server.api.audit.listAuditEvents({ pageSize: 5 });
    return auditEvents.find(({ action }) => action === "cluster.create")?.remoteAddress ?? "";
  };
  const spoofed = ["X-Forwarded-For: 6.6.6.6, 203.0.113.9", "X-Bowline-Remote-Address: 6.6.6.6"];
  expect(await made("127.0.0.2", spoofed)).toBe("127.0.0.2");
  expect(await made(proxyAddress, spoofed)).toBe("203.0.113.9");
  expect(await made(proxyAddress, ["Forwarded: for=203.0.113.8"])).toBe("203.0.113.8");
});

test("an agent that speaks clear text to the port of TLS is told to write https", async () => {
  const token = await issueToken(await makePlace(server.api));
  const agent = startAgent(`http://127.0.0.1:${server.port}`, { token });
  expect(await agent.process.untilLine("HTTP2_UNAVAILABLE")).toContain("https://");
});
