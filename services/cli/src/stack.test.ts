/** `bowline stack` as a real process against a scripted server: what it sends, and how it tells what came back. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Code, type ConnectRouter } from "@connectrpc/connect";
import { expect, test } from "@jest/globals";
import { toJson } from "@bufbuild/protobuf";
import { Command_State, CommandService } from "@bowline/contract/commands";
import { CommandLimitsSchema } from "@bowline/contract/products";
import {
  type ApplyStackRequest,
  type ComposeSource,
  Rollout_State,
  RolloutService,
  Stack_State,
  StackService,
  StackTarget_State,
} from "@bowline/contract/stacks";
import { atEnd, runProcess, startProcess, temporaryFolder } from "@bowline/testing";
import { goodToken, refusal, startScriptedApi } from "./testing/scripted-api.ts";

const program = fileURLToPath(new URL("main.ts", import.meta.url));

async function scripted(routes: (router: ConnectRouter) => void, more: Record<string, string> = {}) {
  const api = await startScriptedApi(routes);
  atEnd(() => api.close());
  const folder = temporaryFolder();
  const home = { XDG_CONFIG_HOME: temporaryFolder(), npm_lifecycle_event: "" };
  const env = { BOWLINE_URL: api.url, BOWLINE_TOKEN: goodToken, ...home, ...more };
  const command = (args: string[]): string[] => ["node", program, "stack", ...args];
  return {
    api,
    folder,
    write: (name: string, text: string) => writeFileSync(join(folder, name), text),
    bowline: (args: string[], input?: string) =>
      runProcess({ command: command(args), cwd: folder, env, ...(input === undefined ? {} : { input }) }),
    start: (...args: string[]) => startProcess({ command: command(args), cwd: folder, env }),
  };
}

test("of the shell and the folder only what the files name is sent, whatever the server asks for; errors are a line each", async () => {
  const asked: (ComposeSource | undefined)[] = [];
  const { bowline, write, folder } = await scripted(
    (router) =>
      router.service(StackService, {
        validateStack: ({ source }) => {
          asked.push(source);
          return {
            errors: [
              {
                reason: "VALUE_INVALID",
                message: "no port",
                file: "compose.yaml",
                line: 12,
                column: 5,
                path: "services.web.ports[0]",
              },
              { reason: "SERVICES_MISSING", message: "none", file: "compose.yaml" },
            ],
            missing: ["./web.env", "conf", ".env", "secret.txt", "gone.env", "./sub/db.yaml", "./sub/.env"],
          };
        },
      }),
    { COLOUR: "red", FROM_ENV_FILE: "1", STAYS: "here" },
  );
  write(".env", "COLOUR=blue\nSIZE=big\nUNUSED=1\n");
  write("secret.txt", "not named");
  write("web.env", "A=$FROM_ENV_FILE\n");
  mkdirSync(join(folder, "conf"));
  write("conf/app.conf", "$STAYS");
  write(
    "compose.yaml",
    "services:\n  web:\n    image: web:$COLOUR-$SIZE\n    env_file: [./web.env, gone.env]\n    volumes: ['conf:/conf:ro']\n",
  );
  write("compose.override.yaml", "include: [sub/db.yaml]\nservices: {}\n");
  mkdirSync(join(folder, "sub"));
  write("sub/db.yaml", "services: { db: { image: 'db:$TAG' } }");
  write("sub/.env", "TAG=9\nUNNAMED=1\n");
  const done = await bowline(["validate"]);
  expect(done.code).toBe(1);
  expect(done.stderr).toContain("  compose.yaml:12:5: services.web.ports[0]: no port\n  compose.yaml: none\n");
  const last = asked.at(-1);
  expect(asked).toHaveLength(2);
  expect(last?.files.map(({ name }) => name)).toEqual(["compose.yaml", "compose.override.yaml"]);
  expect(last?.environment).toEqual({ COLOUR: "red", SIZE: "big", FROM_ENV_FILE: "1" });
  expect(last?.referred.map(({ name }) => name)).toEqual([
    ...["./web.env", "conf/app.conf", "./sub/db.yaml", "./sub/.env"],
  ]);
  expect(Buffer.from(last?.referred.at(-1)?.content ?? []).toString()).toBe('TAG="9"\n');
  expect(done.stderr).toContain("asks for secret.txt, which the files do not name");
}, 60_000);

test("files, profiles and name come from variables of .env and the shell where no flag says them", async () => {
  const asked: { name: string; source?: ComposeSource }[] = [];
  const { bowline, write } = await scripted(
    (router) => router.service(StackService, { validateStack: (request) => (asked.push(request), {}) }),
    { COMPOSE_PROFILES: "debug,extra" },
  );
  write(".env", "COMPOSE_FILE=one.yaml:two.yaml\nCOMPOSE_PROFILES=unused\nCOMPOSE_PROJECT_NAME=shop\n");
  write("compose.yaml", "services: {}\n");
  write("one.yaml", "services: {}\n");
  expect((await bowline(["validate"])).stderr).toContain("there is no file two.yaml");
  write("two.yaml", "services: {}\n");
  expect((await bowline(["validate", "--json"])).stdout).toBe("{}\n");
  const [{ name, source } = { name: "" }] = asked;
  expect([name, source?.profiles]).toEqual(["shop", ["debug", "extra"]]);
  expect(source?.files.map((file) => file.name)).toEqual(["one.yaml", "two.yaml"]);
}, 60_000);

/** A rollout of r2 that fails, and the one that goes back to r1. */
function failing() {
  const target = { agentId: "1", agent: "press-1", generation: 2, services: [{ service: "web" }] };
  const stack = { id: "stack_1", name: "shop", cluster: "here", revision: 2, stableRevision: 1 };
  const first = { id: "rollout_1", toRevision: 2, state: Rollout_State.RUNNING, total: 1 };
  const back = { id: "rollout_2", toRevision: 1, state: Rollout_State.RUNNING, total: 1, cause: "revert" };
  const applying = { ...target, state: StackTarget_State.APPLYING };
  const done = { ...target, state: StackTarget_State.DONE };
  return {
    begun: { ...stack, state: Stack_State.ROLLING_OUT, rollout: first, targets: [applying] },
    goesBack: { ...stack, revision: 1, state: Stack_State.ROLLING_OUT, rollout: back, targets: [applying] },
    isBack: {
      ...{ ...stack, revision: 1, state: Stack_State.RUNNING, targets: [done] },
      rollout: { ...back, state: Rollout_State.SUCCEEDED },
    },
    ended: {
      ...{ ...first, state: Rollout_State.ROLLED_BACK, reason: "UNHEALTHY", followedBy: "rollout_2" },
      message: "web: exit code 1\nlast line of its log",
    },
  };
}

test("a rollout that fails is followed until it has gone back, and ends with the reason, what runs and what to type", async () => {
  const { begun, goesBack, isBack, ended } = failing();
  const { bowline } = await scripted((router) => {
    router.service(StackService, {
      validateStack: () => ({}),
      applyStack: () => ({ stack: begun }),
      watchStack: async function* () {
        for (const [at, stack] of [begun, goesBack, isBack].entries()) yield { stack, cursor: String(at + 1) };
      },
    });
    router.service(RolloutService, { getRollout: () => ended });
  });
  const done = await bowline(["up", "-f", "-", "--name", "shop"], "services: {web: {image: web}}");
  expect([done.code, done.stdout]).toEqual([1, ""]);
  for (const words of [
    "shop r2 to here: ROLLED_BACK: web: exit code 1",
    "last line of its log",
    "it goes back to this",
    "It went back: r1 runs.",
    "Next: bowline stack ps shop",
  ])
    expect(done.stderr).toContain(words);
  expect(done.stderr.trimEnd().endsWith("UNHEALTHY")).toBe(true);
}, 60_000);

test("Ctrl-C leaves a rollout alone and says how to watch it; a time that is over is exit code 3", async () => {
  const { begun } = failing();
  const { bowline, start, write, api } = await scripted((router) =>
    router.service(StackService, {
      validateStack: () => ({}),
      applyStack: () => ({ stack: begun }),
      watchStack: async function* () {
        yield { stack: begun, cursor: "1" };
        await new Promise(() => {}); // nothing changes any more
      },
    }),
  );
  write("docker-compose.yml", "name: shop\nservices: {web: {image: web}}\n");
  const up = start("up");
  await up.untilOutput(/press-1 +web/, { withinMs: 30_000 });
  up.kill("SIGINT");
  expect((await up.ended).code).toBe(130);
  expect(up.stderr()).toContain("bowline stack watch shop");
  expect(api.calls.filter((call) => !/Validate|Apply|Watch/.test(call))).toEqual([]);
  expect((await bowline(["up", "--timeout", "1s"])).code).toBe(3);
  expect(JSON.parse((await bowline(["up", "--no-wait", "-o", "json"])).stdout)).toMatchObject({ name: "shop" });
  expect((await bowline(["up", "--name", "No Name"])).code).toBe(2);
}, 90_000);

test("what only the apply finds against the cluster's policy is told like any other mistake, and who can allow it", async () => {
  const { bowline } = await scripted((router) =>
    router.service(StackService, {
      validateStack: () => ({}),
      applyStack: () => {
        throw refusal(Code.PermissionDenied, "COMPOSE_REFUSED_BY_POLICY", "refused", {
          "compose.yaml:3:5 services.web.privileged": "services.web.privileged: it is not allowed.",
        });
      },
    }),
  );
  const done = await bowline(["up", "-f", "-", "--name", "shop"], "services: {web: {image: web}}");
  expect(done.code).toBe(1);
  expect(done.stderr).toContain("  compose.yaml:3:5: services.web.privileged: it is not allowed.\n");
  expect(done.stderr).toContain("cluster update <name> --allow-privileged");
  expect(done.stderr.trimEnd().endsWith("COMPOSE_REFUSED_BY_POLICY")).toBe(true);
}, 60_000);

test("limits of its commands are sent where one is given, and shown", async () => {
  const { begun } = failing();
  const asked: ApplyStackRequest[] = [];
  const { bowline } = await scripted((router) =>
    router.service(StackService, {
      validateStack: () => ({}),
      applyStack: (request) => {
        asked.push(request);
        return { stack: begun };
      },
      getStack: () => ({
        ...begun,
        limits: { maxRetries: 3, priority: 2, runTimeout: { seconds: 900n }, offlineLife: { seconds: 86_400n } },
      }),
    }),
  );
  const up = ["up", "-f", "-", "--name", "shop", "--no-wait", "-q"];
  const text = "services: {web: {image: web}}";
  await bowline(up, text);
  await bowline([...up, "--run-timeout", "15m", "--max-retries", "0", "--priority", "2"], text);
  expect(asked.map(({ limits }) => limits && toJson(CommandLimitsSchema, limits))).toEqual([
    undefined,
    { maxRetries: 0, runTimeout: "900s", priority: 2 },
  ]);
  expect((await bowline([...up, "--priority", "10"], text)).code).toBe(2);
  expect((await bowline(["get", "shop"])).stdout).toContain(
    "15 min to run, 3 retries, priority 2, waits 24 h for a host that is away",
  );
}, 60_000);

test("events: rollouts and repairs in the order of time, then what has drifted; the newest where there are more", async () => {
  const at = (second: number) => ({ seconds: BigInt(1_700_000_000 + second) });
  const instance = { workload: "web", phase: "RUNNING", health: "HEALTHY" };
  const asked: unknown[] = [];
  const { bowline } = await scripted((router) => {
    router.service(StackService, {
      getStack: () => ({
        ...{ id: "stack_1", name: "shop", state: Stack_State.RUNNING, conditions: ["DRIFTED"] },
        targets: [
          {
            ...{ agentId: "1", agent: "press-1", state: StackTarget_State.DONE },
            services: [
              { service: "db", count: 1, instances: [{ ...instance, workload: "db" }] },
              { service: "job", count: 1, instances: [{ workload: "job", phase: "EXITED", exitCode: 0 }] },
              {
                service: "web",
                count: 1,
                instances: [{ ...instance, reason: "changed by hand: memory 2 instead of 1" }],
              },
            ],
          },
        ],
      }),
    });
    router.service(RolloutService, {
      listRollouts: () => ({
        rollouts: [20, 0].map((second) => ({
          ...{ id: `rollout_${second}`, cause: "apply", toRevision: 1, state: Rollout_State.SUCCEEDED },
          createdAt: at(second),
        })),
      }),
    });
    router.service(CommandService, {
      listCommands: ({ stack, createdBy }) => {
        asked.push([stack, createdBy]);
        const task = {
          agent: "press-1",
          state: Command_State.FAILED,
          reason: "UNHEALTHY",
          message: "no cash\nits log",
        };
        return { commands: [{ ...task, id: "command_1", createdAt: at(10) }] };
      },
    });
  });
  const all = await bowline(["events", "shop"]);
  const told = (text: string): string[] =>
    text
      .trimEnd()
      .split("\n")
      .map((line) => line.replace(/^.* ago {2}/, ""));
  const drift = ["now  DRIFTED", "  press-1  web  running, healthy, changed by hand: memory 2 instead of 1"];
  expect(told(all.stdout)).toEqual([
    "apply r1: SUCCEEDED, 0 of 0 hosts  rollout_0",
    "repair of drift at press-1: FAILED, UNHEALTHY: no cash  command_1",
    "apply r1: SUCCEEDED, 0 of 0 hosts  rollout_20",
    ...drift,
  ]);
  expect(asked).toEqual([["stack_1", "drift-repair"]]);
  expect(told((await bowline(["events", "shop", "--limit", "2"])).stdout)).toEqual([...told(all.stdout).slice(1)]);
  expect((await bowline(["events", "shop", "-q"])).stdout).toBe("rollout_0\nrollout_20\n");
}, 60_000);

test("history --revision shows the file that a revision was made of, to be applied again, or the API's JSON", async () => {
  const normalised = "services:\n  web:\n    image: web:1\n";
  const { bowline, api } = await scripted((router) =>
    router.service(StackService, {
      getStackRevision: ({ stackId, number }) => {
        if (number === 3) throw refusal(Code.NotFound, "NOT_FOUND", "The stack has no revision 3.");
        return { number, services: [stackId], normalised };
      },
    }),
  );
  expect(await bowline(["history", "shop", "--revision", "2"])).toMatchObject({ code: 0, stdout: normalised });
  const { stdout } = await bowline(["history", "shop", "--revision", "2", "-o", "json"]);
  expect(JSON.parse(stdout)).toEqual({ number: 2, services: ["shop"], normalised });
  const none = await bowline(["history", "shop", "--revision", "3"]);
  expect([none.code, none.stdout]).toEqual([1, ""]);
  expect(none.stderr).toContain("Next: bowline stack history <stack>");
  expect(api.calls.every((call) => call.includes("GetStackRevision"))).toBe(true);
});
