/** What a gateway must be, beyond the rules of the proto. */
import { isIP } from "node:net";
import type { Gateway } from "@bowline/contract/products";
import type { Violation } from "@bowline/kernel";
import { hasControls, textViolations } from "./texts.ts";

/** As Kubernetes has it for label keys (with their prefix) and values. */
const maxLabelKey = 317;
const maxLabelValue = 63;

/** What is wrong with a gateway. `before` is the gateway that an update changes. */
export function gatewayViolations(
  gateway: Pick<Gateway, "displayName" | "gatewayClass" | "listeners" | "agentLabels">,
  before?: Gateway,
): Violation[] {
  const found = textViolations(gateway, "gateway");
  if (before !== undefined && gateway.gatewayClass !== before.gatewayClass)
    found.push({
      field: "gateway.gateway_class",
      description: `A gateway's class never changes (${before.gatewayClass}); make another gateway.`,
    });
  listenerViolations(gateway.listeners, found);
  for (const [key, value] of Object.entries(gateway.agentLabels))
    if (key === "" || key.length > maxLabelKey || value.length > maxLabelValue || hasControls(key + value))
      found.push({
        field: `gateway.agent_labels[${JSON.stringify(key)}]`,
        description: `Expected a key of 1 to ${maxLabelKey} and a value of up to ${maxLabelValue} characters.`,
      });
  return found;
}

function listenerViolations(listeners: Gateway["listeners"], found: Violation[]): void {
  if (listeners.length === 0)
    found.push({ field: "gateway.listeners", description: "A gateway has at least one listener." });
  const names = new Set<string>();
  const ports = new Map<number, Set<string>>();
  for (const [l, { name, address, port }] of listeners.entries()) {
    const at = `gateway.listeners[${l}]`;
    if (names.has(name)) found.push({ field: `${at}.name`, description: `There is another listener named ${name}.` });
    names.add(name);
    if (address !== "" && isIP(address) === 0)
      found.push({ field: `${at}.address`, description: "Expected an IP address, or nothing." });
    if (port === 0) continue; // Any free one, so never the same.
    const others = ports.get(port) ?? new Set();
    if ([...others].some((other) => other === address || isEvery(other) || isEvery(address)))
      found.push({ field: `${at}.port`, description: `Another listener has the port ${port}.` });
    ports.set(port, others.add(address));
  }
}

/** Addresses that stand for all of the host's, or may. */
function isEvery(address: string): boolean {
  return address === "" || address === "0.0.0.0" || address === "::";
}
