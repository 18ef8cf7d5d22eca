/** `bowline agent containers` as a real process against a scripted server. */
import { fileURLToPath } from "node:url";
import { expect, test } from "@jest/globals";
import {
  AgentsService,
  ForeignContainer_State as State,
  type ListForeignContainersRequest,
} from "@bowline/contract/agents";
import { atEnd, runProcess, temporaryFolder } from "@bowline/testing";
import { goodToken, startScriptedApi } from "./testing/scripted-api.ts";

const program = fileURLToPath(new URL("main.ts", import.meta.url));

test("others' containers are a table in which what they are called moves no cursor, or the API's own JSON", async () => {
  const asked: ListForeignContainersRequest[] = [];
  const port = { container: 80, published: 8080, protocol: "tcp" };
  const api = await startScriptedApi((router) =>
    router.service(AgentsService, {
      listForeignContainers(request) {
        asked.push(request);
        return {
          containers: [
            {
              ...{
                id: "a".repeat(64),
                name: "shop-web-1",
                image: "nginx:1",
                state: State.RUNNING,
                status: "Up 2 hours",
              },
              ports: [
                { ...port, hostAddress: "0.0.0.0" },
                { ...port, hostAddress: "::" },
                { container: 443, protocol: "tcp" },
              ],
              ...{ networks: ["edge", "shop"], composeProject: "shop\u001b[2J", composeService: "web" },
            },
            { id: "b".repeat(64), name: "", image: "i", state: State.CREATED, bowlineAgent: "x" },
          ],
          truncated: true,
        };
      },
    }),
  );
  atEnd(() => api.close());
  const type = (...args: string[]) =>
    runProcess({
      command: ["node", program, "agent", "containers", "press-1", ...args],
      env: {
        BOWLINE_URL: api.url,
        BOWLINE_TOKEN: goodToken,
        XDG_CONFIG_HOME: temporaryFolder(),
        npm_lifecycle_event: "",
      },
    });
  const told = await type("--state", "running", "--state", "created", "--name", "shop");
  expect(told.stdout.split("\n").map((line) => line.split(/ {2,}/))).toEqual([
    ["NAME", "IMAGE", "STATE", "PORTS", "NETWORKS", "OF"],
    ["shop-web-1", "nginx:1", "Up 2 hours", "8080->80/tcp,443/tcp", "edge,shop", "compose shop [2J/web"],
    ["b".repeat(12), "i", "created", "–", "–", "another Bowline agent"],
    [""],
  ]);
  expect(told.stderr).toContain("more than the agent tells");
  expect(asked[0]).toMatchObject({ agent: "press-1", states: [State.RUNNING, State.CREATED], name: "shop" });
  expect(JSON.parse((await type("-o", "json")).stdout)).toMatchObject({ containers: [{ name: "shop-web-1" }, {}] });
  expect(await type("--state", "melted")).toMatchObject({ code: 2, stderr: expect.stringContaining("running") });
});
