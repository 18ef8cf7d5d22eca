/** The whole as an ordinary user: nothing of it needs root, and its files are that user's alone. */
import { chmodSync, chownSync, statSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, expect, test } from "@jest/globals";
import { temporaryFolder } from "@bowline/testing";
import { folderOfAnAgent, startServer } from "./fixture.ts";
import { applyProduct, freshName, joinAgent, live, makePlace, publish } from "./operating.ts";
import { servedVersion, startUpstream, type Upstream } from "./requests.ts";

let upstream: Upstream;

beforeAll(async () => {
  upstream = await startUpstream();
});

/** Nobody's on any machine; tests that aren't root run as themselves. */
const uid = 31_337;
const isRoot = process.getuid?.() === 0;
const asUser = isRoot ? ["setpriv", "--reuid", String(uid), "--regid", String(uid), "--clear-groups"] : [];
/** In a checkout that only root may enter another user finds no program; then all of it runs as root. */
const asNobodySpecial = asUser.length > 0 && isReadable() ? asUser : [];

function isReadable(): boolean {
  for (let folder = import.meta.dirname; folder !== "/"; folder = join(folder, ".."))
    if ((statSync(folder).mode & 0o001) === 0) return false;
  return true;
}

function ownedBy(folder: string): string {
  if (asNobodySpecial.length > 0) chownSync(folder, uid, uid);
  chmodSync(folder, 0o700);
  return folder;
}

test("a server with its own PostgreSQL and an agent run as an ordinary user, and keep their secrets to it", async () => {
  const prefix = asNobodySpecial;
  const server = await startServer({ prefix, dataDir: ownedBy(temporaryFolder()) });
  const place = await makePlace(server.api);
  const agent = await joinAgent(place, { prefix, dataDir: ownedBy(folderOfAnAgent()) });
  const product = freshName("product");
  await applyProduct(server.api, product, { backend: upstream.url });
  const { url } = await live(server.api, (await publish(place, product)).id);
  expect(await servedVersion(`${url}/${product}`)).toBe("1");

  const owner = prefix.length > 0 ? uid : process.getuid?.();
  for (const file of [
    join(server.dataDir, "admin-token"),
    join(server.dataDir, "encryption-key"),
    join(server.dataDir, "server.json"),
    join(agent.dataDir, "agent.json"),
    join(agent.dataDir, "signing-key.json"),
    join(agent.dataDir, "sealing-key.json"),
  ]) {
    const { mode, uid: who } = statSync(file);
    expect({ file, mode: (mode & 0o777).toString(8), who }).toEqual({ file, mode: "600", who: owner });
  }
  expect(await agent.process.end()).toEqual({ code: 0, signal: null });
  expect(await server.process.end()).toEqual({ code: 0, signal: null });
}, 120_000);
