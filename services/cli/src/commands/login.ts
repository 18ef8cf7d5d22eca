/** `bowline login` and `bowline context`: which server, with which token. */
import { MeSchema } from "@bowline/contract/identity";
import { roleName } from "@bowline/contract";
import type { Command } from "commander";
import { noun, verb } from "../cli.ts";
import type { Cli } from "../cli.ts";
import { connectTo, readUrl } from "../client.ts";
import { checkContextName, readContexts, writeContexts } from "../contexts.ts";
import { usage } from "../failure.ts";
import { json, printJson } from "../output.ts";
import { readTokenFile, readTokenStdin } from "../secrets.ts";
import { columns, plain } from "../text.ts";
import { readTrust, trusting, type TrustFlags } from "../trust.ts";

type LoginFlags = TrustFlags & {
  context?: string;
  tokenFile?: string;
  tokenStdin?: boolean;
  insecure?: boolean;
  output: string;
};

export function loginCommand(cli: Cli, program: Command): void {
  const login = verb(program, {
    usage: "login <url>",
    summary: "Check an API token at a server and keep both as a named context",
    examples: [
      "login http://127.0.0.1:8080 --token-file .bowline/admin-token",
      "login https://bowline.example.com --context work --token-stdin < token",
      "login https://bowline.example.com --token-file token --ca-fingerprint sha256:4f1c…",
    ],
    more:
      `Kept in ${cli.settings.contextsFile} (mode 0600), with the CA that is trusted there. The token comes from a file,\n` +
      "standard input or BOWLINE_TOKEN, never from a flag. HTTPS_PROXY, HTTP_PROXY and NO_PROXY say through which proxy\n" +
      "this and every other command goes; they are not kept.",
  });
  trusting(login, "the system's")
    .option("--context <name>", "name of the context (env: BOWLINE_CONTEXT; default: the server's host name)")
    .option("--token-file <file>", "file with the API token (env: BOWLINE_TOKEN_FILE)")
    .option("--token-stdin", "read the API token from standard input")
    .option("--insecure", "send the token in clear text beyond this host (env: BOWLINE_INSECURE)")
    .option("-o, --output <format>", "table or json", "table")
    .action(async (address: string, flags: LoginFlags) => {
      const url = readUrl(address);
      const name = flags.context ?? cli.settings.context ?? new URL(url).hostname.replace(/[^A-Za-z0-9._-]/g, "");
      checkContextName(name);
      const token = await tokenOf(cli, flags);
      const trust = await readTrust(cli.settings, flags);
      const insecure = flags.insecure === true || cli.settings.insecure;
      const api = connectTo(cli, { url, token, from: "login", ...trust }, insecure);
      const me = await api.auth.getMe({});
      const ca = await api.authority();
      const before = await readContexts(cli.settings.contextsFile);
      await writeContexts(cli.settings.contextsFile, {
        current: name,
        contexts: { ...before.contexts, [name]: { url, token, ...(ca === undefined ? {} : { ca }) } },
      });
      if (flags.output === "json") return printJson(cli, json(MeSchema, me));
      const role = roleName(me.role) ?? "no role";
      cli.print(
        plain(
          `Signed in to ${url} as ${me.name} (${role}) of ${me.organisation || "the installation"}; context ${name}.`,
        ),
      );
    });
}

export function contextCommand(cli: Cli): Command {
  const context = noun("context", "Named contexts: servers that you are signed in to");
  const file = cli.settings.contextsFile;

  verb(context, { usage: "list", summary: "List contexts", examples: ["context list"] })
    .option("-o, --output <format>", "table or json", "table")
    .option("-q, --quiet", "names only")
    .action(async (flags: { output: string; quiet?: boolean }) => {
      const { current, contexts } = await readContexts(file);
      const rows = Object.entries(contexts).map(([name, { url }]) => ({ name, url, current: name === current }));
      if (flags.output === "json") return printJson(cli, { contexts: rows });
      if (flags.quiet === true) return rows.forEach(({ name }) => cli.print(name));
      if (rows.length === 0)
        return cli.note(`No contexts. Sign in: ${cli.settings.invocation} login <url> --token-file <file>`);
      const lines = rows.map((row) => [row.current ? `* ${row.name}` : `  ${row.name}`, row.url]);
      for (const line of columns([["  NAME", "SERVER"], ...lines])) cli.print(line);
    });

  verb(context, {
    usage: "use <name>",
    summary: "Make a context the current one",
    examples: ["context use work"],
  }).action(async (name: string) => {
    const { contexts } = await readContexts(file);
    if (!Object.hasOwn(contexts, name)) throw unknown(name);
    await writeContexts(file, { current: name, contexts });
    cli.note(`Now ${name}: ${contexts[name]?.url ?? ""}`);
  });

  verb(context, {
    usage: "remove <name>",
    summary: "Forget a context and its token",
    examples: ["context remove work"],
    more: "The token stays valid at the server; `service-account revoke` ends it.",
  }).action(async (name: string) => {
    const { current, contexts } = await readContexts(file);
    if (!Object.hasOwn(contexts, name)) throw unknown(name);
    delete contexts[name];
    await writeContexts(file, { current: current === name ? undefined : current, contexts });
    cli.note(`Context ${name} is forgotten.`);
  });
  return context;
}

async function tokenOf(cli: Cli, flags: LoginFlags): Promise<string> {
  if (flags.tokenFile !== undefined && flags.tokenStdin === true)
    throw usage("--token-file and --token-stdin exclude each other");
  if (flags.tokenFile !== undefined) return readTokenFile(cli, flags.tokenFile);
  if (flags.tokenStdin === true) return readTokenStdin(cli);
  if (cli.settings.token !== undefined) return cli.settings.token.trim();
  if (cli.settings.tokenFile !== undefined) return readTokenFile(cli, cli.settings.tokenFile);
  throw usage("no token was given: --token-file, --token-stdin, BOWLINE_TOKEN or BOWLINE_TOKEN_FILE");
}

function unknown(name: string): Error {
  return usage(`there is no context "${name}"`, { next: ["context list"] });
}
