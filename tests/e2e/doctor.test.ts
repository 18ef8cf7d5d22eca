/** `bowline agent doctor`, the program, against a real server: what it says of tokens and agents, beside one that runs. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, expect, test } from "@jest/globals";
import { Agent_Connectivity as Connectivity } from "@bowline/contract/agents";
import { ClusterPolicy_ClientCertificates, RegistrationToken_State as TokenState } from "@bowline/contract/clusters";
import { certificateAuthority, certificates, runProcess, temporaryFolder, testDatabase } from "@bowline/testing";
import { programs, type Server, startServer } from "./fixture.ts";
import { joinAgent, makePlace } from "./operating.ts";

let server: Server;
let caFile: string;

beforeAll(async () => {
  const { ca, server: own } = certificates();
  const { cert, key } = own.files();
  caFile = ca.files().cert;
  const clients = certificateAuthority("Clients").files().cert;
  server = await startServer({
    databaseUrl: (await testDatabase()).url,
    ca: ca.cert,
    flags: ["--tls-cert", cert, "--tls-key", key, "--tls-client-ca", clients],
  });
}, 60_000);

async function doctor(...args: string[]) {
  const run = await runProcess({
    command: ["node", programs.cli, "agent", "doctor", ...args, "--ca-file", caFile],
    env: { BOWLINE_REGISTRATION_TOKEN: "", BOWLINE_SERVER: "", HTTPS_PROXY: "", NO_PROXY: "" },
  });
  return { ...run, says: run.stdout + run.stderr };
}

/** As a new host would ask, whose folder is not there yet. */
async function withToken(token: string, ...more: string[]) {
  const tokenFile = join(temporaryFolder(), "token");
  writeFileSync(tokenFile, token, { mode: 0o600 });
  const dataDir = join(temporaryFolder(), "none");
  return doctor(server.url, "--data-dir", dataDir, "--token-file", tokenFile, ...more);
}

test("a token is found good without being spent; one that is revoked, or unknown, is told apart with exit code 4", async () => {
  const { api } = server;
  const place = await makePlace(api);
  const issued = await api.tokens.createRegistrationToken({ clusterId: place.clusterId });
  const good = await withToken(issued.token);
  expect(good).toMatchObject({ code: 0, stderr: "" });
  expect(good.stdout).toContain(`it enrols an agent in ${place.cluster}`);
  const shown = await api.tokens.getRegistrationToken({ id: issued.id });
  expect(shown).toMatchObject({ state: TokenState.ACTIVE, uses: 0 });
  await api.tokens.revokeRegistrationToken({ id: issued.id });
  const json = await withToken(issued.token, "--output", "json");
  expect(json.code).toBe(4);
  expect(JSON.parse(json.stdout)).toMatchObject({
    ...{ ok: false, server: server.url, failed: "token", reason: "REGISTRATION_TOKEN_REVOKED" },
    steps: [
      ...["dns", "tcp", "proxy", "tls", "http2", "clock"].map((step) => ({ step, state: "ok" })),
      { step: "token", state: "failed", remedy: expect.stringContaining("token create") },
      { step: "version", state: "not-reached" },
    ],
  });
  const unknown = await withToken(issued.token.replace(/.{4}$/, "AAAA"));
  expect(unknown.code).toBe(4);
  expect(unknown.says).toMatch(/REGISTRATION_TOKEN_UNKNOWN\n$/);
  expect(unknown.says).not.toContain(issued.token.slice(-20, -4));
});

test("an agent that runs is examined without a new session; needing a certificate, and revoked, is said", async () => {
  const { api } = server;
  const place = await makePlace(api);
  const agent = await joinAgent(place, { flags: ["--ca-file", caFile] });
  const id = await agent.id();
  const examine = () => doctor("--data-dir", agent.dataDir);
  const well = await examine();
  expect(well).toMatchObject({ code: 0, stderr: "" });
  expect(well.stdout).toMatch(/the key is that of .* of cluster-/);
  const shown = await api.agents.getAgent({ id });
  expect(shown).toMatchObject({ connectivity: Connectivity.ONLINE, epoch: 1 });

  const policy = (clientCertificates: ClusterPolicy_ClientCertificates) =>
    api.clusters.updateCluster({
      cluster: { id: place.clusterId, policy: { clientCertificates } },
      updateMask: { paths: ["policy"] },
    });
  await policy(ClusterPolicy_ClientCertificates.REQUIRED);
  expect(await examine()).toMatchObject({ code: 4, says: expect.stringContaining("CLIENT_CERTIFICATE_REQUIRED") });
  await policy(ClusterPolicy_ClientCertificates.OFF);
  await api.agents.revokeAgent({ id });
  expect(await examine()).toMatchObject({ code: 4, says: expect.stringContaining("AGENT_REVOKED") });
});

test("rubbish for a token or an assertion is refused with a reason, over REST too", async () => {
  const assertions: [object, number, string][] = [
    [{ registrationToken: "rubbish" }, 400, "REGISTRATION_TOKEN_MALFORMED"],
    [{ assertion: "rubbish" }, 401, "ASSERTION_INVALID"],
    [{ assertion: "x".repeat(5_000) }, 400, "INVALID_ARGUMENT"],
    [{ registrationToken: "a", assertion: "b" }, 400, "INVALID_ARGUMENT"],
    [{}, 400, "INVALID_ARGUMENT"],
    [{ nonsense: 1 }, 400, "INVALID_ARGUMENT"],
  ];
  for (const [body, status, reason] of assertions) {
    const url = `${server.url}/v1/agent/examine`;
    const run = await runProcess({
      command: ["curl", "-s", "--cacert", caFile, "--json", JSON.stringify(body), "-w", "\n%{http_code}", url],
    });
    const lines = run.stdout.split("\n");
    const [answer = "", code] = [lines[0], lines.at(-1)];
    expect([Number(code), (JSON.parse(answer) as { reason: string }).reason]).toEqual([status, reason]);
  }
});
