import { createServer, connect, type AddressInfo, type Socket } from "node:net";
import { expect, test } from "@jest/globals";
import { openDatabase } from "@bowline/db";
import { sql } from "kysely";
import { atEnd } from "./endings.ts";
import { testDatabase } from "./postgres.ts";
import { databaseProxy, startTcpProxy, type TcpProxy } from "./tcp-proxy.ts";
import { until } from "./until.ts";

/** Answers each piece with itself, and ends when its peer does. */
async function echo(): Promise<TcpProxy> {
  const server = createServer((socket) => {
    socket.on("error", () => {});
    socket.pipe(socket);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", () => resolve()));
  atEnd(() => new Promise<void>((resolve) => server.close(() => resolve())));
  return startTcpProxy({ host: "127.0.0.1", port: (server.address() as AddressInfo).port });
}

/** A client with all that it read. */
function dial({ host, port }: TcpProxy): { socket: Socket; text: () => string; closed: () => boolean } {
  const socket = connect({ host, port });
  let text = "";
  let closed = false;
  socket.setEncoding("utf8").on("data", (chunk: string) => (text += chunk));
  socket.on("error", () => {}).once("close", () => (closed = true));
  atEnd(() => void socket.destroy());
  return { socket, text: () => text, closed: () => closed };
}

test("what is sent comes back whole and in order, also a megabyte, and the end too", async () => {
  const client = dial(await echo());
  const sent = Array.from({ length: 20_000 }, (_, n) => `${n} `.padStart(50)).join("");
  client.socket.end(sent);
  await until(client.closed);
  expect(client.text()).toBe(sent);
});

test("a cut resets what is open and what comes; mended it passes again", async () => {
  const proxy = await echo();
  const before = dial(proxy);
  before.socket.write("a");
  await until(() => before.text() === "a");
  proxy.cut();
  await until(before.closed);
  const meanwhile = dial(proxy);
  meanwhile.socket.write("b");
  await until(meanwhile.closed);
  expect(meanwhile.text()).toBe("");
  proxy.mend();
  const after = dial(proxy);
  after.socket.write("c");
  await until(() => after.text() === "c");
});

test("held bytes wait in their direction and come when they are released; delayed ones come late", async () => {
  const proxy = await echo();
  const client = dial(proxy);
  proxy.hold("down");
  const arrived = proxy.trap({ up: "two" }).caught;
  client.socket.write("one ");
  await until(() => proxy.connections() === 1);
  client.socket.write("two");
  (await arrived).release(); // up it goes on, down it waits
  expect(client.text()).toBe("");
  proxy.release();
  await until(() => client.text() === "one two");

  proxy.delay(300);
  const from = performance.now();
  client.socket.write(" three");
  await until(() => client.text() === "one two three");
  expect(performance.now() - from).toBeGreaterThan(550); // there and back
});

test("a throttled connection passes whole and in order, at its pace, until the throttle is taken away", async () => {
  const proxy = await echo();
  const client = dial(proxy);
  proxy.throttle(20_000);
  const sent = Array.from({ length: 1_000 }, (_, n) => `${n} `.padStart(10)).join("");
  const from = performance.now();
  client.socket.write(sent);
  await until(() => client.text() === sent);
  expect(performance.now() - from).toBeGreaterThan(400); // half a second for 10,000 bytes

  client.socket.write(sent.repeat(100)); // a minute at this pace, there and back
  await until(() => client.text().length > sent.length);
  proxy.throttle(Infinity);
  await until(() => client.text() === sent.repeat(101));
});

test("reordered connections overtake each other, and each keeps its own order", async () => {
  const arrived: string[] = [];
  const server = createServer((socket) => {
    socket.on("error", () => {});
    socket.setEncoding("latin1").on("data", (text: string) => arrived.push(text));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", () => resolve()));
  atEnd(() => new Promise<void>((resolve) => server.close(() => resolve())));
  const proxy = await startTcpProxy({ host: "127.0.0.1", port: (server.address() as AddressInfo).port });
  const [one, other] = [dial(proxy), dial(proxy)];
  await until(() => proxy.connections() === 2);
  let drawn = 0;
  proxy.reorder(5_000, () => ((drawn += 1) === 1 ? 1 : 0)); // the first is late, what follows is not
  one.socket.write("1");
  await until(() => drawn === 1);
  one.socket.write("2"); // waits for what is before it
  other.socket.write("a");
  await until(() => arrived.join("") === "a12");
  proxy.reorder(0);
  other.socket.write("b");
  await until(() => arrived.join("") === "a12b");
});

test("a trap holds one connection just before the last of its steps, and no other", async () => {
  const proxy = await echo();
  const [one, two] = [dial(proxy), dial(proxy)];
  const trap = proxy.trap({ up: "first" }, { up: "second" }, { down: "second" });
  two.socket.write("second"); // not in this order
  await until(() => two.text() === "second");
  one.socket.write("first second");
  const caught = await trap.caught;
  two.socket.write(" first second");
  await until(() => two.text() === "second first second");
  expect(one.text()).toBe("");
  caught.release();
  await until(() => one.text() === "first second");

  const another = proxy.trap({ down: "lost" });
  one.socket.write("lost");
  (await another.caught).cut();
  await until(one.closed);
  expect(one.text()).toBe("first second");
});

test("a COMMIT whose reply is lost on the way from PostgreSQL has happened", async () => {
  const database = await testDatabase({ migrated: false });
  const proxy = await databaseProxy(database);
  const through = openDatabase({ address: proxy.url, applicationName: "through a proxy" });
  await sql`CREATE TABLE kept (id int)`.execute(through.db);
  const trap = proxy.trap({ up: "INSERT INTO kept" }, { down: "COMMIT" });
  const work = through.db.transaction().execute((tx) => sql`INSERT INTO kept VALUES (1)`.execute(tx));
  const failed = work.then(
    () => "answered",
    () => "connection lost",
  );
  (await trap.caught).cut();
  expect(await failed).toBe("connection lost");
  expect((await sql`SELECT * FROM kept`.execute(database.db)).rows).toEqual([{ id: 1 }]);
  await through.end();
});
