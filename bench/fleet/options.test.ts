/** What `npm run fleet` takes and refuses. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "@jest/globals";
import { temporaryFolder } from "@bowline/testing";
import { readOptions, UsageError } from "./options.ts";
import { addressesFor } from "./run.ts";

const read = (args: string[], env: Record<string, string> = {}) => readOptions(args, env);
const refusal = (args: string[], env: Record<string, string> = {}): string => {
  try {
    read(args, env);
  } catch (error) {
    if (error instanceof UsageError) return error.message;
    throw error;
  }
  return "taken";
};

test("without a flag it is 100 agents for a minute at a server of its own, with a new seed", () => {
  const options = read([]);
  expect(options).toMatchObject({
    ...{ server: undefined, agents: 100, durationMs: 60_000, publishRate: 1, agentsPerPublish: 10 },
    ...{ runMs: [50, 500], failRate: 0, misbehave: {}, sourceAddresses: 1, output: "text", keep: false },
  });
  expect(read([]).seed).not.toBe(options.seed);
});

test("every flag is read", () => {
  const folder = temporaryFolder();
  writeFileSync(join(folder, "token"), "bwr_1_2\n");
  const args = `--server https://bowline.example.com:8443/x --ca-file ca.pem --token-file token --agents 5000
    --duration 2h --publish-rate 0 --agents-per-publish 20 --run-ms 100..2000 --fail-rate 0.25 --heartbeat-ms 5000
    --misbehave slow-reader=1,storm=200 --misbehave half-open=3 --clock-skew-ms 90000 --seed 42
    --source-addresses 4 --server-pid 77 --output json --keep`;
  expect(read(args.split(/\s+/), { INIT_CWD: folder })).toMatchObject({
    ...{ server: "https://bowline.example.com:8443", caFile: join(folder, "ca.pem"), registrationToken: "bwr_1_2" },
    ...{ agents: 5000, durationMs: 7_200_000, publishRate: 0, agentsPerPublish: 20, runMs: [100, 2000] },
    ...{ failRate: 0.25, heartbeatMs: 5000, misbehave: { "slow-reader": 1, storm: 200, "half-open": 3 } },
    ...{ clockSkewMs: 90_000, seed: 42, sourceAddresses: 4, serverPid: 77, output: "json", keep: true },
  });
  expect(read(["--server-flag", "dials-per-second=1000"]).serverFlags).toEqual(["--dials-per-second=1000"]);
  expect(read(["--agents", "10000"]).sourceAddresses).toBe(5);
});

test("secrets come from files and the environment, and a flag for one does not exist", () => {
  const env = { BOWLINE_TOKEN: "bwa_x", BOWLINE_REGISTRATION_TOKEN: "bwr_y" };
  const options = read(["--server", "http://127.0.0.1:8080"], env);
  expect(options).toMatchObject({ operatorToken: "bwa_x", registrationToken: "bwr_y", publishRate: 1 });
  expect(refusal(["--token", "bwr_y"])).toMatch(/--token/);
  expect(refusal(["--operator-token", "bwa_x"])).toMatch(/--operator-token/);
  expect(refusal(["--server", "https://user:secret@host"])).toMatch(/without credentials/);
  expect(refusal(["--operator-token-file", "/nowhere/at/all"])).toMatch(/cannot be read \(ENOENT\)/);
});

test.each([
  [["--agents", "0"], /from 1 to 10000/],
  [["--agents", "10001"], /from 1 to 10000/],
  [["--agents", "1e3"], /whole number/],
  [["--duration", "25h"], /at most 24h/],
  [["--duration", "-1s"], /--duration/],
  [["--duration", "soon"], /like 90s/],
  [["--run-ms", "500..50"], /range in ms/],
  [["--fail-rate", "1.5"], /from 0 to 1/],
  [["--publish-rate", "NaN"], /from 0 to 1000/],
  [["--misbehave", "sleepy=3"], /one of slow-reader, half-open/],
  [["--misbehave", "storm"], /KIND=COUNT/],
  [["--agents", "5", "--misbehave", "storm=6"], /6 agents are to misbehave, and there are 5/],
  [["--output", "yaml"], /text or json/],
  [["--server", "ftp://host"], /takes a URL/],
  [["--server", "http://127.0.0.1:1"], /needs a registration token/],
  [["--server-flag=--port=1"], /NAME=VALUE/],
  [["--nonsense"], /nonsense/],
  [["extra"], /extra/],
])("%j is refused, and told what would be right", (args, message) => {
  expect(refusal(args)).toMatch(message);
});

test("what belongs to another way of running is refused", () => {
  const env = { BOWLINE_REGISTRATION_TOKEN: "bwr_y" };
  expect(refusal([], env)).toMatch(/belongs to a server/);
  expect(refusal(["--server", "http://127.0.0.1:1", "--publish-rate", "2"], env)).toMatch(/needs an API token/);
  expect(refusal(["--server", "http://127.0.0.1:1", "--server-flag", "a=b"], env)).toMatch(/without --server/);
  expect(readOptions(["--help"], env).help).toBe(true);
});

test("several loopback addresses are dialled from only where the server is on one", () => {
  expect(addressesFor("https://10.0.0.1", 3)).toEqual([]);
  const expected = process.platform === "linux" ? ["127.0.0.1", "127.0.0.2", "127.0.0.3"] : [];
  expect(addressesFor("http://127.0.0.1:8080", 3)).toEqual(expected);
});
