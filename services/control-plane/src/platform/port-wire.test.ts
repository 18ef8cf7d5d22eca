import { afterEach, expect, test } from "@jest/globals";
import { execFile } from "node:child_process";
import { connect as connectHttp2 } from "node:http2";
import { promisify } from "node:util";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { type ConnectRouter, createClient, createRouterTransport, type Transport } from "@connectrpc/connect";
import {
  connectNodeAdapter,
  createConnectTransport,
  createGrpcTransport,
  createGrpcWebTransport,
} from "@connectrpc/connect-node";
import { Client, credentials, Metadata } from "@grpc/grpc-js";
import { services } from "@bowline/contract";
import { ClusterSchema, ClusterService, GetClusterRequestSchema } from "@bowline/contract/clusters";
import { CommandService } from "@bowline/contract/commands";
import { createRest } from "@bowline/rest";
import { listen, type Port, type PortHandler } from "./port.ts";

const run = promisify(execFile);
const ends: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).toReversed()) await end();
});

const quiet = { debug() {}, info() {}, warn() {}, error() {} };

/** The handlers are scripted; port, adapters and REST are real. */
async function open(): Promise<Port> {
  const routes = (router: ConnectRouter): void => {
    router.service(ClusterService, { getCluster: ({ id }) => ({ id, name: "eu" }) });
    router.service(CommandService, {
      async *watchCommands() {
        yield { cursor: "1" };
        yield { cursor: "2" };
      },
    });
  };
  const rest = createRest({ services, transport: createRouterTransport(routes), log: quiet });
  const connect = connectNodeAdapter({ routes });
  const handler: PortHandler = (request, response) => {
    if (!rest.handle(request, response)) connect(request, response);
  };
  const port = await listen({ host: "127.0.0.1", port: 0, handler, log: quiet });
  ends.push(() => port.close(0));
  return port;
}

const transports: Record<string, (baseUrl: string) => Transport> = {
  "Connect over HTTP/1.1": (baseUrl) => createConnectTransport({ baseUrl, httpVersion: "1.1" }),
  "Connect over HTTP/2": (baseUrl) => createConnectTransport({ baseUrl, httpVersion: "2" }),
  "Connect as JSON": (baseUrl) => createConnectTransport({ baseUrl, httpVersion: "1.1", useBinaryFormat: false }),
  gRPC: (baseUrl) => createGrpcTransport({ baseUrl }),
  "gRPC-Web over HTTP/1.1": (baseUrl) => createGrpcWebTransport({ baseUrl, httpVersion: "1.1" }),
};

test.each(Object.keys(transports))("%s gets an answer and a stream from the one port", async (name) => {
  const port = await open();
  const transport = transports[name]?.(port.url);
  if (transport === undefined) throw new Error(name);
  expect(await createClient(ClusterService, transport).getCluster({ id: "a" })).toMatchObject({ id: "a", name: "eu" });
  const cursors: string[] = [];
  for await (const { cursor } of createClient(CommandService, transport).watchCommands({})) cursors.push(cursor);
  expect(cursors).toEqual(["1", "2"]);
});

test("the stock gRPC client of Node gets the same", async () => {
  const port = await open();
  const client = new Client(`127.0.0.1:${port.port}`, credentials.createInsecure());
  ends.push(() => client.close());
  const answered = await new Promise((resolve, reject) => {
    client.makeUnaryRequest(
      "/bowline.clusters.v1.ClusterService/GetCluster",
      (request: Parameters<typeof toBinary<typeof GetClusterRequestSchema>>[1]) =>
        Buffer.from(toBinary(GetClusterRequestSchema, request)),
      (bytes) => fromBinary(ClusterSchema, bytes),
      create(GetClusterRequestSchema, { id: "a" }),
      new Metadata(),
      (error, value) => (error === null ? resolve(value) : reject(error)),
    );
  });
  expect(answered).toMatchObject({ id: "a", name: "eu" });
});

test("curl gets REST and Connect over both versions of HTTP", async () => {
  const port = await open();
  for (const version of ["--http1.1", "--http2-prior-knowledge"]) {
    const rest = await run("curl", ["-s", version, `${port.url}/v1/operator/clusters/a`]);
    const url = `${port.url}/bowline.clusters.v1.ClusterService/GetCluster`;
    const connect = await run("curl", ["-s", version, "--json", '{"id":"a"}', url]);
    expect(JSON.parse(rest.stdout)).toMatchObject(JSON.parse(connect.stdout) as object);
    expect(JSON.parse(connect.stdout)).toEqual({ id: "a", name: "eu" });
  }
});

test("streams that are opened and reset at once end their session, and the port serves others", async () => {
  const port = await open();
  const flood = connectHttp2(port.url);
  flood.on("error", () => {}); // being cut off is what is tested
  const cut = new Promise<void>((resolve) => flood.once("close", () => resolve()));
  const pour = (): void => {
    for (let at = 0; at < 100 && !flood.destroyed && !flood.closed; at += 1) {
      const stream = flood.request({ ":path": "/v1/operator/clusters/a" });
      stream.on("error", () => {}); // as above
      stream.close();
    }
    if (!flood.destroyed) setImmediate(pour);
  };
  pour();
  await cut;
  const other = createClient(ClusterService, createGrpcTransport({ baseUrl: port.url }));
  expect(await other.getCluster({ id: "a" })).toMatchObject({ name: "eu" });
});
