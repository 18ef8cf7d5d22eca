/** HTTP/2 sessions of a process that stands still now and then: stopped, or with too little of its machine. */
import { once } from "node:events";
import { connect } from "node:http2";
import { expect, test } from "@jest/globals";
import { atEnd } from "@bowline/testing";
import { listen } from "./port.ts";

const quiet = { debug() {}, warn() {}, error() {} };
const limits = { pingEveryMs: 50, pingWithinMs: 200 };

/** Nothing of this process goes on for as long. */
const standStill = (ms: number): void => void Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);

test("S1: a peer whose answer to a ping came while the process stood still is kept", async () => {
  const port = await listen({
    ...{ host: "127.0.0.1", port: 0, log: quiet, limits },
    handler: (_, response) => void response.end("here"),
  });
  atEnd(() => port.close(0));
  const client = connect(port.url);
  client.on("error", () => {}); // the port's end
  atEnd(() => client.destroy());
  for (let round = 0; round < 3; round += 1) {
    await once(client, "ping");
    standStill(2 * limits.pingWithinMs);
    const stream = client.request({ ":path": "/" });
    let text = "";
    for await (const chunk of stream) text += String(chunk);
    expect(text).toBe("here");
  }
  expect(client.closed).toBe(false);
});
