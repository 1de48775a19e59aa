import { expect, it } from "vitest";
import { ApiError } from "../api/client";
import { explain } from "./explain";

const e = (status: number, message: string, code: string | null = null, id: string | null = null) =>
  new ApiError(status, message, code, id);

it("says what the server said, and what can be done", () => {
  expect(explain(e(400, "Config validation failed: /a: got string"), "device")).toBe(
    "Config validation failed: /a: got string.",
  );
  expect(explain(e(409, "DeviceModel for sensor already exists"), "model")).toContain("Choose another");
  expect(explain(e(404, "Device 7 was not found", "RECORD_NOT_FOUND"), "device")).toContain("deleted it");
  expect(explain(e(404, "Resource not found"), "device")).toContain("another version");
  expect(explain(e(502, "Cannot save", "EXTERNAL_SERVICE_ERROR"), "device")).toMatch(
    /service behind .* Cannot save\. Try again/,
  );
  expect(explain(e(502, "The server answered 502 Bad Gateway"), "device")).toMatch(/proxy answered 502/);
  expect(explain(e(403, "Insufficient permissions"), "model")).toContain("this model");
  expect(explain(e(500, "Internal server error", null, "c-1"), "model")).toContain("under c-1");
  expect(explain(new TypeError("x"), "device")).toContain("console");
});
