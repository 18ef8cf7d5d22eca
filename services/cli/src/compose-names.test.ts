import { expect, test } from "@jest/globals";
import { isNamed, namesIn, stackNameOf, variablesOfEnvFile } from "./compose-names.ts";

const text = `name: my-$PLACE
include:
  - other.yaml
  - path: [a.yaml, b.yaml]
x-base: &base
  environment: [PASSED, GIVEN=1]
services:
  web:
    <<: *base
    env_file: ./web.env
    extends: { file: base.yaml, service: web }
    volumes: ["./conf:/etc/conf:ro", { type: bind, source: "\${DIR:-data}/x", target: /x }]
  db:
    environment: { ALSO: , SET: "$INNER" }
    env_file: [{ path: db.env, required: false }, more.env]
secrets: { key: { environment: KEY } }
configs: { app: { file: app.conf } }
`;

test("variables are found in expressions and where they are passed on by their name alone", () => {
  expect([...namesIn(text, {}).variables].toSorted()).toEqual(["ALSO", "DIR", "INNER", "KEY", "PASSED", "PLACE"]);
  expect(variablesOfEnvFile("A=$B\nC\n export D \n# E\nF=1")).toEqual(["B", "C", "D"]);
});

test("other files are found, and the file's own name", () => {
  expect(namesIn(text, {})).toMatchObject({
    name: "my-$PLACE",
    envFiles: ["web.env", "db.env", "more.env"],
    composeFiles: ["other.yaml", "a.yaml", "b.yaml", "base.yaml"].map((path) => ({ path, folder: "" })),
    implied: [],
  });
});

test("a path is named where a text is it, or begins with it before a colon, with its variables' values", () => {
  const { texts } = namesIn(text, {});
  for (const path of ["./web.env", "app.conf", "./conf", "data/x"])
    expect([path, isNamed(path, texts)]).toEqual([path, true]);
  expect(isNamed("far/x", namesIn(text, { DIR: "far" }).texts)).toBe(true);
  for (const path of ["/etc/passwd", "./con", "../web.env", ""])
    expect([path, isNamed(path, texts)]).toEqual([path, false]);
});

test("in an included file paths start at its folder, or at the one that the include says", () => {
  const { composeFiles, envFiles, implied } = namesIn(
    "include: [./db/compose.yaml, { path: far/x.yaml, project_directory: near, env_file: v.env }, { path: y/z.yaml, project_directory: . }]",
    {},
  );
  expect(composeFiles).toEqual([
    { path: "db/compose.yaml", folder: "db" },
    { path: "far/x.yaml", folder: "near" },
    { path: "y/z.yaml", folder: "" },
  ]);
  expect([envFiles, implied]).toEqual([["v.env"], ["db/.env", "near/.env"]]);
  const below = namesIn("services: { db: { env_file: ../app.env, volumes: ['./data:/d'] } }", {}, "db");
  expect(below.envFiles).toEqual(["app.env"]);
  expect(["./db/data", "./data", "app.env"].map((path) => isNamed(path, below.texts))).toEqual([true, false, true]);
});

test("what is no YAML, or too many aliases, still names its variables", () => {
  expect([...namesIn("a: [$X\nb: ]", {}).variables]).toEqual(["X"]);
  const bomb = [
    "a0: &a0 [$X]",
    ...Array.from({ length: 9 }, (_, at) => `a${at + 1}: &a${at + 1} [${`*a${at},`.repeat(9)}]`),
  ];
  expect([...namesIn(bomb.join("\n"), {}).variables]).toEqual(["X"]);
});

test("a folder's name becomes one that a stack can have", () => {
  expect(["shop", "My_Shop", "2024 shop!", "__", "42", "-"].map(stackNameOf)).toEqual([
    "shop",
    "my-shop",
    "shop",
    "",
    "",
    "",
  ]);
});
