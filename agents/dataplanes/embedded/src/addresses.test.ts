import { expect, test } from "@jest/globals";
import { isPrivateAddress } from "./addresses.ts";

test("loopback, private, link-local, metadata and reserved addresses are private, in every spelling", () => {
  for (const address of [
    "127.0.0.1",
    "127.255.0.1",
    "0.0.0.0",
    "10.1.2.3",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:a00:1",
    "0:0:0:0:0:ffff:7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b::169.254.169.254",
    "2002:7f00:1::",
    "fe80::1",
    "fe80::1%eth0",
    "fd00:ec2::254",
    "fc00::1",
    "ff02::1",
    "not an address",
    "",
  ]) {
    expect({ address, private: isPrivateAddress(address) }).toEqual({ address, private: true });
  }
});

test("public addresses are not", () => {
  for (const address of [
    "1.1.1.1",
    "172.15.0.1",
    "172.32.0.1",
    "192.169.0.1",
    "100.128.0.1",
    "2606:4700::1111",
    "::ffff:1.1.1.1",
    "64:ff9b::808:808",
  ]) {
    expect({ address, private: isPrivateAddress(address) }).toEqual({ address, private: false });
  }
});
