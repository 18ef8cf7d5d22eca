/** The command line as a real process against a scripted server on a real socket. */
import { mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { create } from "@bufbuild/protobuf";
import { timestampNow } from "@bufbuild/protobuf/wkt";
import { Code } from "@connectrpc/connect";
import type { ConnectRouter } from "@connectrpc/connect";
import { expect, test } from "@jest/globals";
import { Agent_Connectivity, Agent_State, AgentsService } from "@bowline/contract/agents";
import { Cluster_State, ClusterService, RegistrationTokenService } from "@bowline/contract/clusters";
import { AuthService } from "@bowline/contract/identity";
import { Role } from "@bowline/contract/options";
import {
  ProductPublish_State as State,
  ProductPublishSchema,
  ProductPublishService,
  ProductService,
} from "@bowline/contract/products";
import type { ProductPublish } from "@bowline/contract/products";
import { atEnd, runProcess, startProcess, temporaryFolder } from "@bowline/testing";
import { goodToken, refusal, startScriptedApi } from "./testing/scripted-api.ts";
import type { ScriptedApi } from "./testing/scripted-api.ts";

const program = fileURLToPath(new URL("main.ts", import.meta.url));
const example = fileURLToPath(new URL("../../../examples/hello/product.yaml", import.meta.url));
const publishId = "publish_01k3aaaaaaaaaaaaaaaaaaaaaa";

async function scripted(
  routes: (router: ConnectRouter) => void,
): Promise<ScriptedApi & { env: Record<string, string> }> {
  const api = await startScriptedApi(routes);
  atEnd(() => api.close());
  const env = {
    BOWLINE_URL: api.url,
    BOWLINE_TOKEN: goodToken,
    XDG_CONFIG_HOME: temporaryFolder(),
    npm_lifecycle_event: "",
  };
  return { ...api, env };
}

function bowline(env: Record<string, string>, ...args: string[]): ReturnType<typeof runProcess> {
  return runProcess({ command: ["node", program, ...args], env });
}

function publish(
  state: State,
  more: { reason?: string; message?: string } = {},
  target: Record<string, unknown> = {},
): ProductPublish {
  return create(ProductPublishSchema, {
    id: publishId,
    product: "hello",
    revision: 4,
    cluster: "factory-7",
    state,
    createdAt: timestampNow(),
    reason: more.reason,
    message: more.message,
    targets: [
      {
        agentId: "agent_1",
        agent: "press-1",
        state,
        generation: 9,
        commandId: "command_1",
        urls: ["http://127.0.0.1:8081"],
        updatedAt: timestampNow(),
        ...target,
      },
    ],
  });
}

test("a list follows its pages; JSON is the API's own, quiet prints ids, a table names things", async () => {
  const api = await scripted((router) =>
    router.service(ClusterService, {
      listClusters: ({ pageToken }) =>
        pageToken === ""
          ? {
              clusters: [
                {
                  id: "cluster_1",
                  name: "alpha",
                  runtime: "docker",
                  state: Cluster_State.ONLINE,
                  agentsOnline: 2,
                  agentsTotal: 3,
                },
              ],
              nextPageToken: "2",
            }
          : { clusters: [{ id: "cluster_2", name: "b\u001b[2J", runtime: "local", state: Cluster_State.NO_AGENT }] },
    }),
  );
  const table = await bowline(api.env, "cluster", "list");
  expect(table.code).toBe(0);
  expect(table.stdout).toMatch(/^NAME +RUNTIME +STATE +AGENTS/);
  expect(table.stdout).toMatch(/alpha +docker +online +2\/3/);
  expect(table.stdout).not.toContain("\u001b");
  expect((await bowline(api.env, "cluster", "list", "-q")).stdout).toBe("cluster_1\ncluster_2\n");
  const json = await bowline(api.env, "cluster", "list", "--output", "json");
  expect(JSON.parse(json.stdout)).toMatchObject({
    clusters: [{ name: "alpha", state: "ONLINE" }, { id: "cluster_2" }],
  });
});

test("exit codes tell what went wrong, and the text carries reason, request and next command", async () => {
  const api = await scripted((router) =>
    router.service(ClusterService, {
      getCluster: () => {
        throw refusal(Code.NotFound, "NOT_FOUND", "no cluster x");
      },
      createCluster: () => {
        throw refusal(Code.PermissionDenied, "PERMISSION_DENIED", "your role may not do this");
      },
    }),
  );
  const missing = await bowline(api.env, "cluster", "get", "x");
  expect(missing.code).toBe(1);
  expect(missing.stdout).toBe("");
  expect(missing.stderr).toContain(`bowline: No cluster x.\n  Said by ${api.url}, request req_test.`);
  expect(missing.stderr.trimEnd().endsWith("NOT_FOUND")).toBe(true);
  const json = await bowline(api.env, "cluster", "get", "x", "-o", "json");
  expect(JSON.parse(json.stderr)).toMatchObject({ code: "not_found", reason: "NOT_FOUND", requestId: "req_test" });

  expect((await bowline(api.env, "cluster", "create", "x", "--runtime", "local")).code).toBe(4);
  expect((await bowline({ ...api.env, BOWLINE_TOKEN: "wrong" }, "cluster", "get", "x")).code).toBe(4);
  expect((await bowline({ ...api.env, BOWLINE_URL: "", BOWLINE_TOKEN: "" }, "cluster", "list")).code).toBe(4);
  expect((await bowline(api.env, "cluster", "get")).code).toBe(2);
  expect((await bowline(api.env, "cluster", "frobnicate")).code).toBe(2);
  await api.close();
  const gone = await bowline(api.env, "cluster", "list");
  expect(gone.code).toBe(5);
  expect(gone.stderr).toContain("TCP_REFUSED");
}, 120_000);

test("whom to trust is said once, by a file with a certificate or a whole fingerprint; else nothing is asked", async () => {
  const api = await scripted(() => {});
  const fingerprint = `sha256:${"0".repeat(64)}`;
  const file = join(temporaryFolder(), "ca.pem");
  writeFileSync(file, "garbage");
  for (const [flags, said] of [
    [["--ca-file", file, "--ca-fingerprint", fingerprint], "give one"],
    [["--ca-fingerprint", "sha256:12"], "64 hexadecimal digits"],
    [["--ca-file", file], "has no certificate"],
    [["--ca-file", `${file}.none`], "cannot be read"],
  ] as const) {
    const refused = await bowline(api.env, "cluster", "list", ...flags);
    expect(refused.code).toBe(2);
    expect(refused.stderr).toContain(said);
  }
  await api.close();
});

test("login keeps a context in a file of mode 0600, and contexts choose the server", async () => {
  const api = await scripted((router) =>
    router
      .service(AuthService, { getMe: () => ({ name: "ops", role: Role.OPERATOR, organisation: "default" }) })
      .service(ClusterService, { listClusters: () => ({}) }),
  );
  const tokenFile = join(temporaryFolder(), "token");
  writeFileSync(tokenFile, `${goodToken}\n`);
  const env: Record<string, string> = { ...api.env, BOWLINE_URL: "", BOWLINE_TOKEN: "" };

  const login = await bowline(env, "login", api.url, "--context", "work", "--token-file", tokenFile);
  expect(login.stdout).toContain("as ops (operator) of default; context work");
  const file = join(env.XDG_CONFIG_HOME ?? "", "bowline", "config.json");
  expect(statSync(file).mode & 0o777).toBe(0o600);
  expect(JSON.parse(readFileSync(file, "utf8"))).toMatchObject({ current: "work" });

  expect((await bowline(env, "cluster", "list")).code).toBe(0);
  expect((await bowline(env, "cluster", "list", "--context", "none")).code).toBe(2);
  expect((await bowline(env, "context", "list")).stdout).toContain("* work");
  expect((await bowline(env, "context", "remove", "work")).code).toBe(0);
  expect((await bowline(env, "cluster", "list")).code).toBe(4);
  const stdin = await runProcess({
    command: ["node", program, "login", api.url, "--context", "two", "--token-stdin"],
    env,
    input: goodToken,
  });
  expect(stdin.code).toBe(0);
}, 120_000);

test("a refused login changes no context", async () => {
  const api = await scripted((router) => router.service(AuthService, {}));
  const env: Record<string, string> = { ...api.env, BOWLINE_URL: "", BOWLINE_TOKEN: "wrong" };
  mkdirSync(join(env.XDG_CONFIG_HOME ?? "", "bowline"));
  expect((await bowline(env, "login", api.url)).code).toBe(4);
  expect((await bowline(env, "context", "list", "-q")).stdout).toBe("");
});

test("token create prints token and join line to standard output, the rest to standard error", async () => {
  const api = await scripted((router) =>
    router
      .service(ClusterService, { getCluster: () => ({ id: "cluster_1", name: "factory-7", runtime: "docker" }) })
      .service(RegistrationTokenService, {
        createRegistrationToken: () => ({
          id: "rt_1",
          token: "bwr_a_b",
          maxUses: 1,
          expiresAt: timestampNow(),
          joinCommand: "bowline agent join https://b.example --token-file token",
          containerCommand: 'X="$(cat token)" docker run \\\n  --env X bowline/agent-docker:0.1.0',
        }),
      }),
  );
  const shown = await bowline(api.env, "token", "create", "--cluster", "factory-7");
  expect(shown.stdout.split("\n")).toEqual([
    "  bwr_a_b",
    "  bowline agent join https://b.example --token-file token",
    '  X="$(cat token)" docker run \\',
    "    --env X bowline/agent-docker:0.1.0",
    "",
  ]);
  expect(shown.stderr).toContain("Registration token for cluster factory-7 (docker). Valid until");

  const file = join(temporaryFolder(), "token");
  const saved = await bowline(api.env, "token", "create", "--cluster", "factory-7", "--save", file);
  expect(saved.output).not.toContain("bwr_a_b");
  expect(saved.stdout).toContain(`--token-file ${file}\n`);
  expect(saved.stdout).toContain(`"$(cat ${file})" docker run`);
  expect(readFileSync(file, "utf8")).toBe("bwr_a_b\n");
  const calls = api.calls.length;
  expect((await bowline(api.env, "token", "create", "--cluster", "factory-7", "--save", file)).code).toBe(2);
  expect(api.calls.slice(calls)).not.toContain("RegistrationTokenService.CreateRegistrationToken");
});

test("where no token is issued --save leaves no file that would be in the way of the next try", async () => {
  const api = await scripted((router) =>
    router
      .service(ClusterService, { getCluster: () => ({ id: "cluster_1", name: "factory-7", runtime: "docker" }) })
      .service(RegistrationTokenService, {
        createRegistrationToken: () => {
          throw refusal(Code.FailedPrecondition, "CLUSTER_DELETING", "The cluster is being deleted.");
        },
      }),
  );
  const folder = temporaryFolder();
  const end = await bowline(api.env, "token", "create", "--cluster", "factory-7", "--save", join(folder, "token"));
  expect(end.stderr).toContain("CLUSTER_DELETING");
  expect(readdirSync(folder)).toEqual([]);
});

test("a fingerprint that is empty or none binds an agent to nothing, and is refused before anything is asked", async () => {
  const api = await scripted(() => {});
  for (const fingerprint of ["", "sha256:12"]) {
    const end = await bowline(api.env, "agent", "bind-certificate", "press-1", "--fingerprint", fingerprint);
    expect(end).toMatchObject({ code: 2, stderr: expect.stringContaining("64 hexadecimal digits") });
  }
  expect(api.calls).toEqual([]);
});

test("publish create --wait shows progress on standard error and the result on standard output", async () => {
  const api = await scripted((router) =>
    router.service(ProductPublishService, {
      createProductPublish: () => publish(State.PENDING),
      async *watchProductPublish() {
        yield {
          productPublish: publish(State.APPLYING, {}, { progressPercent: 60, progressPhase: "WRITING_ROUTES" }),
          cursor: "1",
        };
        yield { productPublish: publish(State.LIVE), cursor: "2" };
      },
    }),
  );
  const end = await bowline(api.env, "publish", "create", "hello", "--to", "factory-7", "--wait");
  expect(end.code).toBe(0);
  expect(end.stdout).toBe(`hello r4 to factory-7: LIVE   ${publishId}\n  http://127.0.0.1:8081\n`);
  expect(end.stderr).toMatch(/press-1 +APPLYING +60 %, writing routes/);
  expect(end.stderr).toMatch(/press-1 +LIVE +generation 9 answers +\+\d+\.\d s/);
  expect(end.stderr).not.toContain("\u001b");
  const json = await bowline(api.env, "publish", "create", "hello", "--to", "factory-7", "--wait", "-o", "json");
  expect(JSON.parse(json.stdout)).toMatchObject({ id: publishId, state: "LIVE" });
});

test("a publish that fails says why, what still serves and what to type, with exit code 1", async () => {
  const failed = {
    reason: "BACKEND_UNREACHABLE",
    message: "connection refused",
    servingRevision: 1,
    servingGeneration: 3,
  };
  const api = await scripted((router) =>
    router.service(ProductPublishService, {
      createProductPublish: () => publish(State.PENDING),
      async *watchProductPublish() {
        yield {
          productPublish: publish(State.FAILED, { reason: failed.reason, message: failed.message }, failed),
          cursor: "1",
        };
      },
    }),
  );
  const end = await bowline(api.env, "publish", "create", "hello", "--to", "factory-7", "--wait");
  expect(end.code).toBe(1);
  expect(end.stdout).toBe("");
  expect(end.stderr).toContain("Still serving at press-1: hello r1 (generation 3).");
  expect(end.stderr).toContain("bowline command retry command_1 --wait");
  expect(end.stderr).toContain("bowline publish rollback hello --to factory-7");
  expect(end.stderr.trimEnd().endsWith("BACKEND_UNREACHABLE")).toBe(true);
});

test("a wait that takes too long ends with 3, Ctrl-C with 130; both leave the work and say how to watch on", async () => {
  const api = await scripted((router) =>
    router.service(ProductPublishService, {
      createProductPublish: () => publish(State.PENDING, { reason: "AGENT_OFFLINE" }, { reason: "AGENT_OFFLINE" }),
      async *watchProductPublish() {
        yield { productPublish: publish(State.PENDING), cursor: "1" };
        await new Promise(() => {}); // nothing changes any more
      },
    }),
  );
  const late = await bowline(
    api.env,
    "publish",
    "create",
    "hello",
    "--to",
    "factory-7",
    "--wait",
    "--timeout",
    "300ms",
  );
  expect(late.code).toBe(3);
  expect(late.stderr).toContain(`Next: bowline publish watch ${publishId}`);

  const left = startProcess({
    command: ["node", program, "publish", "create", "hello", "--to", "factory-7", "--wait"],
    env: api.env,
  });
  await left.untilLine(/PENDING/, { withinMs: 30_000 });
  left.kill("SIGINT");
  expect(await left.ended).toEqual({ code: 130, signal: null });
  expect(left.stderr()).toContain(`Next: bowline publish watch ${publishId}`);
  expect(api.calls.filter((call) => /Unpublish|Cancel|Rollback/.test(call))).toEqual([]);
});

test("a watch whose connection is lost goes on from its cursor", async () => {
  const cursors: string[] = [];
  const api = await scripted((router) =>
    router.service(ProductPublishService, {
      getProductPublish: () => publish(State.PENDING),
      async *watchProductPublish({ cursor }) {
        cursors.push(cursor);
        yield { productPublish: publish(cursor === "" ? State.APPLYING : State.LIVE), cursor: `${cursor}x` };
        if (cursor === "") throw refusal(Code.Unavailable, "REPLICA_DRAINING", "the replica is going away");
      },
    }),
  );
  const end = await bowline(api.env, "publish", "watch", publishId, "-o", "json");
  expect(end.code).toBe(0);
  expect(
    end.stdout
      .trim()
      .split("\n")
      .map((line) => (JSON.parse(line) as { state: string }).state),
  ).toEqual(["APPLYING", "LIVE"]);
  expect(cursors).toEqual(["", "x"]);
});

test("a watch whose cursor is too old begins anew by itself, and says so; one that is refused without a cursor ends", async () => {
  const cursors: string[] = [];
  let refuseAll = false;
  const api = await scripted((router) =>
    router.service(ProductPublishService, {
      getProductPublish: () => publish(State.PENDING),
      async *watchProductPublish({ cursor }) {
        cursors.push(cursor);
        if (cursor !== "" || refuseAll) throw refusal(Code.OutOfRange, "CURSOR_EXPIRED", "no longer kept");
        yield { productPublish: publish(cursors.length === 1 ? State.APPLYING : State.LIVE), cursor: "x" };
        throw refusal(Code.Unavailable, "REPLICA_DRAINING", "the replica is going away");
      },
    }),
  );
  const end = await bowline(api.env, "publish", "watch", publishId);
  expect(end.code).toBe(0);
  expect(end.stderr).toContain("What changed meanwhile is no longer kept by the server");
  expect(cursors).toEqual(["", "x", ""]);
  refuseAll = true;
  expect((await bowline(api.env, "publish", "watch", publishId)).code).toBe(1);
});

test("what destroys needs --yes where nobody can be asked, and asks the server for nothing", async () => {
  const api = await scripted((router) =>
    router.service(AgentsService, {
      getAgent: () => ({
        id: "agent_1",
        name: "press-1",
        cluster: "factory-7",
        state: Agent_State.ENROLLED,
        connectivity: Agent_Connectivity.ONLINE,
      }),
      revokeAgent: () => ({ id: "agent_1", name: "press-1", state: Agent_State.REVOKED }),
      retireAgent: ({ force }) => {
        if (!force) throw refusal(Code.FailedPrecondition, "AGENT_ONLINE", "The agent press-1 is connected.");
        return { id: "agent_1", name: "press-1", state: Agent_State.RETIRED };
      },
    }),
  );
  const asked = await bowline(api.env, "agent", "revoke", "press-1");
  expect(asked.code).toBe(2);
  expect(asked.stderr).toContain("refuse agent press-1 of cluster factory-7 for good");
  expect(api.calls).toEqual(["AgentsService.GetAgent"]);
  expect((await bowline(api.env, "agent", "revoke", "press-1", "--yes")).code).toBe(0);
  expect((await bowline(api.env, "agent", "retire", "press-1")).code).toBe(2);
  const online = await bowline(api.env, "agent", "retire", "press-1", "--yes");
  expect(online.stderr).toContain("agent retire <name> --force");
  expect((await bowline(api.env, "agent", "retire", "press-1", "--yes", "--force")).stdout).toContain("is retired");
}, 120_000);

test("a conflict is shown with its reason and the command that ends it", async () => {
  const agent = { id: "agent_1", name: "press-1", cluster: "factory-7" };
  const api = await scripted((router) =>
    router.service(AgentsService, {
      getAgent: () => ({ ...agent, state: Agent_State.CONFLICT, conflict: "OTHER_RUNTIME" }),
      releaseAgent: ({ acceptRuntimeIdentity }) => ({
        ...agent,
        name: acceptRuntimeIdentity ? "press-1" : "",
        state: Agent_State.ENROLLED,
      }),
    }),
  );
  const shown = await bowline(api.env, "agent", "get", "press-1");
  expect(shown.stdout).toContain("it came with another runtime than the one that enrolled");
  expect(shown.stdout + shown.stderr).toContain("agent release press-1 --accept-runtime-identity");
  const released = await bowline(api.env, "agent", "release", "press-1", "--accept-runtime-identity");
  expect(released.stdout).toContain("Agent press-1 may connect.");
});

test("violations of an applied file are told at their place in the file", async () => {
  const api = await scripted((router) =>
    router.service(ProductService, {
      applyProduct: () => {
        throw refusal(Code.InvalidArgument, "INVALID_ARGUMENT", "1 field is wrong", {
          "manifest.api_services[0].backends[0].url": "no user info",
        });
      },
    }),
  );
  const end = await bowline(api.env, "product", "apply", "-f", example);
  expect(end.code).toBe(1);
  expect(end.stderr).toMatch(/product\.yaml:35:14: apiServices\[0\]\.backends\[0\]\.url: no user info/);
});

test("a token is not sent in clear text beyond this host", async () => {
  const api = await scripted(() => {});
  for (const url of ["http://192.0.2.1", "http://127.0.0.1.example.com"]) {
    const end = await bowline({ ...api.env, BOWLINE_URL: url }, "status");
    expect(end.code).toBe(2);
    expect(end.stderr).toContain("CLEAR_TEXT");
  }
});
