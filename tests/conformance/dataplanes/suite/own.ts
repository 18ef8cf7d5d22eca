/** What one test starts and what ends with it. */
import { afterEach } from "@jest/globals";
import { startGateway, type Gateway } from "./gateway.ts";
import { startUpstream, type Upstream } from "./upstream.ts";

/** To be called in a `describe` or at the top of a file: what its functions start ends after the test, last first. */
export function owned(): {
  ownGateway: (...input: Parameters<typeof startGateway>) => Promise<Gateway>;
  ownUpstream: (...input: Parameters<typeof startUpstream>) => Promise<Upstream>;
} {
  let stack = new AsyncDisposableStack();
  afterEach(async () => {
    const ending = stack;
    stack = new AsyncDisposableStack();
    await ending.disposeAsync();
  });
  return {
    ownGateway: async (...input) => stack.use(await startGateway(...input)),
    ownUpstream: async (...input) => stack.use(await startUpstream(...input)),
  };
}
