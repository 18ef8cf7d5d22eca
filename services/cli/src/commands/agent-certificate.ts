/** `bowline agent bind-certificate`: which client certificate an agent must come with. */
import { AgentSchema } from "@bowline/contract/agents";
import { parseFingerprint } from "@bowline/dial";
import type { Command } from "commander";
import { connected, verb } from "../cli.ts";
import type { Cli, ConnectionFlags } from "../cli.ts";
import { openApi } from "../client.ts";
import { usage } from "../failure.ts";
import { printDone } from "../output.ts";

export function bindCertificateCommand(cli: Cli, agent: Command): void {
  connected(
    verb(agent, {
      usage: "bind-certificate <agent>",
      summary: "Bind an agent to another client certificate, after its renewal",
      examples: ["agent bind-certificate press-1", "agent bind-certificate press-1 --fingerprint sha256:4f1c…"],
      more:
        "Counts in clusters that require client certificates. Without --fingerprint the next certificate that the agent\n" +
        "comes with is bound; it must still be issued by the server's CA of clients, and the agent must have its key.",
    }).option("--fingerprint <sha256:…>", "the certificate's SHA-256, e.g. of: openssl x509 -fingerprint -sha256"),
  ).action(async (id: string, flags: ConnectionFlags & { fingerprint?: string }) => {
    const clientCertificate = flags.fingerprint === undefined ? "" : spelled(flags.fingerprint);
    const api = await openApi(cli, flags);
    const { id: agentId, etag } = await api.agents.getAgent({ id });
    const changed = await api.agents.updateAgent({
      agent: { id: agentId, etag, clientCertificate },
      updateMask: { paths: ["client_certificate"] },
    });
    const which = clientCertificate === "" ? "the next client certificate that it comes with" : clientCertificate;
    printDone(cli, flags, {
      schema: AgentSchema,
      message: changed,
      id: changed.id,
      text: `Agent ${changed.name} is bound to ${which}.`,
    });
  });
}

/** As openssl prints it, with colons and capitals, or as the API does. Throws a usage failure, also where it is empty. */
function spelled(text: string): string {
  const fingerprint = parseFingerprint(text.replace(/^.*=/, ""));
  if (fingerprint === undefined)
    throw usage(`--fingerprint "${text}": write sha256: and 64 hexadecimal digits, or leave it out`);
  return fingerprint;
}
