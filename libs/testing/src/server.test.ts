import { expect, test } from "@jest/globals";
import { ClusterService } from "@bowline/contract/clusters";
import { startReplicas, startServer } from "./server.ts";

test("replicas on one database see the same rows, each with a port and a lease of its own; one starts again in its place", async () => {
  const [a, b] = await startReplicas(2);
  await a.operator.cluster("shared");
  expect((await b.client(ClusterService).getCluster({ id: "shared" })).name).toBe("shared");
  expect(a.url).not.toBe(b.url);
  const leases = () => a.database.db.selectFrom("replicas").select("id").orderBy("id").execute();
  expect(await leases()).toEqual([a.replicaId, b.replicaId].toSorted().map((id) => ({ id })));

  await b.stop();
  const again = await b.again();
  expect(again.url).toBe(b.url);
  expect(again.replicaId).not.toBe(b.replicaId);
  expect((await again.client(ClusterService).getCluster({ id: "shared" })).name).toBe("shared");
});

test("a paused server answers nothing until it is resumed", async () => {
  const server = await startServer();
  await server.pause();
  const rows = () => server.database.db.selectFrom("clusters").select("name").execute();
  const asked = server.operator.cluster("late");
  expect(await Promise.race([asked, rows()])).toEqual([]);
  server.resume();
  expect((await asked).name).toBe("late");
  expect(await rows()).toEqual([{ name: "late" }]);
});
