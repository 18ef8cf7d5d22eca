/** HTTP/2 by hand, for frames in an order in which no client of Node sends them. */
import { connect, type Socket } from "node:net";
import { atEnd } from "@bowline/testing";

const type = { data: 0, headers: 1, reset: 3, settings: 4 } as const;
const endHeaders = 4;
/** The first stream of a client. */
const streamId = 1;

function frame(kind: keyof typeof type, flags: number, stream: number, payload: Uint8Array): Buffer {
  const head = Buffer.alloc(9);
  head.writeUIntBE(payload.byteLength, 0, 3);
  head[3] = type[kind];
  head[4] = flags;
  head.writeUInt32BE(stream, 5);
  return Buffer.concat([head, payload]);
}

/** HPACK's literals without an index; each part is shorter than 127 bytes. */
function block(headers: Readonly<Record<string, string>>): Buffer {
  const text = (value: string): Buffer[] => [Buffer.from([value.length]), Buffer.from(value)];
  const fields = Object.entries(headers).flatMap(([name, value]) => [Buffer.from([0]), ...text(name), ...text(value)]);
  return Buffer.concat(fields);
}

/** One call whose request stays open until it is reset. */
export function openByHand(
  url: string,
  headers: Readonly<Record<string, string>>,
): { socket: Socket; data(bytes: Uint8Array): void; reset(code: number): void } {
  const { hostname, port, host } = new URL(url);
  const socket = connect(Number(port), hostname);
  socket.on("error", () => undefined); // its end is what is tested
  socket.resume();
  atEnd(() => void socket.destroy());
  socket.write("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
  socket.write(frame("settings", 0, 0, new Uint8Array(0)));
  const all = { ":method": "POST", ":scheme": "http", ":authority": host, ...headers };
  socket.write(frame("headers", endHeaders, streamId, block(all)));
  return {
    socket,
    data: (bytes) => void socket.write(frame("data", 0, streamId, bytes)),
    reset(code) {
      const payload = Buffer.alloc(4);
      payload.writeUInt32BE(code);
      socket.write(frame("reset", 0, streamId, payload));
    },
  };
}
