/** The request of a unary call: one message, whole. */
import { Code, ConnectError } from "@connectrpc/connect";
import { compressedFlag, createEnvelopeReader, type Envelope } from "./envelope.ts";
import type { Exchange } from "./exchange.ts";

/** Calls back once with the message's bytes or what is wrong; never where the caller is gone. */
export function readOne(
  exchange: Exchange,
  limitBytes: number,
  done: (outcome: { bytes: Uint8Array } | { error: ConnectError }) => void,
): void {
  const { stream, protocol } = exchange;
  const take =
    protocol.kind === "grpc" ? enveloped(limitBytes) : whole(limitBytes, exchange.requestHeader.get("content-length"));
  let over = false;
  const end = (read: () => Uint8Array): void => {
    if (over) return;
    try {
      const bytes = read();
      over = true;
      done({ bytes });
    } catch (error) {
      over = true;
      done({ error: error instanceof ConnectError ? error : new ConnectError("internal error", Code.Internal) });
    }
  };
  stream.on("data", (chunk: Buffer) => {
    if (over) return;
    try {
      take.chunk(chunk);
    } catch (error) {
      end(() => {
        throw error;
      });
    }
  });
  stream.once("end", () => {
    if (!stream.aborted) end(() => take.end());
  });
}

interface Taking {
  chunk(bytes: Uint8Array): void;
  end(): Uint8Array;
}

/** gRPC: one envelope, no more and no less. */
function enveloped(limitBytes: number): Taking {
  const reader = createEnvelopeReader(limitBytes);
  let first: Envelope | undefined;
  return {
    chunk(bytes) {
      reader.feed(bytes);
      for (let next = reader.next(); next !== undefined; next = reader.next()) {
        if ((next.flags & compressedFlag) !== 0) {
          throw new ConnectError("received compressed envelope, but do not know how to decompress", Code.Internal);
        }
        if (first !== undefined) throw wrongCount("received extra");
        first = next;
      }
    },
    end() {
      if (reader.unfinished) throw new ConnectError("protocol error: incomplete envelope", Code.InvalidArgument);
      if (first === undefined) throw wrongCount("missing");
      return first.data;
    },
  };
}

function wrongCount(what: string): ConnectError {
  return new ConnectError(`protocol error: ${what} input message for unary method`, Code.Unimplemented);
}

/** Connect: the body is the message. That it is as long as its header says, HTTP/2 itself sees to. */
function whole(limitBytes: number, promised: string | null): Taking {
  const chunks: Uint8Array[] = [];
  let size = 0;
  const refuseAbove = (bytes: number, named: string): void => {
    if (!(bytes > limitBytes)) return;
    const message = `message size ${named}is larger than configured readMaxBytes ${limitBytes}`;
    throw new ConnectError(message, Code.ResourceExhausted);
  };
  return {
    chunk(bytes) {
      if (promised !== null) refuseAbove(Number(promised), `${promised} `);
      size += bytes.byteLength;
      refuseAbove(size, "");
      chunks.push(bytes);
    },
    end: () => (chunks.length === 1 && chunks[0] !== undefined ? chunks[0] : Buffer.concat(chunks)),
  };
}
