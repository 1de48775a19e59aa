import { setTimeout as sleep } from "node:timers/promises";
import { expect, test } from "vitest";
import { area, away, type Said, until } from "./harness";
import { drawn, list, shows, walkUp } from "./log";

let made = 0;
const entity = () => `device-${++made}`;

/** Lines that are told apart by their number. */
const numbered = (e: string, n: number, from = 1): Said[] =>
  Array.from({ length: n }, (_, i) => ({ entity: e, message: `I (${from + i}) main: line ${from + i} of it` }));

area("the log of a device", {}, (w) => {
  async function device(): Promise<{ id: number; e: string; path: string }> {
    const e = entity();
    const d = await w.server.device(e);
    return { id: d.id, e, path: `/devices/${d.id}` };
  }

  test("teaches how to send the first line, and shows it when it comes", async () => {
    const d = await device();
    const v = await w.open(d.path);
    await v.page.getByText("mosquitto_pub").first().waitFor();
    await w.server.publish([{ entity: d.e, message: "I (1) main: the very first" }]);
    await shows(v, "the very first");
  });

  test("shows what was said, and what is said, once and in order", async () => {
    const d = await device();
    await w.server.publish(numbered(d.e, 20));
    const v = await w.open(d.path);
    await shows(v, "line 20 of it");
    await w.server.publish(numbered(d.e, 20, 21));
    await shows(v, "line 40 of it");
    expect(await walkUp(v)).toEqual((await w.server.lines(d.id)).map((l) => l.cursor));
  });

  test("scrolls back through the history, and every line is there once", async () => {
    const d = await device();
    await w.server.publish(numbered(d.e, 2500));
    const v = await w.open(d.path);
    await shows(v, "line 2500 of it");
    expect(await walkUp(v)).toEqual((await w.server.lines(d.id)).map((l) => l.cursor));
  });

  test("filters by text, level and tag, and keeps the filter in the address", async () => {
    const d = await device();
    await w.server.publish([
      { entity: d.e, message: "E (1) wifi: beacon timeout" },
      { entity: d.e, message: "W (2) wifi: weak signal" },
      { entity: d.e, message: "I (3) main: temperature 21" },
      { entity: d.e, message: "I (4) main: beacon seen" },
    ]);
    const v = await w.open(d.path);
    await shows(v, "beacon seen");
    const lines = (n: number) => expect.poll(async () => (await drawn(v)).length).toBe(n);
    await v.page.keyboard.press("/");
    await v.page.getByRole("searchbox", { name: "Search the log" }).pressSequentially("beacon");
    await lines(2);
    await expect.poll(() => v.page.url()).toContain("q=beacon");
    await v.page.getByLabel("Least severe level").selectOption("error");
    await lines(1);
    await v.page.reload();
    await shows(v, "beacon timeout");
    await lines(1);
    await v.page.getByRole("searchbox", { name: "Search the log" }).fill("");
    await v.page.getByLabel("Least severe level").selectOption("");
    await lines(4);
    await v.page.getByLabel("Tag", { exact: true }).fill("wifi");
    await lines(2);
    await w.server.publish([
      { entity: d.e, message: "I (5) main: not this one" },
      { entity: d.e, message: "I (6) wifi: but this one" },
    ]);
    await shows(v, "but this one");
    await lines(3);
    await v.page.getByLabel("Tag", { exact: true }).fill("");
    await v.page.getByRole("button", { name: "Regular expression" }).click();
    await v.page.getByRole("searchbox", { name: "Search the log" }).fill("temperature [0-9]+$");
    await lines(1);
    await v.page.getByRole("searchbox", { name: "Search the log" }).fill("temperature [0-9");
    await v.page.getByRole("alert").first().waitFor(); // says why, and the last filter holds
    await lines(1);
  });

  test("finds in the history what it does not hold", async () => {
    const d = await device();
    await w.server.publish([{ entity: d.e, message: "W (1) main: a needle" }, ...numbered(d.e, 3000, 2)]);
    const v = await w.open(d.path);
    await shows(v, "line 3001 of it");
    await v.page.getByRole("searchbox", { name: "Search the log" }).fill("needle");
    await list(v).getByText("a needle").waitFor();
  });

  test("marks what is searched for", async () => {
    const d = await device();
    await w.server.publish(numbered(d.e, 5));
    const v = await w.open(`${d.path}?q=line`);
    await expect.poll(() => list(v).locator("mark").allTextContents()).toContain("line");
  });

  test("pauses with a count of what waits, and follows again", async () => {
    const d = await device();
    await w.server.publish(numbered(d.e, 100));
    const v = await w.open(d.path);
    await shows(v, "line 100 of it");
    await v.page.getByRole("button", { name: "Following" }).click();
    await w.server.publish(numbered(d.e, 7, 101));
    const follow = v.page.getByRole("button", { name: "7 new lines" });
    await follow.waitFor();
    expect(await list(v).getByText("line 101 of it").count()).toBe(0);
    await list(v).focus();
    await v.page.keyboard.press("f");
    await shows(v, "line 107 of it");
    await v.page.getByRole("button", { name: "Following" }).waitFor();

    // Scrolling up pauses too: what somebody reads must not move away.
    await list(v).hover();
    await v.page.mouse.wheel(0, -600);
    await v.page.getByRole("button", { name: /Follow/ }).waitFor();
    const before = await drawn(v);
    await w.server.publish(numbered(d.e, 50, 108));
    await v.page.getByRole("button", { name: "50 new lines" }).waitFor();
    expect(await drawn(v)).toEqual(before);
    await v.page.getByRole("button", { name: "50 new lines" }).click();
    await shows(v, "line 157 of it");
  });

  test("opens at a line by its link, which a key copies", async () => {
    const d = await device();
    await w.server.publish(numbered(d.e, 3000));
    const line = (await w.server.lines(d.id))[700];
    const v = await w.open(`${d.path}?at=${line?.cursor}`);
    await shows(v, "line 701 of it");
    expect(await drawn(v)).toContain(line?.cursor);
    await list(v).getByText("line 703 of it", { exact: true }).click();
    await v.page.keyboard.press("l");
    const wanted = (await w.server.lines(d.id))[702]?.cursor;
    await expect
      .poll(() => v.page.evaluate(() => navigator.clipboard.readText()))
      .toBe(`${w.server.base}/devices/${d.id}?at=${wanted}`);
    // On from there to what is said now.
    await v.page.keyboard.press("f");
    await shows(v, "line 3000 of it");
    await expect.poll(() => v.page.url()).not.toContain("at=");
  });

  test("goes to a time", async () => {
    const d = await device();
    await w.server.publish(numbered(d.e, 30));
    await sleep(2500);
    const between = new Date();
    await sleep(1500);
    await w.server.publish(numbered(d.e, 2500, 31));
    const v = await w.open(d.path);
    await shows(v, "line 2530 of it");
    await list(v).focus();
    await v.page.keyboard.press("j");
    const dialog = v.page.getByRole("dialog", { name: "Go to a time" });
    // In the time zone of the browser, five hours and three quarters ahead.
    const local = new Date(between.getTime() + (5 * 60 + 45) * 60_000).toISOString().slice(0, 19);
    await dialog.getByLabel("Received at about").fill(local);
    await dialog.getByRole("button", { name: "Go there" }).click();
    await shows(v, "line 31 of it");
    await dialog.waitFor({ state: "hidden" });
  });

  test("copies a line and a range, with their times", async () => {
    const d = await device();
    await w.server.publish(numbered(d.e, 10));
    const v = await w.open(d.path);
    await list(v).getByText("line 3 of it", { exact: true }).click();
    await list(v)
      .getByText("line 6 of it", { exact: true })
      .click({ modifiers: ["Shift"] });
    await v.page.keyboard.press("c");
    const copied = () => v.page.evaluate(() => navigator.clipboard.readText());
    await expect.poll(async () => (await copied()).trimEnd().split("\n").length).toBe(4);
    const [first] = (await copied()).split("\n");
    expect(first).toMatch(/^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\S* .*I \(3\) main: line 3 of it$/);
  });

  test("goes from line to line by key, and says everything about one", async () => {
    const d = await device();
    await w.server.publish(numbered(d.e, 10));
    const v = await w.open(d.path);
    await list(v).getByText("line 5 of it", { exact: true }).click();
    await v.page.keyboard.press("ArrowDown");
    await v.page.keyboard.press("Enter");
    const dialog = v.page.getByRole("dialog", { name: "Line" });
    await dialog.getByText("I (6) main: line 6 of it").first().waitFor();
    await dialog.getByText('"entity_id"').waitFor(); // the document as it was sent
    await v.page.keyboard.press("Escape");
    await dialog.waitFor({ state: "hidden" });
  });

  test("wraps long lines, and remembers that", async () => {
    const d = await device();
    const long = `${"many words ".repeat(60)}end`;
    await w.server.publish([{ entity: d.e, message: long }]);
    const v = await w.open(d.path);
    const message = list(v).getByText(/^many words/);
    const height = async () => (await message.boundingBox())?.height ?? 0;
    await message.waitFor();
    const one = await height();
    await v.page.getByRole("button", { name: "Wrap" }).click();
    await expect.poll(height).toBeGreaterThan(one * 2);
    await v.page.reload();
    await message.waitFor();
    await expect.poll(height).toBeGreaterThan(one * 2);
    await v.page.getByRole("button", { name: "Wrap" }).click();
    await expect.poll(height).toBe(one);
  });

  test("shows when a line was received, how long ago, or the device's own clock", async () => {
    const d = await device();
    await w.server.publish([{ entity: d.e, message: "I (3723004) main: an hour up" }]);
    const v = await w.open(d.path);
    await shows(v, "an hour up");
    const time = list(v).getByRole("link");
    await expect.poll(() => time.textContent()).toMatch(/^\d\d:\d\d:\d\d\.\d+$/);
    await v.page.keyboard.press("t");
    await expect.poll(() => time.textContent()).toMatch(/s|now/);
    await v.page.keyboard.press("t");
    await expect.poll(() => time.textContent()).toMatch(/1:02:03|1 ?h/);
  });

  test("marks boots and panics, and folds a backtrace", async () => {
    const d = await device();
    const crash = [
      "Guru Meditation Error: Core  0 panic'ed (LoadProhibited). Exception was unhandled.",
      "Core  0 register dump:",
      "PC      : 0x400d1234  PS      : 0x00060130  A0      : 0x800d5678  A1      : 0x3ffb4000",
      "Backtrace: 0x400d1234:0x3ffb4000 0x400d5678:0x3ffb4020",
      "ELF file SHA256: 0123456789abcdef",
      "Rebooting...",
      "ets Jul 29 2019 12:21:46",
      "rst:0xc (SW_CPU_RESET),boot:0x13 (SPI_FAST_FLASH_BOOT)",
    ];
    await w.server.publish([
      ...numbered(d.e, 3),
      ...crash.map((message) => ({ entity: d.e, message })),
      ...numbered(d.e, 3, 4),
    ]);
    const v = await w.open(d.path);
    await shows(v, "line 6 of it");
    const log = list(v);
    await log.getByText("started").first().waitFor();
    await log.getByText(/Guru Meditation Error/).waitFor();
    await log.getByText(/register dump/).waitFor({ state: "hidden" });
    await log.getByRole("button", { name: /more lines/ }).click();
    await log.getByText(/register dump/).waitFor();
    await log.getByRole("button", { name: /^fold/ }).click();
    await log.getByText(/register dump/).waitFor({ state: "hidden" });
    await v.page.keyboard.press("P"); // the crash before
    await log.getByText(/Guru Meditation Error/).waitFor();
  });

  test("downloads what the API exports", async () => {
    const d = await device();
    await w.server.publish(numbered(d.e, 1500));
    const v = await w.open(d.path);
    await shows(v, "line 1500 of it");
    for (const [format, type] of [
      ["NDJSON", "application/x-ndjson"],
      ["Text", "text/plain"],
    ] as const) {
      await v.page.getByRole("button", { name: "Download" }).first().click();
      const dialog = v.page.getByRole("dialog");
      await dialog.getByLabel(new RegExp(format, "i")).check();
      await dialog.getByLabel(/everything|all that is kept/i).check();
      const file = v.page.waitForEvent("download");
      await dialog.getByRole("button", { name: "Download" }).click();
      const stream = await (await file).createReadStream();
      let text = "";
      for await (const piece of stream) text += piece;
      const wanted = await w.server.raw(`/api/devices/${d.id}/logs?start=2000-01-01`, { headers: { Accept: type } });
      expect(text).toBe(await wanted.text());
      if (await dialog.isVisible()) await v.page.keyboard.press("Escape");
    }
  });

  test("says whether it is live, and tells quiet from broken", async () => {
    const d = await device();
    await w.server.publish(numbered(d.e, 1));
    const v = await w.open(d.path, { allow: away });
    await shows(v, "line 1 of it");
    await v.page.getByText("Live", { exact: true }).first().waitFor();
    await v.page.getByText(/Live; no line since/).waitFor();
    await w.server.kill();
    await v.page.getByText(/Connection lost/).waitFor();
    await v.page.getByText("Not live").waitFor();
    await w.server.launch();
    await v.page.getByText(/Connection lost/).waitFor({ state: "hidden" });
    await w.server.publish(numbered(d.e, 1, 2));
    await shows(v, "line 2 of it");
  });

  test("loses and doubles nothing on screen when the server is killed under it, three times", async () => {
    const d = await device();
    await w.server.publish(numbered(d.e, 10));
    const v = await w.open(d.path, { allow: away });
    await shows(v, "line 10 of it");
    let stop = false;
    let n = 10;
    const speaking = (async () => {
      while (!stop) {
        const lines = numbered(d.e, 5, n + 1);
        try {
          await w.server.publish(lines);
          n += lines.length;
        } catch {
          await sleep(50); // the server is away; the lines are sent again, as a device does
        }
      }
    })();
    for (let i = 0; i < 3; i++) {
      await sleep(1500);
      await w.server.kill();
      await sleep(400);
      await w.server.launch();
    }
    await sleep(1500);
    stop = true;
    await speaking;
    await w.server.publish([{ entity: d.e, message: "I (1) main: the last one" }]);
    await shows(v, "the last one");
    const kept = (await w.server.lines(d.id)).map((l) => l.cursor);
    expect(kept.length).toBeGreaterThan(n); // those sent twice have been journalled twice
    expect(await walkUp(v)).toEqual(kept);
  });

  test("has one stream for all tabs of a browser", async () => {
    const d = await device();
    await w.server.publish(numbered(d.e, 3));
    // Those of the tests before are gone.
    await until("no stream is open", async () => (await w.server.metric("sse_gateway_active_connections")) === 0);
    const v = await w.open(d.path);
    const other = await w.open(d.path, { beside: v });
    await shows(v, "line 3 of it");
    await shows(other, "line 3 of it");
    await w.server.publish(numbered(d.e, 3, 4));
    await shows(v, "line 6 of it");
    await shows(other, "line 6 of it");
    expect(await w.server.metric("sse_gateway_active_connections")).toBe(1);
    await v.page.close();
    await w.server.publish(numbered(d.e, 3, 7));
    await shows(other, "line 9 of it");
    expect(await w.server.metric("sse_gateway_active_connections")).toBe(1);
  });
});

area("the log of several devices", { settings: { STREAM_MAX_RATE: "20" } }, (w) => {
  test("merges devices in one order, and names them", async () => {
    const [a, b] = [await w.server.device(entity(), "Alpha"), await w.server.device(entity(), "Beta")];
    await w.server.publish(
      Array.from({ length: 10 }, (_, i) => ({
        entity: (i % 2 === 0 ? a : b).device_entity_id ?? "",
        message: `I (${i}) main: word ${i}`,
      })),
    );
    const v = await w.open(`/logs?devices=${a.id},${b.id}`);
    await shows(v, "word 9");
    await list(v).getByText("Alpha").first().waitFor();
    await list(v).getByText("Beta").first().waitFor();
    const { logs } = await w.server.api<{ logs: { cursor: string }[] }>(`/api/logs?device_ids=${a.id},${b.id}`);
    expect(await walkUp(v)).toEqual(logs.map((l) => l.cursor));
  });

  test("stands devices side by side", async () => {
    const [a, b] = [await w.server.device(entity(), "Left"), await w.server.device(entity(), "Right")];
    const v = await w.open(`/logs?devices=${a.id},${b.id}`);
    await v.page.getByRole("button", { name: /side by side/i }).click();
    await expect.poll(() => v.page.url()).toContain("layout=side");
    await w.server.publish([
      { entity: a.device_entity_id ?? "", message: "I (1) main: from the left" },
      { entity: b.device_entity_id ?? "", message: "I (1) main: from the right" },
    ]);
    await shows(v, "from the left", "Left");
    await shows(v, "from the right", "Right");
    expect(await list(v, "Left").getByText("from the right").count()).toBe(0);
  });

  test("draws a gap where a stream may not carry everything, and fetches it", async () => {
    const d = await w.server.device(entity(), "Loud");
    const e = d.device_entity_id ?? "";
    const v = await w.open("/logs");
    await w.server.publish(numbered(e, 3));
    await shows(v, "line 3 of it");
    await w.server.publish(numbered(e, 400, 4));
    const fetchThem = list(v).getByRole("button", { name: "Fetch them" });
    await list(v)
      .getByText(/left out because they came faster/)
      .first()
      .waitFor();
    await sleep(2000); // the last gap is told when the rate is below the limit again
    await w.server.publish(numbered(e, 1, 404));
    await shows(v, "line 404 of it");
    for (let i = 0; i < 20 && (await fetchThem.count()) > 0; i++) {
      const before = await fetchThem.count();
      await fetchThem.last().click();
      await until("the gap is filled", async () => (await fetchThem.count()) < before || before === 0);
    }
    const kept = (await w.server.lines(d.id)).map((l) => l.cursor);
    const seen = (await walkUp(v)).filter((row) => !row.startsWith("gap"));
    expect(seen.filter((c) => kept.includes(c))).toEqual(kept);
  });
});
