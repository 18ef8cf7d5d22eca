/** One session against a scripted server over a real socket, on a journal whose disk fills up. */
import { create } from "@bufbuild/protobuf";
import { expect, test } from "@jest/globals";
import { signAssertion } from "@bowline/auth";
import { Deployment_Desired, DeploymentSchema } from "@bowline/contract/deployments";
import { type Clock, systemClock } from "@bowline/kernel";
import { atEnd, startScriptedServer, temporaryFolder, until } from "@bowline/testing";
import { noTraces } from "@bowline/traces";
import { createConverger } from "./converge.ts";
import { createDialler } from "./dial.ts";
import { enrol } from "./enrol.ts";
import type { Gateways } from "./gateways.ts";
import { loadIdentity } from "./identity.ts";
import { journalFile } from "./journal-file.ts";
import { openJournalFile } from "./journal.ts";
import { createObserver } from "./observe.ts";
import type { Runtime } from "./runtime.ts";
import { serve } from "./serve.ts";

const log = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined };
/** A result is repeated after 10 s without an answer; here that is half a second. */
const hastyClock: Clock = { ...systemClock, monotonicMs: () => systemClock.monotonicMs() * 20 };

test("an acknowledgement that a full disk does not take ends nothing: the result is said again, and acknowledged again", async () => {
  const server = await startScriptedServer({ heartbeatIntervalMs: 50 });
  server.ways.greeted = (answer) => ({ ...answer, silenceLimitMs: 3_600_000 });
  const dataDir = temporaryFolder();
  const identity = await loadIdentity(dataDir);
  const config = { server: server.url, dataDir, caFile: undefined, caFingerprint: undefined, proxies: {} };
  const transport = createDialler({ ...config, clientCertificate: undefined }, log).dial("stream");
  atEnd(() => transport.close());
  const stop = new AbortController();
  const facts = { server: server.url, token: server.token, name: "full", hostname: "host", labels: {} };
  const ports = { clock: systemClock, log };
  const runtimeFacts = { runtime: "local", runtimeIdentity: "scripted" };
  const end = await enrol([transport.unary], identity, { ...facts, ...runtimeFacts }, ports, stop.signal);
  if (end.kind !== "enrolled") throw new Error(end.kind);

  const disk = { full: false, refused: 0 };
  const file = journalFile(dataDir);
  const onDisk = <T>(write: () => Promise<T>): Promise<T> => {
    if (!disk.full) return write();
    disk.refused += 1;
    return Promise.reject(Object.assign(new Error("no space left on device"), { code: "ENOSPC" }));
  };
  const append = (text: string) => onDisk(() => file.append(text));
  const replace = (lines: Iterable<string>) => onDisk(() => file.replace(lines));
  const journal = await openJournalFile({ ...file, append, replace }, log, Date.now);
  atEnd(() => journal.close());
  const what = { kind: "local", version: "1", identity: "scripted", capabilities: [], instanceLimit: 0, problem: "" };
  const runtime = {
    describe: () => Promise.resolve(what),
    converge: () => Promise.resolve({ kind: "succeeded" }),
    list: () => Promise.resolve([]),
  } as unknown as Runtime;
  const gateways = { kindOf: () => "plain" } as Pick<Gateways, "kindOf"> as Gateways;
  const converger = createConverger({ runtime, gateways, journal, log, clock: systemClock });
  atEnd(() => converger.stop());
  const observer = await createObserver({ runtime, journal, log, clock: systemClock });

  const { agentId, installationId: audience } = end.enrolled;
  const { signing } = identity.keys.current();
  const counter = await identity.nextCounter(0);
  const assertion = await signAssertion(signing, { agentId, audience, counter, now: Date.now() });
  const serving = { processId: "one", gatewayClasses: [], config: { ...serveConfig, dataDir } };
  const life = serve(
    { ...serving, runtime, journal, converger, observer, clock: hastyClock, log, traces: noTraces },
    transport,
    assertion,
    stop.signal,
  );
  const session = await server.nextSession();
  const acknowledge = server.ways.acknowledge;
  server.ways.acknowledge = undefined;
  const command = server.command(
    create(DeploymentSchema, { id: "deployment_a", generation: 1, desired: Deployment_Desired.RUNNING }),
  );
  session.push(command);
  await session.result(command);
  disk.full = true;
  server.ways.acknowledge = acknowledge;
  await until(() => disk.refused > 1, { what: "two acknowledgements that were not journalled" });
  expect(journal.unacknowledged()).toHaveLength(1);
  disk.full = false;
  await until(() => journal.unacknowledged().length === 0, { what: "an acknowledgement that was" });
  stop.abort();
  expect(await life).toEqual({ kind: "stopped" });
});

const serveConfig = { labels: {}, greetingWithinMs: 3_600_000, streamRetryMs: 300_000, transport: "stream" } as const;
