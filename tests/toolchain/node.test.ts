import { expect, test } from "@jest/globals";

test("tests run on the Node that the checkout brings", () => {
  expect(Number(process.versions.node.split(".")[0])).toBeGreaterThanOrEqual(22);
});
