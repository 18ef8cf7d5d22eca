/**
 * Logs and programs of instances while replicas and agents are killed. Each test
 * takes a replica away, and the next goes on with those that are left.
 */
import { beforeAll, expect, test } from "@jest/globals";
import { InstanceService } from "@bowline/contract/instances";
import { refusalOf } from "@bowline/session";
import { isRunning, startProcess, startTcpProxy, temporaryFolder, type TestServer, until } from "@bowline/testing";
import { programs } from "../e2e/fixture.ts";
import { pidOf, portOf, run, type Shop, startShop, stays, withinMs } from "./tunnels.fixture.ts";

let shop: Shop;

beforeAll(async () => {
  shop = await startShop();
}, 120_000);

const at = (server: TestServer) => ({ host: "127.0.0.1", port: portOf(server) });

/** Follows, and tells why it ended. */
function follow(server: TestServer): { lines: () => number; ended: Promise<string> } {
  let lines = 0;
  const ended = (async () => {
    try {
      const logs = server.client(InstanceService).streamLogs({ stack: "shop", services: ["web"], follow: true });
      for await (const { entries } of logs) {
        const [failed] = entries.filter(({ reason }) => reason !== "");
        if (failed !== undefined) return failed.reason;
        lines += entries.length;
      }
      return "it ended";
    } catch (error) {
      return refusalOf(error).reason;
    }
  })();
  return { lines: () => lines, ended };
}

test("the replica that was asked is killed: the program ends and the CLI says so; logs that are followed go on at another one", async () => {
  const { b, c } = shop;
  const way = await startTcpProxy(at(c));
  const env = {
    ...{ BOWLINE_URL: `http://127.0.0.1:${way.port}`, BOWLINE_TOKEN: c.adminToken },
    ...{ XDG_CONFIG_HOME: temporaryFolder(), npm_lifecycle_event: "" },
  };
  const cli = (...args: string[]) => startProcess({ command: ["node", programs.cli, "stack", ...args], env });
  const exec = cli("exec", "shop", "web", "--index", "0", "--", ...stays);
  const logs = cli("logs", "shop", "web", "-f", "--index", "0");
  const [, pid = ""] = await exec.untilOutput(/^(\d+)$/m, { withinMs });
  await logs.untilOutput(/tick \d+/, { withinMs });

  await c.kill();
  expect(await exec.ended).toMatchObject({ code: 1 });
  expect(exec.stderr()).toContain("The connection to the server ended before the program did");
  await until(() => !isRunning(Number(pid)), { withinMs });
  way.redirect(at(b));
  await logs.untilOutput(/The connection is lost/, { withinMs });
  const before = ticksOf(logs.stdout()).length;
  await until(() => ticksOf(logs.stdout()).length > before + 3, { withinMs });
  const ticks = ticksOf(logs.stdout());
  expect(ticks).toEqual(ticks.toSorted((one, other) => one - other));
  expect(new Set(ticks).size).toBe(ticks.length);
  logs.kill("SIGINT");
  expect(await logs.ended).toMatchObject({ code: 130 });
});

const ticksOf = (text: string): number[] => [...text.matchAll(/tick (\d+)$/gm)].map(([, number]) => Number(number));

test("the replica between is killed: the call ends, the program too, and the next call waits until the agent is back", async () => {
  const { a, b, way } = shop;
  const cut = run(b, stays);
  const watched = follow(b);
  const pid = await pidOf(cut);
  await until(() => watched.lines() > 0, { withinMs });
  await a.kill();
  expect(await cut.ended).toBe("TUNNEL_LOST");
  expect(await watched.ended).toBe("TUNNEL_LOST");
  await until(() => !isRunning(pid), { withinMs });
  way.redirect(at(b));
  const next = run(b, stays);
  await pidOf(next);
  next.leave();
});

test("an agent that is killed ends the call within seconds; its next life ends what was begun, and can be asked before it is back", async () => {
  const cut = run(shop.b, stays);
  const pid = await pidOf(cut);
  await shop.agent.kill();
  expect(await cut.ended).toBe("TUNNEL_LOST");
  const again = shop.agent.again();
  const next = run(shop.b, stays);
  await pidOf(next);
  await until(() => !isRunning(pid), { withinMs });
  next.leave();
  expect(again.process.output()).not.toContain("no session; the agent dials again");
});
