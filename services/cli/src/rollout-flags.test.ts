import { expect, test } from "@jest/globals";
import { RolloutPolicy_Strategy as Strategy } from "@bowline/contract/stacks";
import { Command } from "commander";
import { canaryArgument, gateArgument, limitsOf, policyOf, type RolloutFlags, rolled } from "./rollout-flags.ts";

function parsed(...argv: string[]): RolloutFlags {
  const command = rolled(new Command("up"))
    .exitOverride()
    .configureOutput({ writeErr: () => undefined });
  return command.parse(argv, { from: "user" }).opts<RolloutFlags>();
}

test("nothing that was said leaves policy and limits as they were", () => {
  expect(policyOf(parsed())).toEqual({});
  expect(limitsOf(parsed("--strategy", "canary"))).toEqual({});
});

test("flags say how it is rolled out", () => {
  const { policy } = policyOf(
    parsed("--strategy", "blue-green", "--keep-old", "10m", "--no-auto-promote", "--gate", "smoke=http:web:8080/ready"),
  );
  expect(policy).toMatchObject({ strategy: Strategy.BLUE_GREEN, autoPromote: false, autoRevert: true });
  expect(policy?.keepOld?.seconds).toBe(600n);
  expect(policy?.gates.map(({ name, service, check }) => [name, service, check.case])).toEqual([
    ["smoke", "web", "http"],
  ]);
  expect(policyOf(parsed("--no-auto-revert")).policy?.autoRevert).toBe(false);
});

test("canaries are a number or a percentage", () => {
  expect([canaryArgument("2"), canaryArgument("10%")]).toEqual([{ canaryCount: 2 }, { canaryPercent: 10 }]);
  for (const wrong of ["0", "101%", "-1", "many", "10 %", ""])
    expect(() => canaryArgument(wrong)).toThrow(/Write a number of instances/);
});

test("a gate is an address inside a service, or a command of its shell", () => {
  const [first, second] = gateArgument("deep=exec:web:./check a:b", gateArgument("up=http:web:80", undefined));
  expect(first).toMatchObject({ name: "up", service: "web", check: { value: { port: "80", path: "" } } });
  expect(second?.check).toEqual({ case: "exec", value: { command: ["sh", "-c", "./check a:b"] } });
  for (const wrong of ["up", "Up=http:web:80", "up=http:web:/ready", "up=ftp:web:80", "up=exec:web:"])
    expect(() => gateArgument(wrong, undefined)).toThrow(/NAME=http/);
});
