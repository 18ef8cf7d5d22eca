/** The walkthrough by hand: server, agent and example in terminals of their own, everything else with `bowline`. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "@jest/globals";
import { isRunning, runProcess, type RunningProcess, startProcess, temporaryFolder, until } from "@bowline/testing";
import { folderOfAnAgent, programs } from "./fixture.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));
/** A cold start on two busy cores. */
const startWithinMs = 60_000;

type Done = Awaited<ReturnType<typeof runProcess>>;

/** A person with a home of their own: their contexts are in it. */
function person(): {
  bowline: (...args: string[]) => Promise<Done>;
  terminal: (...args: string[]) => RunningProcess;
  json: (...args: string[]) => Promise<Record<string, unknown>>;
} {
  const env = { XDG_CONFIG_HOME: temporaryFolder(), BOWLINE_URL: undefined, BOWLINE_TOKEN: undefined };
  const command = (args: string[]): string[] => ["node", programs.cli, ...args];
  const bowline = (...args: string[]): Promise<Done> => runProcess({ command: command(args), env });
  return {
    bowline,
    terminal: (...args) => startProcess({ command: command(args), env }),
    json: async (...args) => {
      const done = await bowline(...args, "--output", "json");
      if (done.code !== 0) throw new Error(`bowline ${args.join(" ")}: ${done.stderr}`);
      return JSON.parse(done.stdout) as Record<string, unknown>;
    },
  };
}

test("the walkthrough: a server, a context, a cluster, an agent, a product, published, rolled back, removed", async () => {
  const { bowline, terminal, json } = person();
  const folder = temporaryFolder();
  const agentFolder = folderOfAnAgent();

  const server = terminal("server", "start", "--port", "0", "--data-dir", folder, "--log-format", "json");
  const line = await server.untilLine('"msg":"listening"', { withinMs: startWithinMs });
  const { url } = JSON.parse(line) as { url: string };
  // It became the server: whoever signals the command signals the server itself.
  expect((JSON.parse(readFileSync(join(folder, "server.json"), "utf8")) as { pid: number }).pid).toBe(server.pid);

  expect((await bowline("status")).code).toBe(4);
  const login = await bowline("login", url, "--context", "here", "--token-file", join(folder, "admin-token"));
  expect(login.stdout).toContain(`Signed in to ${url} as admin (admin)`);

  expect((await bowline("cluster", "create", "local", "--runtime", "local", "--allow-private-backends")).code).toBe(0);
  expect((await bowline("cluster", "create", "local", "--runtime", "local")).stderr).toContain("ALREADY_EXISTS");

  const tokenFile = join(folder, "registration-token");
  const token = await bowline("token", "create", "--cluster", "local", "--save", tokenFile);
  expect(token.stdout).toContain(`agent join ${url} --token-file ${tokenFile}`);
  expect(token.output).not.toContain("bwr_");
  // People read who it was by name; programs get the id too.
  expect((await bowline("token", "list", "--cluster", "local")).stdout).toMatch(/ admin\n/);
  expect((await json("token", "list", "--cluster", "local"))["registrationTokens"]).toMatchObject([
    { createdBy: expect.stringMatching(/^sa_/), createdByName: "admin" },
  ]);
  const agent = terminal(
    "agent",
    "join",
    url,
    "--token-file",
    tokenFile,
    "--data-dir",
    agentFolder,
    "--name",
    "press-1",
  );
  await until(async () => (await bowline("agent", "list")).stdout.match(/press-1 +local +online/), {
    withinMs: startWithinMs,
  });

  const backend = startProcess({ command: ["node", join(root, "examples/hello/backend.mjs"), "--port", "0"] });
  const [, upstream = ""] = await backend.untilOutput(/listening on (http:\S+)/);
  const example = readFileSync(join(root, "examples/hello/product.yaml"), "utf8").replaceAll(
    "http://127.0.0.1:9101",
    upstream,
  );
  const apply = (text: string): Promise<Done> =>
    runProcess({
      command: ["node", programs.cli, "product", "apply", "-f", "-"],
      env: adminOf(folder, url),
      input: text,
    });
  expect((await apply(example)).stdout).toContain("Product hello, revision 1");
  expect((await apply(example)).stdout).toContain("Nothing changed in product hello, revision 1.");
  expect((await bowline("gateway", "create", "default", "--listener", "http:0", "--default")).code).toBe(0);

  const live = await bowline("publish", "create", "hello", "--to", "local", "--wait", "--timeout", "1m");
  expect(live.stderr).toMatch(/press-1 +LIVE/);
  expect(live.stdout).toMatch(/^hello r1 to local: LIVE/);
  const [gateway = ""] = /http:\/\/\S+/.exec(live.stdout) ?? [];
  const answer = async (): Promise<string> =>
    (await fetch(`${gateway.replace(/\/$/, "")}/hello`, { headers: { connection: "close" } })).text();
  expect(await answer()).toContain("Hello, world!");

  await apply(example.replaceAll("/hello", "/bonjour"));
  expect((await bowline("publish", "diff", "hello", "--to", "local")).stdout).toContain(
    "~ api_services/hello/routes/hello",
  );
  expect((await json("publish", "create", "hello", "--to", "local", "--wait")).state).toBe("LIVE");
  expect(await answer()).not.toContain("Hello, world!");
  expect((await json("publish", "rollback", "hello", "--to", "local", "--wait")).revision).toBe(1);
  expect(await answer()).toContain("Hello, world!");

  expect((await bowline("publish", "unpublish", "hello", "--to", "local", "--wait")).code).toBe(2);
  expect((await json("publish", "unpublish", "hello", "--to", "local", "--wait", "--yes")).state).toBe("UNPUBLISHED");
  expect((await bowline("publish", "list")).stdout).toMatch(/ UNPUBLISHED .* admin +publish_/i);
  const { productPublishes } = await json("publish", "list");
  expect(productPublishes).toMatchObject(
    Array(3).fill({ createdBy: expect.stringMatching(/^sa_/), createdByName: "admin" }),
  );
  const audit = await bowline("audit", "list");
  for (const action of ["cluster.create", "agent.enrol", "product.apply"]) expect(audit.stdout).toContain(action);

  expect((await bowline("agent", "revoke", "press-1", "--yes")).code).toBe(0);
  expect((await agent.ended).code).toBe(4);
  server.kill("SIGTERM");
  await server.ended;
  expect(isRunning(server.pid)).toBe(false);
  expect((await bowline("status")).code).toBe(5);
}, 240_000);

test("a publish waits for an agent that is not there: exit code 3, and watching it again sees it LIVE", async () => {
  const { bowline, terminal } = person();
  const folder = temporaryFolder();
  const agentFolder = folderOfAnAgent();
  const server = terminal("server", "start", "--port", "0", "--data-dir", folder, "--log-format", "json");
  const line = await server.untilLine('"msg":"listening"', { withinMs: startWithinMs });
  const { url } = JSON.parse(line) as { url: string };
  await bowline("login", url, "--token-file", join(folder, "admin-token"));
  await bowline("cluster", "create", "local", "--runtime", "local", "--allow-private-backends");
  await bowline("gateway", "create", "default", "--listener", "http:0", "--default");
  const backend = startProcess({ command: ["node", join(root, "examples/hello/backend.mjs"), "--port", "0"] });
  const [, upstream = ""] = await backend.untilOutput(/listening on (http:\S+)/);
  const example = readFileSync(join(root, "examples/hello/product.yaml"), "utf8").replaceAll(
    "http://127.0.0.1:9101",
    upstream,
  );
  await runProcess({
    command: ["node", programs.cli, "product", "apply", "-f", "-"],
    env: adminOf(folder, url),
    input: example,
  });

  const late = await bowline("publish", "create", "hello", "--to", "local", "--wait", "--timeout", "2s");
  expect(late.code).toBe(3);
  expect(late.stderr).toContain("NO_AGENT");
  const [, id = ""] = /publish watch (publish_\w+)/.exec(late.stderr) ?? [];

  const watching = terminal("publish", "watch", id, "--timeout", "90s");
  await watching.untilOutput(/PENDING/, { withinMs: startWithinMs });
  await bowline("token", "create", "--cluster", "local", "--save", join(folder, "token"));
  const agent = terminal("agent", "join", url, "--token-file", join(folder, "token"), "--data-dir", agentFolder);
  expect((await watching.ended).code).toBe(0);
  expect(watching.stdout()).toContain("hello r1 to local: LIVE");
  agent.kill("SIGTERM");
  await agent.ended;
}, 240_000);

function adminOf(folder: string, url: string): Record<string, string> {
  return { BOWLINE_URL: url, BOWLINE_TOKEN_FILE: join(folder, "admin-token") };
}
