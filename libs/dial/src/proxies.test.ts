import { expect, test } from "@jest/globals";
import { proxiesOf, proxyFor } from "./proxies.ts";

const proxy = "http://proxy.example.com:3128";

test("https servers go through HTTPS_PROXY, http ones through HTTP_PROXY; the lower case wins", () => {
  const settings = proxiesOf({ HTTPS_PROXY: "http://a:1", https_proxy: "http://b:2", HTTP_PROXY: "http://c:3" });
  expect(proxyFor("https://bowline.example.com", settings)).toMatchObject({ host: "b", port: 2, secure: false });
  expect(proxyFor("http://bowline.example.com", settings)).toMatchObject({ host: "c", port: 3 });
  expect(proxyFor("https://bowline.example.com", proxiesOf({ HTTPS_PROXY: "" }))).toBeUndefined();
  expect(proxyFor("https://bowline.example.com", undefined)).toBeUndefined();
});

test("a proxy may be written without a scheme, with TLS, and with credentials, which are decoded", () => {
  const through = (https: string) => proxyFor("https://bowline.example.com", { https });
  expect(through("proxy:3128")).toMatchObject({ host: "proxy", port: 3128, secure: false, authorization: undefined });
  expect(through("https://proxy")).toMatchObject({ port: 443, secure: true });
  expect(through("http://[::1]:3128")).toMatchObject({ host: "::1", port: 3128 });
  const basic = (text: string) => `Basic ${Buffer.from(text).toString("base64")}`;
  expect(through("http://me:p%40ss@proxy:1")?.authorization).toBe(basic("me:p@ss"));
  expect(through("http://me:100%@proxy:1")?.authorization).toBe(basic("me:100%"));
});

test("what is no HTTP proxy's URL is refused by the variable's name, without its content", () => {
  for (const wrong of ["socks5://user:hidden@proxy:1080", "http://", "::::", "http://user:hidden@:1"]) {
    let message = "";
    try {
      proxyFor("https://bowline.example.com", { https: wrong });
    } catch (error) {
      message = (error as Error).message;
    }
    expect(message).toContain("HTTPS_PROXY");
    expect(message).not.toContain("hidden");
  }
});

test("this machine never goes through a proxy", () => {
  for (const host of ["localhost", "a.localhost", "127.0.0.1", "127.9.9.9", "[::1]", "LOCALHOST."]) {
    expect(proxyFor(`https://${host}:8080`, { https: proxy })).toBeUndefined();
  }
  expect(proxyFor("https://localhost.example.com", { https: proxy })).toBeDefined();
});

test.each([
  ["*", "https://bowline.example.com", true],
  ["bowline.example.com", "https://bowline.example.com", true],
  ["example.com", "https://bowline.example.com", true],
  [".example.com", "https://bowline.example.com", true],
  ["*.example.com", "https://BOWLINE.example.com", true],
  ["ample.com", "https://bowline.example.com", false],
  ["example.com", "https://example.com.evil.net", false],
  ["other.com, bowline.example.com", "https://bowline.example.com", true],
  ["bowline.example.com:443", "https://bowline.example.com", true],
  ["bowline.example.com:8443", "https://bowline.example.com", false],
  ["10.0.0.0/8", "https://10.1.2.3", true],
  ["10.0.0.0/8", "https://11.1.2.3", false],
  ["10.0.0.0/99", "https://10.1.2.3", false],
  ["10.1.2.3", "https://10.1.2.3:8443", true],
  ["fd00::/8", "https://[fd00::1]", true],
  ["[fd00::1]:443", "https://[fd00::1]", true],
  ["fd00::1", "https://[fd00::1]", true],
  ["", "https://bowline.example.com", false],
  [", ,.", "https://bowline.example.com", false],
])("NO_PROXY=%s for %s: %s", (none, server, excepted) => {
  expect(proxyFor(server, { https: proxy, none }) === undefined).toBe(excepted);
});
