/** Repeating, comparing, listing and watching publishes. */
import { expect, test } from "@jest/globals";
import { Change_Kind, ProductPublish_State as State, ProductPublishService } from "@bowline/contract/products";
import { atEnd, testDatabase } from "@bowline/testing";
import { sql } from "kysely";
import { reasonOf } from "../platform/in-process.ts";
import { manifest, startPublishing } from "./publishes.fixture.ts";

async function start() {
  const api = await startPublishing((await testDatabase()).db);
  const clusterId = await api.cluster("local");
  const agent = await api.agent(clusterId);
  await api.apply(manifest("hello"));
  const publish = (more: object = {}) =>
    api.alpha.createProductPublish({ productId: "hello", clusterId: "local", ...more });
  /** Places events as a server does, until the test ends. */
  const placing = () => {
    const stop = new AbortController();
    const running = api.events.run(stop.signal);
    atEnd(async () => {
      stop.abort();
      await running;
    });
  };
  /** A watch and its next message that satisfies `wanted`. */
  const watch = (request: { id?: string; cursor?: string }, who = "alpha") => {
    const hangUp = new AbortController();
    atEnd(() => hangUp.abort());
    const messages = api
      .as(ProductPublishService, who)
      .watchProductPublish(request, { signal: hangUp.signal })
      [Symbol.asyncIterator]();
    type Message = Extract<Awaited<ReturnType<typeof messages.next>>, { done?: false }>["value"];
    return {
      hangUp: () => hangUp.abort(),
      until: async (wanted: (message: Message) => boolean): Promise<Message> => {
        for (;;) {
          const { done, value } = await messages.next();
          if (done === true) throw new Error("the watch ended");
          if (wanted(value)) return value;
        }
      },
    };
  };
  return { ...api, clusterId, agent, publish, placing, watch };
}

test("a repeated request with its key gets the same publish; with another body it is refused", async () => {
  const { publish, alpha, agent, db } = await start();
  const first = await publish({ requestId: "r1" });
  expect((await publish({ requestId: "r1" })).id).toBe(first.id);
  expect(await reasonOf(publish({ requestId: "r1", draft: true }))).toBe("IDEMPOTENCY_CONFLICT");
  const [a, b] = await Promise.all([publish({ requestId: "r2" }), publish({ requestId: "r2" })]);
  expect(a.id).toBe(b.id);
  await agent.workOff();
  const [back, again] = [
    await alpha.rollbackProductPublish({ id: first.id, requestId: "r1" }),
    await alpha.rollbackProductPublish({ id: first.id, requestId: "r1" }),
  ];
  expect(again.id).toBe(back.id);
  await alpha.unpublishProductPublish({ id: back.id, requestId: "r3" });
  expect((await alpha.unpublishProductPublish({ id: back.id, requestId: "r3" })).state).toBe(State.UNPUBLISHING);
  expect(await db.selectFrom("product_publishes").select("id").execute()).toHaveLength(3);
});

test("a refused request leaves its key free", async () => {
  const { publish } = await start();
  const wrong = { requestId: "r1", apiServices: ["missing"] };
  expect(await reasonOf(publish(wrong))).toBe("INVALID_ARGUMENT");
  expect((await publish({ requestId: "r1" })).state).toBe(State.PENDING);
});

test("a diff tells what differs between two publishes, and from the product as it is now", async () => {
  const { publish, apply, alpha } = await start();
  const first = await publish();
  expect((await alpha.diffProductPublish({ id: first.id })).changes).toEqual([]);
  await apply(manifest("hello", ["/hello", "/more"]));
  const now = await alpha.diffProductPublish({ id: first.id });
  expect(now.changes.map(({ kind, path }) => [kind, path])).toEqual([
    [Change_Kind.ADDED, "api_services/hello/routes/r1"],
  ]);
  const second = await publish();
  expect((await alpha.diffProductPublish({ id: first.id, to: second.id })).changes).toEqual(now.changes);
  expect((await alpha.diffProductPublish({ id: second.id, to: first.id })).changes).toMatchObject([
    { kind: Change_Kind.REMOVED },
  ]);
  expect(await reasonOf(alpha.diffProductPublish({ id: first.id, to: "nothing" }))).toBe("NOT_FOUND");
});

test("a list is newest first, paged, counted on request and filtered by product, cluster and state", async () => {
  const { publish, apply, alpha } = await start();
  const ids = [(await publish()).id, (await publish()).id, (await publish({ draft: true })).id].reverse();
  await apply(manifest("other"));
  const other = await publish({ productId: "other" });
  const page = await alpha.listProductPublishes({ pageSize: 2, productId: "hello", returnTotalSize: true });
  expect(page).toMatchObject({ totalSize: 3, productPublishes: [{ id: ids[0] }, { id: ids[1] }] });
  const rest = await alpha.listProductPublishes({ pageSize: 2, productId: "hello", pageToken: page.nextPageToken });
  expect(rest).toMatchObject({ productPublishes: [{ id: ids[2] }], nextPageToken: "" });
  const pending = await alpha.listProductPublishes({ states: [State.PENDING], clusterId: "local" });
  expect(pending.productPublishes.map((each) => each.id)).toEqual([other.id, ids[1]]);
  expect((await alpha.listProductPublishes({ clusterId: "nothing" })).productPublishes).toEqual([]);
  expect(await reasonOf(alpha.listProductPublishes({ pageToken: "x" }))).toBe("PAGE_TOKEN_INVALID");
});

test("a watch begins with what there is, then tells each change to its newest state", async () => {
  const { publish, agent, placing, watch } = await start();
  placing();
  const { id } = await publish();
  const { until } = watch({ id });
  expect(await until(() => true)).toMatchObject({ productPublish: { id, state: State.PENDING } });
  expect(await until(() => true)).toMatchObject({ snapshotEnd: true });
  await agent.workOff();
  expect(await until((message) => message.productPublish?.state === State.LIVE)).toMatchObject({
    productPublish: { id },
  });
});

test("a watch that resumes from a cursor gets what changed since; one of all shows what is in force", async () => {
  const { publish, agent, apply, placing, watch } = await start();
  placing();
  const { id } = await publish();
  const first = watch({});
  const { cursor } = await first.until((message) => message.snapshotEnd);
  first.hangUp();
  await agent.workOff();
  await apply(manifest("other"));
  const other = await publish({ productId: "other" });
  const { until } = watch({ cursor });
  expect(await until((message) => message.productPublish?.id === id)).toMatchObject({
    productPublish: { state: State.LIVE },
  });
  await until((message) => message.productPublish?.id === other.id);
});

test("another organisation sees nothing of a publish, neither by its id nor among all", async () => {
  const { publish, apply, placing, watch, as } = await start();
  placing();
  const { id } = await publish();
  expect(await reasonOf(watch({ id }, "beta").until(() => true))).toBe("NOT_FOUND");
  const theirs = watch({}, "beta");
  expect(await theirs.until(() => true)).toMatchObject({ snapshotEnd: true });
  await publish();
  await apply(manifest("theirs"), "beta");
  const own = await as(ProductPublishService, "beta").createProductPublish({ productId: "theirs", clusterId: "local" });
  const seen = await theirs.until((message) => message.productPublish !== undefined);
  expect(seen.productPublish?.id).toBe(own.id);
});

test("a cursor that is too old, from the future or not a cursor is CURSOR_EXPIRED", async () => {
  const { publish, placing, watch, db, events } = await start();
  placing();
  await publish();
  const { cursor, ...message } = await watch({}).until((each) => each.snapshotEnd);
  expect(message.productPublish).toBeUndefined();
  const { until: changes } = watch({ cursor });
  await publish();
  await changes((each) => each.productPublish !== undefined);
  await sql`DELETE FROM events WHERE position <= (SELECT max(position) FROM events) - 1`.execute(db);
  for (const expired of [events.cursorOf(0), events.cursorOf(1_000_000), "!"])
    expect(await reasonOf(watch({ cursor: expired }).until(() => true))).toBe("CURSOR_EXPIRED");
});
