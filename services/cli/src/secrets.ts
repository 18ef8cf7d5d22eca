/**
 * Tokens come from a file, from standard input or from a variable, never from
 * the command line: `ps` shows that to everybody on the host.
 */
import { readFile, rm, writeFile } from "node:fs/promises";
import { resolve } from "node:path";
import type { Cli } from "./cli.ts";
import { usage } from "./failure.ts";

/** No token is longer; who gives more meant another file. */
const maxTokenBytes = 4_096;

/** Reads a token from a file. */
export async function readTokenFile(cli: Cli, path: string): Promise<string> {
  const file = resolve(cli.settings.folder, path);
  let text: string;
  try {
    text = await readFile(file, "utf8");
  } catch (error) {
    throw usage(`cannot read the token file ${file}: ${(error as Error).message}`, { cause: error });
  }
  return checkToken(text, file);
}

/** Reads a token from standard input, to its end. */
export async function readTokenStdin(cli: Cli): Promise<string> {
  let text = "";
  if (cli.stdin.isTTY === true) cli.note("Paste the token, then press Enter and Ctrl-D.");
  for await (const chunk of cli.stdin) {
    text += String(chunk);
    if (text.length > maxTokenBytes) break;
  }
  return checkToken(text, "standard input");
}

/** The server's limit of a secret's value; who gives more meant another file. */
const maxValueBytes = 64 * 1024;

/** Reads a password from a file, or from standard input for `-`. One line break at its end is not part of it. */
export async function readValue(cli: Cli, path: string): Promise<string> {
  const value = (await readBytes(cli, path)).toString("utf8").replace(/\r?\n$/, "");
  if (value === "") throw usage("the secret is empty");
  return value;
}

/**
 * Reads a secret's value: text where it is text, else bytes. The line break at the end of a single line is not part of
 * it, as editors and `echo` add it; several lines and bytes are taken as they are.
 */
export async function readSecret(
  cli: Cli,
  path: string,
): Promise<{ value: string } | { data: Uint8Array<ArrayBuffer> }> {
  const bytes = await readBytes(cli, path);
  if (bytes.length === 0) throw usage("the secret is empty");
  const text = bytes.toString("utf8");
  if (!Buffer.from(text).equals(bytes)) return { data: new Uint8Array(bytes) };
  const line = text.replace(/\r?\n$/, "");
  if (line === "") throw usage("the secret is empty");
  return { value: line.includes("\n") ? text : line };
}

async function readBytes(cli: Cli, path: string): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let read = 0;
  if (path === "-") {
    if (cli.stdin.isTTY === true) cli.note("Paste the value, then press Enter and Ctrl-D.");
    for await (const chunk of cli.stdin) {
      const bytes = typeof chunk === "string" ? Buffer.from(chunk) : (chunk as Buffer);
      chunks.push(bytes);
      read += bytes.length;
      if (read > maxValueBytes) break;
    }
  } else {
    const file = resolve(cli.settings.folder, path);
    try {
      chunks.push(await readFile(file));
    } catch (error) {
      throw usage(`cannot read the secret file ${file}: ${(error as Error).message}`, { cause: error });
    }
  }
  const bytes = Buffer.concat(chunks);
  if (bytes.length > maxValueBytes) throw usage(`the secret is larger than ${maxValueBytes / 1024} KiB`);
  return bytes;
}

/**
 * Issues a token into a new file of mode 0600, made before it is issued, so that no token is lost to a path that cannot
 * be written. An existing file stays as it is; where nothing is issued there is none. Without a path the answer keeps
 * the token.
 */
export async function issueInto<Issued extends { token: string }>(
  cli: Cli,
  path: string | undefined,
  issue: () => Promise<Issued>,
): Promise<{ made: Issued; file: string | undefined }> {
  if (path === undefined) return { made: await issue(), file: undefined };
  const file = resolve(cli.settings.folder, path);
  try {
    await writeFile(file, "", { flag: "wx", mode: 0o600 });
  } catch (error) {
    throw usage(`cannot make the token file ${file}: ${(error as Error).message}`, {
      lines: ["No token was issued."],
      cause: error,
    });
  }
  const made = await issue().catch(async (error: unknown) => {
    await rm(file, { force: true });
    throw error;
  });
  await writeFile(file, `${made.token}\n`);
  made.token = "";
  return { made, file };
}

function checkToken(text: string, from: string): string {
  const token = text.trim();
  if (token === "") throw usage(`there is no token in ${from}`);
  if (token.length > maxTokenBytes || /\s/.test(token)) throw usage(`what is in ${from} is not a token`);
  return token;
}
