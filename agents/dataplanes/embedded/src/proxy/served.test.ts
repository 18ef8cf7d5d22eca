import { expect, test } from "@jest/globals";
import fc from "fast-check";
import { nextBackend, type ServedBackend, type Share } from "./served.ts";

test("in a whole round every backend gets exactly its weight, and one of weight 0 nothing", () => {
  fc.assert(
    fc.property(fc.array(fc.nat(20), { minLength: 1, maxLength: 6 }), (weights) => {
      const shares: Share[] = weights.map((weight, i) => ({
        backend: { name: String(i) } as unknown as ServedBackend,
        weight,
        credit: 0,
      }));
      const total = weights.reduce((sum, weight) => sum + weight, 0);
      const counts = weights.map(() => 0);
      for (let i = 0; i < total; i += 1) {
        const { name } = nextBackend(shares)!;
        counts[Number(name)] = counts[Number(name)]! + 1;
      }
      expect(counts).toEqual(weights);
      if (total === 0) expect(nextBackend(shares)).toBeUndefined();
    }),
  );
});
