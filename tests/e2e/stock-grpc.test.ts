/**
 * The whole walkthrough with @grpc/grpc-js and @grpc/proto-loader alone: what a
 * program in another language does with the exported protos. Only the agent's
 * signatures come from our own library.
 */
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { beforeAll, expect, test } from "@jest/globals";
import {
  type Client,
  type ClientDuplexStream,
  type ClientReadableStream,
  credentials,
  type GrpcObject,
  loadPackageDefinition,
  Metadata,
  type ServiceClientConstructor,
  type ServiceError,
} from "@grpc/grpc-js";
import { loadFileDescriptorSetFromBuffer, loadSync, type PackageDefinition } from "@grpc/proto-loader";
import { generateKey, signAssertion, signEnrolmentProof } from "@bowline/auth";
import { atEnd, runProcess, startServer, temporaryFolder, type TestServer } from "@bowline/testing";

const root = fileURLToPath(new URL("../..", import.meta.url));
const require = createRequire(import.meta.url);
const loading = { longs: String, enums: String, defaults: true, oneofs: true } as const;

let server: TestServer;
let protos: PackageDefinition;
beforeAll(async () => {
  server = await startServer();
  const folder = join(temporaryFolder(), "protos");
  const exported = await runProcess({ command: ["npm", "run", "-s", "proto:export", "--", folder], cwd: root });
  expect(exported).toMatchObject({ code: 0 });
  const files = ["agent/v1/agent", "clusters/v1/clusters", "clusters/v1/registration_tokens", "products/v1/products"];
  protos = loadSync(
    [...files, "products/v1/product_publishes"].map((name) => `bowline/${name}.proto`),
    { ...loading, includeDirs: [folder] },
  );
});

// A stock client knows no types of ours; its messages are what its loader makes of the protos.
// oxlint-disable-next-line typescript/no-explicit-any
type Any = any;

/** A client of that service; closed with the test. */
function clientOf(definition: PackageDefinition, service: string): Client & Record<string, Any> {
  let found: Any = loadPackageDefinition(definition);
  for (const name of service.split(".")) found = (found as GrpcObject)[name];
  const address = new URL(server.url).host;
  const client = new (found as ServiceClientConstructor)(address, credentials.createInsecure());
  atEnd(() => client.close());
  return client as Client & Record<string, Any>;
}

function bearer(token: string): Metadata {
  const metadata = new Metadata();
  if (token !== "") metadata.set("authorization", `Bearer ${token}`);
  return metadata;
}

function call(client: Record<string, Any>, method: string, request: object, token = server.adminToken): Promise<Any> {
  return new Promise((resolve, reject) => {
    client[method](request, bearer(token), (error: ServiceError | null, answer: unknown) =>
      error === null ? resolve(answer) : reject(error),
    );
  });
}

/** Reads a stream until one message is what is waited for. */
function untilMessage(stream: NodeJS.EventEmitter, matches: (message: Any) => boolean): Promise<Any> {
  return new Promise((resolve, reject) => {
    const look = (message: unknown): void => {
      if (!matches(message)) return;
      stream.off("data", look);
      resolve(message);
    };
    stream.on("data", look);
    stream.on("error", reject);
  });
}

test("a stock gRPC client makes a cluster, enrols and plays an agent, publishes, and watches it become LIVE", async () => {
  const clusters = clientOf(protos, "bowline.clusters.v1.ClusterService");
  const cluster = await call(clusters, "CreateCluster", {
    cluster: { name: "stock", runtime: "local", policy: { allowPrivateBackends: true } },
  });
  const tokens = clientOf(protos, "bowline.clusters.v1.RegistrationTokenService");
  const { token } = await call(tokens, "CreateRegistrationToken", { clusterId: cluster.id });

  const agents = clientOf(protos, "bowline.agent.v1.AgentService");
  const key = await generateKey("Ed25519");
  const runtimeIdentity = "stock-machine";
  const enrolled = await call(
    agents,
    "Enroll",
    {
      token,
      signingKey: JSON.stringify(key.publicJwk),
      sealingKey: JSON.stringify((await generateKey("X25519")).publicJwk),
      proof: await signEnrolmentProof(key, {
        tokenId: String(token).split("_")[1] ?? "",
        audience: server.url,
        runtimeIdentity,
        now: Date.now(),
      }),
      hostname: "stock-host",
      runtime: "local",
      runtimeIdentity,
      agentVersion: "1",
    },
    "",
  );
  expect(enrolled).toMatchObject({ name: "stock-host", clusterId: cluster.id });

  const assertion = await signAssertion(key, {
    agentId: enrolled.agentId,
    audience: enrolled.installationId,
    counter: 1,
    now: Date.now(),
  });
  const stream: ClientDuplexStream<object, Any> = agents["Connect"](bearer(assertion));
  atEnd(() => stream.cancel());
  const greeted = untilMessage(stream, ({ message }) => message === "connectResponse");
  const connectRequest = { processId: "p", protocolMin: 1, protocolMax: 1, runtime: "local", runtimeIdentity };
  stream.write({ connectRequest: { ...connectRequest, journalId: "j", capabilities: ["gateway-class/embedded"] } });
  const { connectResponse } = await greeted;
  const synced = untilMessage(stream, ({ message }) => message === "syncReply");
  stream.write({ sync: { last: true } });
  expect((await synced).syncReply.last).toBe(true);

  const pushed: Any[] = [];
  const accept = untilMessage(stream, (message) => {
    if (message.message === "deployCommand") pushed.push(message.deployCommand);
    return pushed.length === 2;
  });
  const products = clientOf(protos, "bowline.products.v1.ProductService");
  const applied = await call(products, "ApplyProduct", {
    manifest: {
      name: "stock",
      apiServices: [
        {
          name: "stock",
          routes: [
            { name: "all", matches: [{ path: { type: "PREFIX", value: "/stock" } }], backends: [{ backend: "own" }] },
          ],
          backends: [{ name: "own", url: "http://127.0.0.1:9" }],
        },
      ],
    },
  });
  expect(applied.revision.number).toBe(1);
  const publishes = clientOf(protos, "bowline.products.v1.ProductPublishService");
  const publish = await call(publishes, "CreateProductPublish", { productId: "stock", clusterId: "stock" });
  const watch: ClientReadableStream<Any> = publishes["WatchProductPublish"](
    { id: publish.id },
    bearer(server.adminToken),
  );
  atEnd(() => watch.cancel());
  const states: string[] = [];
  const live = untilMessage(watch, ({ productPublish }) => {
    if (productPublish !== null) states.push(productPublish.state);
    return productPublish?.state === "LIVE";
  });

  await accept;
  for (const { commandId, attempt } of pushed) {
    const items = [{ commandId, attempt }];
    const { deployments } = await call(agents, "FetchDeployments", { items }, connectResponse.accessToken);
    expect(deployments).toEqual([expect.objectContaining({ commandId, reason: "" })]);
    expect(deployments[0].spec.length).toBeGreaterThan(0);
    const acknowledged = untilMessage(
      stream,
      ({ message, resultAck }) => message === "resultAck" && resultAck.commandId === commandId,
    );
    stream.write({ commandReceipt: { commandId, attempt, disposition: "ACCEPTED" } });
    stream.write({ deployResult: { commandId, attempt, outcome: "SUCCEEDED" } });
    expect((await acknowledged).resultAck.disposition).toBe("RECORDED");
  }
  expect((await live).productPublish).toMatchObject({ id: publish.id, product: "stock", cluster: "stock" });
  expect(states.at(-1)).toBe("LIVE");

  const ended = new Promise((resolve) => stream.once("end", resolve));
  stream.write({ goodbye: { reason: "done" } });
  stream.end();
  await ended;
});

test("a stock gRPC client gets the code, the reason and the fields of an error", async () => {
  const clusters = clientOf(protos, "bowline.clusters.v1.ClusterService");
  const failure = async (method: string, request: object, token?: string): Promise<ServiceError> =>
    call(clusters, method, request, token).then(
      () => new Error("it was taken"),
      (error: unknown) => error,
    ) as Promise<ServiceError>;
  expect(await failure("GetCluster", { id: "nobody" })).toMatchObject({ code: 5 });
  expect(await failure("GetCluster", { id: "nobody" }, "")).toMatchObject({ code: 16 });
  const invalid = await failure("CreateCluster", { cluster: { name: "NOT A NAME", runtime: "local" } });
  expect(invalid.code).toBe(3);
  const [details] = invalid.metadata.get("grpc-status-details-bin");
  expect(Buffer.from(details ?? "").toString("latin1")).toMatch(/INVALID_ARGUMENT[^]*cluster\.name/);
});

test("server reflection alone is enough for a stock client to list the services and call one", async () => {
  const folder = join(dirname(require.resolve("@grpc/reflection/package.json")), "build/proto/grpc/reflection/v1");
  const reflection = clientOf(
    loadSync("reflection.proto", { ...loading, includeDirs: [folder] }),
    "grpc.reflection.v1.ServerReflection",
  );
  const stream: ClientDuplexStream<object, Any> = reflection["ServerReflectionInfo"](new Metadata());
  atEnd(() => stream.cancel());
  const ask = (question: object): Promise<Any> => {
    const answered = untilMessage(stream, () => true);
    stream.write(question);
    return answered;
  };
  const { listServicesResponse } = await ask({ listServices: "" });
  const names = listServicesResponse.service.map(({ name }: { name: string }) => name);
  expect(names).toEqual(
    expect.arrayContaining(["bowline.clusters.v1.ClusterService", "bowline.agent.v1.AgentService"]),
  );
  const { fileDescriptorResponse } = await ask({ fileContainingSymbol: "bowline.clusters.v1.ClusterService" });
  // A FileDescriptorSet is field 1, repeated: tag, length, bytes.
  const files = (fileDescriptorResponse.fileDescriptorProto as Uint8Array[]).map((file) =>
    Buffer.concat([Buffer.from([0x0a]), varint(file.length), file]),
  );
  const reflected = loadFileDescriptorSetFromBuffer(Buffer.concat(files), loading);
  const clusters = clientOf(reflected, "bowline.clusters.v1.ClusterService");
  const cluster = { name: "reflected", runtime: "local" };
  expect(await call(clusters, "CreateCluster", { cluster })).toMatchObject(cluster);
  stream.end();
});

function varint(value: number): Buffer {
  const bytes = [];
  for (let rest = value; ; rest >>>= 7) {
    if (rest < 0x80) return Buffer.from([...bytes, rest]);
    bytes.push((rest & 0x7f) | 0x80);
  }
}

test("gRPC health says SERVING for the server and its services, without a credential", async () => {
  const folder = join(dirname(require.resolve("grpc-health-check/package.json")), "proto");
  const health = clientOf(
    loadSync("health/v1/health.proto", { ...loading, includeDirs: [folder] }),
    "grpc.health.v1.Health",
  );
  for (const service of ["", "bowline.clusters.v1.ClusterService"]) {
    expect(await call(health, "Check", { service }, "")).toEqual({ status: "SERVING" });
  }
  await expect(call(health, "Check", { service: "nobody" }, "")).rejects.toMatchObject({ code: 5 });
});
