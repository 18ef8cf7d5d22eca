import { create, toBinary } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { expect, test } from "@jest/globals";
import fc from "fast-check";
import { ServerMessageSchema } from "@bowline/contract/agent";
import { encodeAcknowledgement } from "./acknowledgement.ts";

test("the bytes written by hand are those that protobuf writes", () => {
  const uint32 = fc.integer({ min: 0, max: 2 ** 32 - 1 });
  const ms = fc.integer({ min: 0, max: 253_402_300_799_999 }); // the end of the year 9999
  fc.assert(
    fc.property(
      uint32,
      fc.oneof(
        ms,
        ms.map((at) => at - (at % 1_000)),
      ),
      (number, at) => {
        const value = { number, serverTime: timestampFromMs(at) };
        const written = toBinary(
          ServerMessageSchema,
          create(ServerMessageSchema, { message: { case: "heartbeatAck", value } }),
        );
        expect(Buffer.from(encodeAcknowledgement(number, at)).toString("hex")).toBe(
          Buffer.from(written).toString("hex"),
        );
      },
    ),
    {
      numRuns: 2_000,
      examples: [
        [0, 0],
        [1, 999],
        [127, 1_000],
        [128, 128_000],
      ],
    },
  );
});
