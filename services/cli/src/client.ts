/**
 * The server, as commands see it: which one, with which token, over Connect.
 *
 * L1: a token goes to the server that it was given for, and never in clear
 *     text beyond this host unless told so.
 */
import { createClient } from "@connectrpc/connect";
import type { Client, Interceptor } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { dialledAgent } from "@bowline/dial";
import { AgentsService } from "@bowline/contract/agents";
import { AuditService } from "@bowline/contract/audit";
import { ClusterService, RegistrationTokenService } from "@bowline/contract/clusters";
import { CommandService } from "@bowline/contract/commands";
import { DeploymentService } from "@bowline/contract/deployments";
import { AuthService, OrganisationService, ServiceAccountService } from "@bowline/contract/identity";
import { InstanceService } from "@bowline/contract/instances";
import { InstallationService } from "@bowline/contract/installation";
import { GatewayService, ProductPublishService, ProductService } from "@bowline/contract/products";
import { RegistryService } from "@bowline/contract/registries";
import { SecretService } from "@bowline/contract/secrets";
import { RolloutService, StackService } from "@bowline/contract/stacks";
import type { Cli, ConnectionFlags } from "./cli.ts";
import { readContexts } from "./contexts.ts";
import { exitCodes, Failure, usage } from "./failure.ts";
import { hint } from "./output.ts";
import { readTokenFile } from "./secrets.ts";
import { authorityOf, readTrust, type Trust } from "./trust.ts";

/** No answer of a unary call takes longer; what takes long is watched. */
const callTimeoutMs = 30_000;
/** Largest message that is read; the server's largest page is below it. */
const maxMessageBytes = 32 * 1024 * 1024;

/** In the answer to a call that started work: `degraded`, or missing. */
const dispatchHeader = "bowline-dispatch";

/** Where to, and with what. */
export type Target = Trust & { url: string; token: string; from: string };

/** One server's API. */
export type Api = {
  target: Target;
  /** PEM of the CA that is trusted there; undefined: whom the system does. Rejects with a DialError. */
  authority: () => Promise<string | undefined>;
  agents: Client<typeof AgentsService>;
  audit: Client<typeof AuditService>;
  auth: Client<typeof AuthService>;
  clusters: Client<typeof ClusterService>;
  commands: Client<typeof CommandService>;
  deployments: Client<typeof DeploymentService>;
  gateways: Client<typeof GatewayService>;
  installation: Client<typeof InstallationService>;
  instances: Client<typeof InstanceService>;
  organisations: Client<typeof OrganisationService>;
  products: Client<typeof ProductService>;
  publishes: Client<typeof ProductPublishService>;
  registries: Client<typeof RegistryService>;
  rollouts: Client<typeof RolloutService>;
  secrets: Client<typeof SecretService>;
  serviceAccounts: Client<typeof ServiceAccountService>;
  stacks: Client<typeof StackService>;
  tokens: Client<typeof RegistrationTokenService>;
};

/** Finds the server and the token that the flags, the environment or a context name. */
export async function openApi(cli: Cli, flags: ConnectionFlags): Promise<Api> {
  let told = false;
  const insecure = flags.insecure === true || cli.settings.insecure;
  return connectTo(cli, await findTarget(cli, flags), insecure, () => {
    if (!told)
      hint(
        cli,
        flags,
        "Dispatch is degraded (the server's Redis is away): it is done all the same, some of it a second later.",
      );
    told = true;
  });
}

/** The API of one server. Nothing is dialled before the first call. `degraded`: what a call started is dispatched slower. */
export function connectTo(cli: Cli, target: Target, insecure: boolean, degraded?: () => void): Api {
  checkClearText(target.url, insecure);
  cli.asked.url = target.url;
  const authorise: Interceptor = (next) => (request) => {
    request.header.set("authorization", `Bearer ${target.token}`);
    return next(request);
  };
  const interruptible: Interceptor = (next) => (request) =>
    next({ ...request, signal: AbortSignal.any([request.signal, cli.interrupted]) });
  const listening: Interceptor = (next) => async (request) => {
    const response = await next(request);
    if (response.header.get(dispatchHeader) === "degraded") degraded?.();
    return response;
  };
  const { url } = target;
  const { proxies } = cli.settings;
  const authority = authorityOf({ url, proxies }, target);
  const dialled = async () => ({ url, proxies, ca: await authority() });
  const transport = createConnectTransport({
    baseUrl: url,
    httpVersion: "1.1",
    nodeOptions: { agent: dialledAgent(url, dialled) },
    interceptors: [authorise, interruptible, listening],
    readMaxBytes: maxMessageBytes,
    defaultTimeoutMs: callTimeoutMs,
  });
  return {
    target,
    authority,
    agents: createClient(AgentsService, transport),
    audit: createClient(AuditService, transport),
    auth: createClient(AuthService, transport),
    clusters: createClient(ClusterService, transport),
    commands: createClient(CommandService, transport),
    deployments: createClient(DeploymentService, transport),
    gateways: createClient(GatewayService, transport),
    installation: createClient(InstallationService, transport),
    instances: createClient(InstanceService, transport),
    organisations: createClient(OrganisationService, transport),
    products: createClient(ProductService, transport),
    publishes: createClient(ProductPublishService, transport),
    registries: createClient(RegistryService, transport),
    rollouts: createClient(RolloutService, transport),
    secrets: createClient(SecretService, transport),
    serviceAccounts: createClient(ServiceAccountService, transport),
    stacks: createClient(StackService, transport),
    tokens: createClient(RegistrationTokenService, transport),
  };
}

/** A server's base URL as people type it, in one spelling. */
export function readUrl(text: string): string {
  let url: URL;
  try {
    url = new URL(text);
  } catch {
    throw usage(`"${text}" is not a URL like https://bowline.example.com`);
  }
  if (url.protocol !== "http:" && url.protocol !== "https:") throw usage(`${text}: only http and https are spoken`);
  if (url.username !== "" || url.password !== "") throw usage("a URL with a password shows it to others; use a token");
  if (url.search !== "" || url.hash !== "") throw usage(`${text}: no query and no fragment belong into it`);
  return url.href.replace(/\/+$/, "");
}

async function findTarget(cli: Cli, flags: ConnectionFlags): Promise<Target> {
  const { settings } = cli;
  const givenToken = await findToken(cli, flags);
  const trust = await readTrust(settings, flags);
  const contextNamed = flags.context ?? (flags.url === undefined ? settings.context : undefined);
  const url = flags.url ?? (flags.context === undefined ? settings.url : undefined);

  if (flags.url !== undefined && flags.context !== undefined) throw usage("--url and --context exclude each other");
  if (url !== undefined) {
    const from = flags.url === undefined ? "BOWLINE_URL" : "--url";
    if (givenToken === undefined) throw notSignedIn(`${from} names ${url}, but there is no token for it`);
    return { url: readUrl(url), token: givenToken, from, ...trust };
  }

  const { current, contexts } = await readContexts(settings.contextsFile);
  const name = contextNamed ?? current;
  if (name === undefined) throw notSignedIn("no server is named, and there is no context");
  const context = Object.hasOwn(contexts, name) ? contexts[name] : undefined;
  if (context === undefined) {
    throw usage(`there is no context "${name}"`, {
      lines: [`There are: ${Object.keys(contexts).toSorted().join(", ") || "none"}.`],
      next: ["context list"],
    });
  }
  const told = trust.ca !== undefined || trust.caFingerprint !== undefined;
  return {
    ...{ url: readUrl(context.url), token: givenToken ?? context.token, from: `context ${name}` },
    ...(told ? trust : { ca: context.ca }),
  };
}

async function findToken(cli: Cli, flags: ConnectionFlags): Promise<string | undefined> {
  if (flags.tokenFile !== undefined) return readTokenFile(cli, flags.tokenFile);
  if (cli.settings.token !== undefined) return cli.settings.token.trim();
  if (cli.settings.tokenFile !== undefined) return readTokenFile(cli, cli.settings.tokenFile);
  return undefined;
}

function notSignedIn(message: string): Failure {
  return new Failure(exitCodes.notAllowed, `You are not signed in: ${message}.`, {
    reason: "NOT_SIGNED_IN",
    lines: ["Sign in, or set BOWLINE_URL and BOWLINE_TOKEN_FILE (or BOWLINE_TOKEN)."],
    next: ["login https://bowline.example.com --token-file token"],
  });
}

function checkClearText(url: string, insecure: boolean): void {
  const { protocol, hostname } = new URL(url);
  const here = hostname === "localhost" || hostname === "[::1]" || /^127(\.\d+){3}$/.test(hostname);
  if (protocol === "https:" || here || insecure) return;
  // L1
  throw usage(`${url} is clear text beyond this host: the token would be read by whoever is between`, {
    reason: "CLEAR_TEXT",
    lines: ["Use https, or --insecure (env: BOWLINE_INSECURE=1) where the network is trusted."],
  });
}
