import { describe, expect, it } from "vitest";
import { formatJson, locate, pointerKeys, syntaxFault } from "./json";

const at = (text: string, pointer: string) => {
  const { from, to } = locate(text, pointer);
  return text.slice(from, to);
};

describe("the place of a JSON pointer", () => {
  const text = '{"a": {"b": [1, "two", {"c": true}]}, "x/y": {"~": null}, "": 5, "s": "}"}';

  it("is the value", () => {
    expect(at(text, "/a/b/1")).toBe('"two"');
    expect(at(text, "/a/b/2/c")).toBe("true");
    expect(at(text, "/s")).toBe('"}"');
  });

  it("is the name of an object or an array, and of the whole the bracket", () => {
    expect(at(text, "/a/b")).toBe('"b"');
    expect(at(text, "")).toBe("{");
    expect(at(text, "/a/b/2")).toBe("{");
  });

  it("knows the escapes of a pointer and of JSON", () => {
    expect(pointerKeys("/x~1y/~0/")).toEqual(["x/y", "~", ""]);
    expect(pointerKeys("/~01")).toEqual(["~1"]);
    expect(at(text, "/x~1y/~0")).toBe("null");
    expect(at(text, "/")).toBe("5");
    expect(at('{"\\u0061": 7}', "/a")).toBe("7");
  });

  it("is the nearest value there is when the one meant is missing", () => {
    expect(at(text, "/a/none")).toBe('"a"');
    expect(at(text, "/none")).toBe("{");
    expect(at(text, "/a/b/9")).toBe('"b"');
    expect(locate("", "/a")).toEqual({ from: 0, to: 0 });
  });

  it("is the last of two properties with one name", () => {
    expect(at('{"a": 1, "a": 2}', "/a")).toBe("2");
  });
});

describe("a text that is not JSON", () => {
  const fault = (text: string) => {
    const f = syntaxFault(text);
    return f && { what: text.slice(f.from, f.to), message: f.message };
  };

  it("is told from one that is", () => {
    for (const text of ["{}", " [1, 2]\n", '"a"', "0", "null"]) expect(syntaxFault(text)).toBeNull();
    for (const text of ["", "{", "{'a': 1}", '{"a": 1,}', "[1 2]", "01", "{} {}", "NaN"])
      expect(syntaxFault(text)).not.toBeNull();
  });

  it("is marked at its fault", () => {
    expect(fault('{"a": 1,\n "b": nope}')?.what).toBe("nope");
    expect(fault('{"a": 1 "b": 2}')?.what).toBe('"b"');
    expect(fault('{"a": [1, 2')?.what).toBe("2");
    expect(fault('{"a": 1,}')?.what).toBe("}");
  });

  it("is told of without the engine's positions", () => {
    for (const text of ['{"a": nope}', "{'a': 1}", '{"a": 1 "b": 2}', "[1", "{} {}"]) {
      const message = fault(text)?.message ?? "";
      expect(message).not.toMatch(/position|is not valid JSON|line \d/);
      expect(message).not.toBe("");
    }
  });
});

describe("formatting", () => {
  it("indents by two and leaves what is empty on one line", () => {
    expect(formatJson('{"a":[1,{"b":[]}],"c":{ }}')).toBe(
      '{\n  "a": [\n    1,\n    {\n      "b": []\n    }\n  ],\n  "c": {}\n}\n',
    );
  });

  it("changes no value", () => {
    expect(formatJson("[1.0, 12345678901234567890, 1e2]")).toBe("[\n  1.0,\n  12345678901234567890,\n  1e2\n]\n");
    expect(formatJson('{"a": "x , { : \\" }"}')).toBe('{\n  "a": "x , { : \\" }"\n}\n');
    const text = '{"a":{"b":[1,2,{"c":null}]},"d":"[{"}';
    expect(JSON.parse(formatJson(text) ?? "")).toEqual(JSON.parse(text));
    expect(formatJson(formatJson(text) ?? "")).toBe(formatJson(text));
  });

  it("leaves alone what is not JSON", () => {
    expect(formatJson("{")).toBeNull();
  });
});
