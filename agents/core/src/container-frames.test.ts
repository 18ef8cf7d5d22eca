import { expect, test } from "@jest/globals";
import { create } from "@bufbuild/protobuf";
import { ForeignContainerSchema } from "@bowline/contract/agents";
import { maxContainerFrames } from "@bowline/session";
import { containerFrames } from "./container-frames.ts";

const containers = (count: number) =>
  Array.from({ length: count }, (_, index) =>
    create(ForeignContainerSchema, { id: String(index), networks: Array.from({ length: 60 }, () => "n".repeat(200)) }),
  );
/** Of the ones above in a frame. */
const perFrame = 2;

test("containers go into as few frames as hold them, all of them and in order; none is a frame too", () => {
  expect([...containerFrames([])]).toEqual([{ containers: [] }]);
  const frames = [...containerFrames(containers(5))];
  expect(frames.map((frame) => frame.containers.map(({ id }) => id))).toEqual([["0", "1"], ["2", "3"], ["4"]]);
});

test("more than the server takes is left out, and said", () => {
  const most = maxContainerFrames * perFrame;
  expect([...containerFrames(containers(most))].at(-1)).toEqual({ containers: expect.anything() });
  const frames = [...containerFrames(containers(most + 1))];
  expect(frames).toHaveLength(maxContainerFrames);
  expect(frames.at(-1)).toMatchObject({ truncated: true, containers: [{}, {}] });
});
