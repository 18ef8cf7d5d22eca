import { chmodSync, existsSync, mkdirSync, readdirSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "@jest/globals";
import { startProcess, temporaryFolder } from "@bowline/testing";

const library = fileURLToPath(new URL("index.ts", import.meta.url));

/** A program that keeps its code in `folder`, and one module of its own. Ends with what the call said. */
async function start(folder: string, env: Record<string, string | undefined> = {}): Promise<string> {
  const home = temporaryFolder();
  writeFileSync(join(home, "rest.ts"), "export const rest: string = 'the rest';\n");
  writeFileSync(
    join(home, "main.ts"),
    `import { keepCompiledCode } from ${JSON.stringify(library)};
     const kept = keepCompiledCode(${JSON.stringify(folder)});
     const { rest } = await import("./rest.ts");
     console.log(rest, kept);`,
  );
  const program = startProcess({
    command: ["node", join(home, "main.ts")],
    env: { NODE_COMPILE_CACHE: undefined, NODE_DISABLE_COMPILE_CACHE: undefined, ...env },
  });
  expect(await program.ended).toEqual({ code: 0, signal: null });
  return program.stdout().trim();
}

const filesIn = (folder: string) =>
  readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile()).length;

test("a start keeps the code that it compiled, in a folder for this user alone", async () => {
  const folder = join(temporaryFolder(), "cache", "compiled");
  expect(await start(folder)).toBe("the rest true");
  expect(statSync(folder).mode & 0o777).toBe(0o700);
  expect(filesIn(folder)).toBeGreaterThan(0);
  expect(await start(folder)).toBe("the rest true");
});

test("a folder where others may write is left alone, and the program runs without", async () => {
  const folder = join(temporaryFolder(), "shared");
  mkdirSync(folder);
  for (const mode of [0o777, 0o770, 0o1777]) {
    chmodSync(folder, mode);
    expect(await start(folder)).toBe("the rest false");
  }
  expect(filesIn(folder)).toBe(0);
});

test("where no folder can be made the program runs without", async () => {
  const home = temporaryFolder();
  writeFileSync(join(home, "file"), "");
  symlinkSync(join(home, "nowhere"), join(home, "dangling"));
  expect(await start(join(home, "file", "compiled"))).toBe("the rest false");
  expect(await start(join(home, "file"))).toBe("the rest false");
  expect(await start(join(home, "dangling"))).toBe("the rest false");
  expect(await start("/proc/compiled")).toBe("the rest false");
});

test("Node's own variables go first", async () => {
  const [folder, other] = [join(temporaryFolder(), "ours"), join(temporaryFolder(), "other")];
  expect(await start(folder, { NODE_DISABLE_COMPILE_CACHE: "1" })).toBe("the rest false");
  expect(filesIn(folder)).toBe(0);
  expect(await start(folder, { NODE_COMPILE_CACHE: other })).toBe("the rest true");
  expect(filesIn(folder)).toBe(0);
  expect(existsSync(other)).toBe(true);
});
