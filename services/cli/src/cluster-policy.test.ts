/** Flags of `cluster create|update` about the policy: each becomes its field, and is told by `cluster get`. */
import { afterAll, expect, test } from "@jest/globals";
import { create } from "@bufbuild/protobuf";
import { ClusterPolicySchema } from "@bowline/contract/clusters";
import { Command } from "commander";
import { allowedText, policyFlags, policyOf } from "./commands/cluster-policy.ts";

// Commander imports node:process, and jest then opens everything that it has, standard input too.
afterAll(() => void process.stdin.destroy());

const parsed = (...args: string[]) => policyOf(policyFlags(new Command(), true).parse(args, { from: "user" }).opts());

test("what is not said is not changed", () => {
  expect(parsed()).toEqual({});
});

test("a flag names its field; a list may be repeated, split at commas, and made empty", () => {
  expect(parsed("--allow-host-network", "--no-allow-privileged")).toEqual({
    allowHostNetwork: true,
    allowPrivileged: false,
  });
  expect(
    parsed("--allow-host-path", "/srv", "--allow-host-path", "/data,/mnt", "--allow-published-port", "8000-8999"),
  ).toEqual({ allowedHostPaths: ["/srv", "/data", "/mnt"], allowedPublishedPorts: ["8000-8999"] });
  expect(parsed("--allow-device", "")).toEqual({ allowedDevices: [] });
});

test("every field of a policy that concerns workloads has a flag and is told", () => {
  const flags = policyFlags(new Command(), false).options.map(({ long = "", required }) =>
    required ? [long, "1"] : [long],
  );
  const given = parsed(...flags.flat());
  const others = ["driftRepair", "clientCertificates"];
  const fields = ClusterPolicySchema.fields.map(({ localName }) => localName).filter((name) => !others.includes(name));
  expect(Object.keys(given).toSorted()).toEqual(fields.toSorted());
  expect(allowedText(create(ClusterPolicySchema, given)).split("; ")).toHaveLength(fields.length);
  expect(allowedText()).toBe("nothing beyond the ordinary");
});
