import { expect, test } from "vitest";
import { area } from "./harness";
import { drawn, list, shows } from "./log";

area("hostile lines", {}, (w) => {
  const hostile: [string, string][] = [
    ["a script", '<script>document.title="taken"</script>'],
    ["an image", "<img src=x onerror=\"document.title='taken'\">"],
    ["markup and entities", "</span></div><h1>big</h1> &lt;b&gt; &#60;i&#62;"],
    ["a template", "$" + "{document.title='taken'} {{7*7}} javascript:alert(1)"],
    ["an address", "<a href=\"javascript:document.title='taken'\">click</a> http://example.com/x"],
    ["right to left", "user \u202egnp.exe\u202c and \u2066isolated\u2069 שלום עולם"],
    ["emoji", "👩‍👩‍👧‍👦 🇳🇵 e\u0301\u0301\u0301\u0301\u0301 \ud83d half"],
    ["NUL and controls", "a\u0000b\u0007c\u001bd\u007fe\rf\u0085g"],
    ["ANSI", "\u001b[31mred\u001b[0m \u001b[2J\u001b]0;title\u0007 \u001b]8;;http://example.com\u001b\\link"],
    ["very many combining marks", `z${"\u0300".repeat(500)}`],
    ["64 KB without a space", "x".repeat(64_000)],
    ["64 KB of markup", "<b>".repeat(21_000)],
  ];

  test.each(hostile)("%s is text, and the layout holds", async (name, message) => {
    const entity = `hostile ${name}`;
    const d = await w.server.device(entity, name);
    await w.server.publish([
      { entity, message: "I (1) main: before it" },
      { entity, message },
      { entity, message: "I (2) main: after it" },
    ]);
    for (const viewport of [
      { width: 1440, height: 900 },
      { width: 390, height: 844 },
    ]) {
      const v = await w.open(`/devices/${d.id}`, { viewport });
      await shows(v, "before it");
      await shows(v, "after it");
      expect(await drawn(v)).toHaveLength(3);
      expect(await v.page.title()).not.toContain("taken");
      expect(await list(v).getByRole("heading").count()).toBe(0);
      expect(await list(v).locator("script, img, h1, iframe").count()).toBe(0);
      const out = () => v.page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      expect(await out()).toBeLessThanOrEqual(0);
      // In rows of their own, below each other.
      const [before, after] = [
        await list(v).getByText("before it", { exact: true }).boundingBox(),
        await list(v).getByText("after it", { exact: true }).boundingBox(),
      ];
      expect((after?.y ?? 0) - (before?.y ?? 0)).toBeLessThan(200);
      await v.page.getByRole("button", { name: "Wrap" }).click();
      expect(await out()).toBeLessThanOrEqual(0);
      await v.page.getByRole("button", { name: "Wrap" }).click();
      const lines = await w.server.lines(d.id);
      if (lines[1] && message.length < 200 && !message.includes("\u001b")) {
        // What a character shows when it would show nothing is the page's choice; the letters are the device's.
        const letters = (s: string) => s.replace(/[^\p{L}\p{N}<>&;"'=]/gu, "");
        const text = (await list(v).textContent()) ?? "";
        expect(letters(text)).toContain(letters(lines[1].message));
      }
    }
    // Elsewhere too: the fleet has the last line, the search looks into them.
    const fleet = await w.open("/");
    await fleet.page.getByRole("grid", { name: "Devices" }).getByText(name, { exact: true }).first().waitFor();
    expect(await fleet.page.title()).not.toContain("taken");
  });

  test("a device's own name is text too", async () => {
    const name = '<img src=x onerror="document.title=1">\u202e👾';
    const d = await w.server.device("hostile-name", name);
    for (const path of ["/", `/devices/${d.id}`, `/devices/${d.id}/settings`, `/logs?devices=${d.id}`]) {
      const v = await w.open(path);
      await v.page
        .getByText(/img src=x/)
        .first()
        .waitFor();
      expect(await v.page.getByRole("main").locator(`img[src="x"]`).count()).toBe(0);
    }
  });
});
