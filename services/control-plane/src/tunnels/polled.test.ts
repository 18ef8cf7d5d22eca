/** A polled tunnel where it is waited for: requests in, frames out. */
import { create } from "@bufbuild/protobuf";
import { expect, test } from "@jest/globals";
import { type TunnelRequest, TunnelRequestSchema, type TunnelResponse } from "@bowline/contract/agent";
import { type Clock, systemClock } from "@bowline/kernel";
import { refusalOf } from "@bowline/session";
import { type Polled, takePolled } from "./polled.ts";
import { openTunnel, type Tunnel } from "./tunnel.ts";

/** A request is held for a moment only. */
const hasty: Clock = { ...systemClock, sleep: (ms, signal) => systemClock.sleep(Math.min(ms, 50), signal) };
const calm: Clock = { ...systemClock };

function open(clock: Clock = calm): { tunnel: Tunnel; polled: Polled } {
  let tunnel: Tunnel | undefined;
  const arrived = (call: Parameters<typeof openTunnel>[1]): AsyncIterable<TunnelResponse> => {
    const opened = openTunnel("tunnel_1", call, calm);
    ({ tunnel } = opened);
    return opened.answers;
  };
  const polled = takePolled("agent_1", arrived, clock);
  if (tunnel === undefined) throw new Error("it did not arrive");
  return { tunnel, polled };
}

const output = (text: string): TunnelRequest =>
  create(TunnelRequestSchema, { frame: { case: "output", value: { data: Buffer.from(text) } } });

async function read({ frames }: Tunnel, count: number): Promise<string[]> {
  const texts: string[] = [];
  const iterator = frames[Symbol.asyncIterator]();
  while (texts.length < count) {
    const next = await iterator.next();
    if (next.done === true) break;
    if (next.value.frame.case === "output") texts.push(Buffer.from(next.value.frame.value.data).toString());
  }
  return texts;
}

const violation = (call: Promise<unknown>): Promise<string> =>
  call.then(
    () => "none",
    (error: unknown) => refusalOf(error).reason,
  );

test("a request that is sent again with its number is taken once, and one out of its order is refused: PROTOCOL_VIOLATION", async () => {
  const { tunnel, polled } = open();
  const reading = read(tunnel, 4);
  const first = () => polled.send(1, [output("one"), output("two")], false);
  expect(await Promise.all([first(), first()])).toEqual([true, true]);
  expect(await first()).toBe(true);
  expect(await violation(polled.send(3, [], false))).toBe("PROTOCOL_VIOLATION");
  expect(await polled.send(2, [output("three")], true)).toBe(true);
  expect(await reading).toEqual(["one", "two", "three"]);
  expect(await violation(polled.receive(2))).toBe("PROTOCOL_VIOLATION");
  tunnel.close();
});

test("what nobody reads is not taken: the agent is told so, and sends it again until it is", async () => {
  const { tunnel, polled } = open(hasty);
  const send = () => polled.send(1, [output("one"), output("two")], true);
  expect(await send()).toBe(false);
  expect(await send()).toBe(false);
  const reading = read(tunnel, 3);
  let tries = 0;
  while (!(await send()) && tries < 100) tries += 1;
  expect(await reading).toEqual(["one", "two"]);
  tunnel.close();
});

test("an answer can be asked for again until the next one is, and the last says that it is over", async () => {
  const { tunnel, polled } = open();
  const frame = { case: "stdin", value: Buffer.from("typed") } as const;
  const sent = tunnel.send(frame);
  const told = await polled.receive(1);
  expect(told.frames.map((one) => one.frame.case)).toEqual(["stdin"]);
  expect(await polled.receive(1)).toEqual(told);
  const next = polled.receive(2);
  tunnel.close();
  expect(await next).toEqual({ frames: [], over: true });
  expect(await polled.receive(2)).toEqual({ frames: [], over: true });
  expect(await polled.send(1, [output("late")], false)).toBe(true);
  await sent;
});
