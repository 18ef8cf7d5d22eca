/**
 * What the environment says to the command line: the only file that reads it.
 * A flag wins over a variable, a variable over the contexts of `bowline login`.
 */
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { proxiesOf, type ProxySettings } from "@bowline/dial";

/** Everything from outside that is not a flag. */
export type Settings = {
  /** BOWLINE_URL: the server, beside contexts. */
  url: string | undefined;
  /** BOWLINE_TOKEN: the API token itself. */
  token: string | undefined;
  /** BOWLINE_TOKEN_FILE: a file with the API token. */
  tokenFile: string | undefined;
  /** BOWLINE_CONTEXT: a context of `bowline login`. */
  context: string | undefined;
  /** BOWLINE_INSECURE: send the token in clear text beyond this host. */
  insecure: boolean;
  /** BOWLINE_CA_FILE: PEM of the CA of the server's certificate. */
  caFile: string | undefined;
  /** BOWLINE_CA_FINGERPRINT: of that CA, which the server shows. */
  caFingerprint: string | undefined;
  /** HTTPS_PROXY, HTTP_PROXY, NO_PROXY. */
  proxies: ProxySettings;
  /** Where contexts are kept. */
  contextsFile: string;
  /** Colour and moving lines are welcome, where the stream is a terminal. */
  decorated: boolean;
  /** How a person types this program, for the lines that we suggest. */
  invocation: string;
  /** Where relative paths on the command line start. */
  folder: string;
  /** What programs that we start see. */
  environment: NodeJS.ProcessEnv;
};

/** Reads the environment. */
export function readSettings(env: NodeJS.ProcessEnv = process.env, folder: string = process.cwd()): Settings {
  const underNpm = env.npm_lifecycle_event === "bowline";
  const configHome = nonEmpty(env.XDG_CONFIG_HOME) ?? join(nonEmpty(env.HOME) ?? homedir(), ".config");
  return {
    url: nonEmpty(env.BOWLINE_URL),
    token: nonEmpty(env.BOWLINE_TOKEN),
    tokenFile: nonEmpty(env.BOWLINE_TOKEN_FILE),
    context: nonEmpty(env.BOWLINE_CONTEXT),
    insecure: isTrue(env.BOWLINE_INSECURE),
    caFile: nonEmpty(env.BOWLINE_CA_FILE),
    caFingerprint: nonEmpty(env.BOWLINE_CA_FINGERPRINT),
    proxies: proxiesOf(env),
    contextsFile: join(configHome, "bowline", "config.json"),
    decorated: nonEmpty(env.NO_COLOR) === undefined && nonEmpty(env.CI) === undefined && env.TERM !== "dumb",
    invocation: underNpm ? "npm run -s bowline --" : "bowline",
    // npm runs scripts in the root of the checkout and tells where it was called.
    folder: underNpm ? resolve(nonEmpty(env.INIT_CWD) ?? folder) : folder,
    environment: env,
  };
}

function nonEmpty(value: string | undefined): string | undefined {
  return value === undefined || value === "" ? undefined : value;
}

function isTrue(value: string | undefined): boolean {
  return value === "1" || value?.toLowerCase() === "true";
}
