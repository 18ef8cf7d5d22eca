import { expect, test } from "@jest/globals";
import { registryHost, registryOf } from "./images.ts";

test("a reference is of the host that it begins with, and else of docker.io, as Docker reads it", () => {
  const registries = {
    nginx: "docker.io",
    "nginx:1.27": "docker.io",
    "team/app": "docker.io",
    "index.docker.io/library/nginx": "docker.io",
    "docker.io/library/nginx@sha256:ab": "docker.io",
    "registry.example.com/app": "registry.example.com",
    "Registry.Example.com:5000/team/app:1": "registry.example.com:5000",
    "localhost/app": "localhost",
    "localhost:5000/app": "localhost:5000",
    "[::1]:5000/app": "[::1]:5000",
    "registry.example.com:5000": "docker.io", // a name with a tag
  };
  for (const [reference, host] of Object.entries(registries))
    expect([reference, registryOf(reference)]).toEqual([reference, host]);
});

test("a registry's host has one spelling; a URL, a path and a bare word are none", () => {
  expect(
    ["Docker.IO", "index.docker.io", "R.example:5000", "localhost", "host:80", "[::1]:5000"].map(registryHost),
  ).toEqual(["docker.io", "docker.io", "r.example:5000", "localhost", "host:80", "[::1]:5000"]);
  for (const text of [
    "",
    "https://r.example",
    "r.example/team",
    "team",
    "r..example",
    "r.example:0",
    "r.example:70000",
    "r.example:",
    "a b.c",
    "-r.example",
    "r.example\n",
  ])
    expect([text, registryHost(text)]).toEqual([text, undefined]);
});
