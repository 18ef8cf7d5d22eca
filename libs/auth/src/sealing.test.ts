import { expect, test } from "@jest/globals";
import { generateKey } from "./keys.ts";
import { openSealed, sealTo } from "./sealing.ts";

test("what is sealed to an agent is opened by that agent alone", async () => {
  const [mine, other] = await Promise.all([generateKey("X25519"), generateKey("X25519")]);
  const secret = new TextEncoder().encode("correct horse");
  const jwe = await sealTo(mine.publicJwk, secret);
  expect(Buffer.from(await openSealed(mine.privateJwk, jwe)).toString()).toBe("correct horse");
  await expect(openSealed(other.privateJwk, jwe)).rejects.toThrow();
  await expect(
    openSealed(
      mine.privateJwk,
      jwe.replace(/.$/, (end) => (end === "A" ? "Q" : "A")),
    ),
  ).rejects.toThrow();
});
