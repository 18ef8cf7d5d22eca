/** The forwarder as agents run it: a process of its own, told by a file and a signal. */
import { createHash, randomBytes } from "node:crypto";
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { existsSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { connect, createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { fileURLToPath } from "node:url";
import { expect, test } from "@jest/globals";
import { atEnd, freePort, startProcess, temporaryFolder, until } from "@bowline/testing";
import type { ForwardDocument, ForwardDocumentEntry, ForwardStatus } from "./index.ts";

const main = fileURLToPath(new URL("main.ts", import.meta.url));
/** For what other programs slow down. */
const patient = { withinMs: 30_000 };

type Backends = ForwardDocumentEntry["backends"];

class Forwarder {
  readonly folder = temporaryFolder();
  #revision = 0;
  process: ReturnType<typeof startProcess> | undefined;

  status(): ForwardStatus {
    return JSON.parse(readFileSync(join(this.folder, "status.json"), "utf8")) as ForwardStatus;
  }

  /** Starts it, or tells it; resolves when it has taken or refused the document. */
  async serve(forwards: ForwardDocumentEntry[], resting: string[] = []): Promise<ForwardStatus> {
    const revision = (this.#revision += 1);
    const document: ForwardDocument = { revision, forwards, resting };
    const path = join(this.folder, "config.json");
    writeFileSync(`${path}.new`, JSON.stringify(document));
    renameSync(`${path}.new`, path);
    if (this.process === undefined) this.process = startProcess({ command: ["node", main, this.folder] });
    else this.process.kill("SIGHUP");
    return await until(() => {
      const status = this.status();
      return (status.revision === revision || status.refused?.revision === revision) && status;
    }, patient);
  }
}

/** A server on a free port that ends with the test. */
async function serving(handle: (socket: Socket) => void): Promise<{ server: Server; port: number; open: Set<Socket> }> {
  const open = new Set<Socket>();
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    open.add(socket);
    socket.on("error", () => {}).on("close", () => open.delete(socket));
    handle(socket);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  atEnd(() => {
    for (const socket of open) socket.destroy();
    server.close();
  });
  return { server, open, port: (server.address() as AddressInfo).port };
}

/** Says its name to whoever comes, and ends. */
const named = (name: string) => serving((socket) => socket.end(name));

const target = (port: number, slot = `slot-${port}`) => ({
  key: `${slot}@127.0.0.1:${port}`,
  host: "127.0.0.1",
  port,
});
const one = (port: number, name = "web"): Backends => [{ name, weight: 1, targets: [target(port)] }];
const entry = (port: number, backends: Backends, rest: Partial<ForwardDocumentEntry> = {}): ForwardDocumentEntry => ({
  name: "http",
  protocol: "tcp",
  address: "127.0.0.1",
  port,
  drainMs: 10_000,
  backends,
  ...rest,
});

function dial(port: number): Socket {
  const socket = connect({ port, host: "127.0.0.1", allowHalfOpen: true });
  atEnd(() => {
    socket.destroy();
  });
  return socket;
}

const answerOf = async (port: number): Promise<string> => {
  const socket = dial(port);
  socket.end();
  return await text(socket);
};

test("each direction ends alone: what is said after a half-close still arrives", async () => {
  const upper = await serving((socket) => {
    void text(socket).then((said) => socket.end(said.toUpperCase()));
  });
  const forwarder = new Forwarder();
  const port = await freePort();
  await forwarder.serve([entry(port, one(upper.port))]);
  const client = dial(port);
  client.end("all of the question");
  expect(await text(client)).toBe("ALL OF THE QUESTION");
});

test("a big transfer arrives whole in both directions, and who reads slowly slows the sender", async () => {
  const bytes = randomBytes(1024 * 1024);
  const times = 24;
  let sent = 0;
  const source = await serving((socket) => {
    const hash = createHash("sha256");
    socket.on("data", (chunk) => void hash.update(chunk));
    const answer = async (): Promise<void> => {
      socket.write(`${hash.digest("hex")}\n`);
      for (let time = 0; time < times; time += 1) {
        sent += bytes.length;
        if (!socket.write(bytes)) await once(socket, "drain");
      }
      socket.end();
    };
    socket.once("end", () => void answer());
  });
  const forwarder = new Forwarder();
  const port = await freePort();
  await forwarder.serve([entry(port, one(source.port))]);
  const client = dial(port);
  client.pause();
  for (let time = 0; time < times; time += 1) client.write(bytes);
  client.end();
  const expected = createHash("sha256");
  for (let time = 0; time < times; time += 1) expected.update(bytes);
  const digest = expected.digest("hex");
  await until(() => sent > 0, patient);
  let before = -1;
  await until(() => before === (before = sent), patient); // it has come to a stop
  expect(sent).toBeLessThan(times * bytes.length);
  const back = createHash("sha256");
  let head = "";
  for await (const chunk of client as AsyncIterable<Buffer>) {
    if (head.length >= 65) back.update(chunk);
    else {
      const rest = 65 - head.length;
      head += chunk.toString("latin1", 0, rest);
      back.update(chunk.subarray(rest));
    }
  }
  expect(head).toBe(`${digest}\n`);
  expect(back.digest("hex")).toBe(digest);
});

test("connections are shared exactly by weight, then among the instances of each, and nobody is asked twice who is away", async () => {
  const [a, b, c] = [await named("a"), await named("b"), await named("c")];
  const gone = await freePort();
  const forwarder = new Forwarder();
  const port = await freePort();
  await forwarder.serve([
    entry(port, [
      { name: "old", weight: 3, targets: [target(a.port), target(b.port), target(gone)] },
      { name: "new", weight: 1, targets: [target(c.port)] },
      { name: "none", weight: 100, targets: [] },
    ]),
  ]);
  const count: Record<string, number> = {};
  const order: string[] = [];
  for (let time = 0; time < 24; time += 1) {
    const answer = await answerOf(port);
    order.push(answer);
    count[answer] = (count[answer] ?? 0) + 1;
  }
  expect(count["c"]).toBe(6);
  expect((count["a"] ?? 0) + (count["b"] ?? 0)).toBe(18);
  for (let run = 0; run < 24; run += 4)
    expect(order.slice(run, run + 4).filter((answer) => answer === "c")).toHaveLength(1);
});

test("without a target a connection is refused at once, and with the next document it is served", async () => {
  const web = await named("web");
  const forwarder = new Forwarder();
  const port = await freePort();
  await forwarder.serve([entry(port, [{ name: "web", weight: 1, targets: [] }])]);
  await expect(answerOf(port)).rejects.toThrow("ECONNRESET");
  await forwarder.serve([entry(port, one(web.port))]);
  expect(await answerOf(port)).toBe("web");
});

test("what goes is drained: old connections end after the drain, what rests keeps its own", async () => {
  const blue = await serving((socket) => void socket.write("blue"));
  const grey = await serving((socket) => void socket.write("grey"));
  const green = await serving((socket) => void socket.write("green"));
  const forwarder = new Forwarder();
  const port = await freePort();
  const both = [{ name: "web", weight: 1, targets: [target(blue.port), target(grey.port)] }];
  await forwarder.serve([entry(port, both)]);
  const clients = [dial(port), dial(port)];
  await Promise.all(clients.map(async (client) => await once(client, "data")));
  const closed = clients.map((client) => new Promise((resolve) => client.on("error", () => {}).once("close", resolve)));
  const rests = target(grey.port).key;
  const drained = target(blue.port).key;
  expect(await forwarder.serve([entry(port, one(green.port), { drainMs: 3_000 })], [rests])).toMatchObject({
    draining: [drained],
  });
  const fresh = dial(port);
  expect(String((await once(fresh, "data"))[0])).toBe("green");
  await Promise.race(closed);
  await until(() => forwarder.status().draining.length === 0 && blue.open.size === 0, patient);
  expect([blue.open.size, grey.open.size, green.open.size]).toEqual([0, 1, 1]);
  await forwarder.serve([entry(port, one(green.port), { drainMs: 0 })]);
  await Promise.all(closed);
});

test("no request fails while what is led to changes again and again", async () => {
  const servers = [await named("a"), await named("b"), await named("c")];
  const forwarder = new Forwarder();
  const port = await freePort();
  await forwarder.serve([entry(port, one(servers[0]?.port ?? 0))]);
  let going = true;
  const answers = new Set<string>();
  let asked = 0;
  const client = async (): Promise<void> => {
    while (going) {
      answers.add(await answerOf(port));
      asked += 1;
    }
  };
  const clients = [client(), client(), client()];
  for (let change = 1; change <= 12; change += 1) {
    await forwarder.serve([entry(port, one(servers[change % 3]?.port ?? 0, `web-${change}`))]);
    const before = asked;
    await until(() => asked > before + clients.length, patient); // one of these was asked since
  }
  going = false;
  await Promise.all(clients);
  expect([...answers].sort()).toEqual(["a", "b", "c"]);
});

test("a document whose port is taken changes nothing; one that moves a port opens the new before it closes the old", async () => {
  const [web, other] = [await named("web"), await named("other")];
  const forwarder = new Forwarder();
  const [port, next] = [await freePort(), await freePort()];
  await forwarder.serve([entry(port, one(web.port))]);
  const refused = await forwarder.serve([
    entry(next, one(other.port)),
    entry(other.port, one(other.port), { name: "taken" }),
  ]);
  expect(refused).toMatchObject({ revision: 1, refused: { forward: "taken", code: "EADDRINUSE" } });
  expect(await answerOf(port)).toBe("web");
  await expect(answerOf(next)).rejects.toThrow("ECONNREFUSED");
  expect((await forwarder.serve([entry(next, one(other.port))])).refused).toBeUndefined();
  expect(await answerOf(next)).toBe("other");
  const isClosed = async (error: NodeJS.ErrnoException) => error.code === "ECONNREFUSED";
  await until(() => answerOf(port).then(() => false, isClosed), patient);
  // All addresses and one of them exclude each other: still one document.
  expect((await forwarder.serve([entry(next, one(web.port), { address: "0.0.0.0" })])).refused).toBeUndefined();
  expect(await answerOf(next)).toBe("web");
});

test("a restart serves what it can at once, and a port that was taken as soon as it is free", async () => {
  const [web, squatter] = [await named("web"), await named("squatter")];
  const forwarder = new Forwarder();
  const port = await freePort();
  const forwards = [entry(port, one(web.port)), entry(squatter.port, one(web.port), { name: "taken" })];
  expect(await forwarder.serve(forwards)).toMatchObject({
    revision: 1,
    closed: [{ forward: "taken", code: "EADDRINUSE" }],
  });
  expect(await answerOf(port)).toBe("web");
  squatter.server.close();
  await until(() => forwarder.status().closed.length === 0, patient);
  expect(await answerOf(squatter.port)).toBe("web");
});

test("datagrams of one client stay with one instance, answers find their way back, and what goes is left", async () => {
  const echo = async (name: string): Promise<number> => {
    const socket = createSocket("udp4");
    socket.on("message", (datagram, from) => socket.send(`${name} ${String(datagram)}`, from.port, from.address));
    socket.bind(0, "127.0.0.1");
    await once(socket, "listening");
    atEnd(() => void socket.close());
    return socket.address().port;
  };
  const [a, b] = [await echo("a"), await echo("b")];
  const forwarder = new Forwarder();
  const port = await freePort();
  const udp = { protocol: "udp", drainMs: 0 } as const;
  const targets = [target(a), target(b)];
  await forwarder.serve([entry(port, [{ name: "dns", weight: 1, targets }], udp)]);
  const client = (): ((datagram: string) => Promise<string>) => {
    const socket = createSocket("udp4");
    atEnd(() => void socket.close());
    // A datagram may be lost on a full machine: it is asked again, and an answer to one before may come late.
    return async (datagram) =>
      await until(async () => {
        socket.send(datagram, port, "127.0.0.1");
        const [answer] = (await once(socket, "message", { signal: AbortSignal.timeout(500) })) as [Buffer];
        return String(answer).endsWith(` ${datagram}`) && String(answer);
      }, patient);
  };
  const [first, second] = [client(), client()];
  expect(await first("1")).toBe("a 1");
  expect(await second("1")).toBe("b 1");
  expect([await first("2"), await second("2")]).toEqual(["a 2", "b 2"]);
  await forwarder.serve([entry(port, one(b, "dns"), udp)]);
  expect([await first("3"), await second("3")]).toEqual(["b 3", "b 3"]);
});

test("there is one forwarder per folder, SIGTERM ends it, and so does the end of its folder", async () => {
  const web = await named("web");
  const forwarder = new Forwarder();
  const port = await freePort();
  await forwarder.serve([entry(port, one(web.port))]);
  const second = startProcess({ command: ["node", main, forwarder.folder] });
  expect(await second.ended).toEqual({ code: 3, signal: null });
  expect(await answerOf(port)).toBe("web");
  forwarder.process?.kill("SIGTERM");
  expect(await forwarder.process?.ended).toEqual({ code: 0, signal: null });
  forwarder.process = undefined;
  await forwarder.serve([entry(port, one(web.port))]);
  rmSync(forwarder.folder, { recursive: true });
  expect(await (forwarder.process as unknown as ReturnType<typeof startProcess>).ended).toEqual({
    code: 0,
    signal: null,
  });
});

test("with `stdout` it says in lines of its output what is in force, and nothing in a file", async () => {
  const web = await named("web");
  const [home, port] = [temporaryFolder(), await freePort()];
  const tell = (revision: number, forwards: ForwardDocumentEntry[]): void =>
    writeFileSync(join(home, "config.json"), JSON.stringify({ revision, forwards, resting: [] }));
  tell(1, [entry(port, one(web.port))]);
  const forwarder = startProcess({ command: ["node", main, home, "build-7", "stdout"] });
  const said = async (revision: number): Promise<ForwardStatus> =>
    await until(() => {
      const lines = forwarder.stdout().split("\n").slice(0, -1);
      const last = JSON.parse(lines.at(-1) ?? "{}") as ForwardStatus;
      return last.revision === revision && last;
    }, patient);
  expect(await said(1)).toMatchObject({ build: "build-7", closed: [], draining: [] });
  expect(await answerOf(port)).toBe("web");
  tell(2, []);
  forwarder.kill("SIGHUP");
  await said(2);
  expect(existsSync(join(home, "status.json"))).toBe(false);
});
