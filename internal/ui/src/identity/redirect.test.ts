import { expect, test } from "vitest";
import { loginAddress, safePath } from "./redirect";

test.each([
  ["/", "/"],
  ["/devices/7", "/devices/7"],
  ["/devices/7?at=e-1.0&q=a%20b#x", "/devices/7?at=e-1.0&q=a%20b#x"],
  ["/logs?q=https://evil.example/", "/logs?q=https://evil.example/"],
  ["/loginish", "/loginish"],
])("%s is a page of ours", (text, want) => {
  expect(safePath(text)).toBe(want);
});

test.each([
  null,
  "",
  "devices",
  "https://evil.example/",
  "//evil.example",
  "///evil.example",
  "/\\evil.example",
  "\\\\evil.example",
  "/a\\b",
  "/\t/evil.example",
  "/\n/evil.example",
  "\t//evil.example",
  " //evil.example",
  "/..//evil.example",
  "/.//evil.example",
  "javascript:alert(1)",
  "/\u0000",
  "/login",
  "/login?redirect=/login",
  "/logged-out",
  "/setup#secret",
])("%j leads to the fleet", (text) => {
  const path = safePath(text);
  expect(path).toBe("/");
  expect(new URL(path, "https://here.example").origin).toBe("https://here.example");
});

test("whatever it answers is of this server", () => {
  const parts = ["/", "\\", ".", "..", "%2f", "%5c", "@", ":", "evil.example", "\t", "?", "#", "a"];
  let n = 0;
  for (const a of parts)
    for (const b of parts)
      for (const c of parts)
        for (const d of parts) {
          const path = safePath(a + b + c + d);
          expect(new URL(path, "https://here.example").origin, JSON.stringify(a + b + c + d)).toBe(
            "https://here.example",
          );
          if (path !== "/") n++;
        }
  expect(n).toBeGreaterThan(100);
});

test("the login leads back", () => {
  expect(loginAddress("/")).toBe("/login");
  const q = new URLSearchParams(loginAddress("/logs?q=a&b#c").split("?")[1]);
  expect(safePath(q.get("redirect"))).toBe("/logs?q=a&b#c");
});
