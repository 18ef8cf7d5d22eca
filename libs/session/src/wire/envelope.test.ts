import { Code, ConnectError } from "@connectrpc/connect";
import { expect, test } from "@jest/globals";
import fc from "fast-check";
import { createEnvelopeReader, type Envelope, joinEnvelopes } from "./envelope.ts";

/** Compared as text, which is quick. */
const text = ({ flags, data }: Envelope): string => `${flags} ${Buffer.from(data).toString("hex")}`;

const limitBytes = 300;

/** What comes out of those chunks, and whether the end cuts something short. */
function readAll(chunks: readonly Uint8Array[]): { envelopes: string[]; unfinished: boolean; refused?: Code } {
  const reader = createEnvelopeReader(limitBytes);
  const envelopes: string[] = [];
  try {
    for (const chunk of chunks) {
      reader.feed(chunk);
      for (let next = reader.next(); next !== undefined; next = reader.next()) {
        envelopes.push(text(next));
      }
    }
  } catch (error) {
    if (!(error instanceof ConnectError)) throw error;
    return { envelopes, unfinished: reader.unfinished, refused: error.code };
  }
  return { envelopes, unfinished: reader.unfinished };
}

function cut(bytes: Uint8Array, at: readonly number[]): Uint8Array[] {
  const places = [0, ...at.map((place) => place % (bytes.length + 1)).toSorted((a, b) => a - b), bytes.length];
  return places.slice(1).map((place, index) => bytes.subarray(places[index], place));
}

const messages = fc.array(fc.record({ flags: fc.nat(255), data: fc.uint8Array({ maxLength: limitBytes }) }), {
  maxLength: 8,
});
const cuts = fc.array(fc.nat(), { maxLength: 20 });

test("V1: however envelopes are cut, the same come out", () => {
  fc.assert(
    fc.property(messages, cuts, (sent, at) => {
      const bytes = Buffer.concat(sent.map(({ flags, data }) => joinEnvelopes([data], flags)));
      expect(readAll(cut(bytes, at))).toEqual({ envelopes: sent.map(text), unfinished: false });
    }),
  );
});

test("V1: cut in two at every offset, and into single bytes, nothing changes; an end anywhere else is noticed", () => {
  const sent = [0, 1, 4, 5, 6, 255, 256].map((length) => ({ flags: length % 4, data: new Uint8Array(length).fill(7) }));
  const bytes = Buffer.concat(sent.map(({ flags, data }) => joinEnvelopes([data], flags)));
  const borders = new Set([0]);
  let border = 0;
  for (const { data } of sent) borders.add((border += 5 + data.length));
  const envelopes = sent.map(text);
  expect(readAll([...bytes].map((byte) => Uint8Array.of(byte))).envelopes).toEqual(envelopes);
  for (let at = 0; at <= bytes.length; at += 1) {
    expect(readAll([bytes.subarray(0, at), bytes.subarray(at)])).toEqual({ envelopes, unfinished: false });
    expect(readAll([bytes.subarray(0, at)]).unfinished).toBe(!borders.has(at));
  }
});

test("V2: a length above the limit is refused at its fifth byte, whatever came before", () => {
  fc.assert(
    fc.property(messages, fc.integer({ min: limitBytes + 1, max: 2 ** 32 - 1 }), cuts, (sent, length, at) => {
      const head = Buffer.alloc(5);
      head.writeUInt32BE(length, 1);
      const bytes = Buffer.concat([...sent.map(({ flags, data }) => joinEnvelopes([data], flags)), head]);
      expect(readAll(cut(bytes.subarray(0, -1), at))).toEqual({ envelopes: sent.map(text), unfinished: true });
      expect(readAll(cut(bytes, at))).toMatchObject({ envelopes: sent.map(text), refused: Code.ResourceExhausted });
    }),
  );
});

test("any bytes give envelopes of at most the limit, or are refused", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 2_000 }), cuts, (bytes, at) => {
      const { envelopes, refused } = readAll(cut(bytes, at));
      for (const one of envelopes) expect(one.length).toBeLessThanOrEqual("255 ".length + 2 * limitBytes);
      expect([undefined, Code.ResourceExhausted]).toContain(refused);
    }),
  );
});

test("messages written together are the same bytes as one by one", () => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ maxLength: 100 })), (all) => {
      expect(joinEnvelopes(all).equals(Buffer.concat(all.map((one) => joinEnvelopes([one]))))).toBe(true);
    }),
  );
});
