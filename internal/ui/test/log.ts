// Reading a log as somebody does who looks at it: what rows are there, in which order.

import { expect } from "vitest";
import type { View } from "./harness";
import { until } from "./harness";

/** The rows that are drawn, from the top: the cursor of a line, or the text of a gap. */
export async function drawn(v: View, name?: string): Promise<string[]> {
  return await list(v, name).evaluate((log) =>
    // The time of a line is a link to it.
    [...log.querySelectorAll<HTMLElement>("[data-id]")].map((row) => {
      const link = row.querySelector<HTMLAnchorElement>('a[href*="at="]');
      return link ? (new URL(link.href).searchParams.get("at") ?? "") : `gap: ${row.textContent}`;
    }),
  );
}

/** The list of a log; of several, the one whose name has that in it. */
export function list(v: View, name?: string) {
  return v.page.getByRole("log", name === undefined ? {} : { name });
}

/** Waits until a line with that text is drawn. */
export async function shows(v: View, text: string, name?: string): Promise<void> {
  await list(v, name).getByText(text, { exact: true }).last().waitFor();
}

/**
 * Scrolls from where the log is to its beginning, with the wheel, and returns every row once. Two sights of a row must agree on
 * its neighbours: a line that is drawn twice, or that is missing from one of them, fails here.
 */
export async function walkUp(v: View, name?: string): Promise<string[]> {
  const log = list(v, name);
  await log.hover();
  let all = await drawn(v, name);
  let still = 0;
  while (still < 8) {
    await v.page.mouse.wheel(0, -400);
    await v.page.waitForTimeout(60);
    const snap = await drawn(v, name);
    const at = snap.indexOf(all[0] ?? "");
    if (at < 0) {
      throw new Error(
        `the rows jumped: none of ${snap[0]} to ${snap.at(-1)} is ${all[0]}, which stood at the top before`,
      );
    }
    const both = Math.min(snap.length - at, all.length);
    expect(snap.slice(at, at + both)).toEqual(all.slice(0, both));
    if (at > 0) {
      all = [...snap.slice(0, at), ...all];
      still = 0;
    } else if ((await log.getByText("Beginning of what is kept").count()) > 0) {
      still++;
    } else {
      // More of the history is on its way.
      await until(
        "more of the history is drawn",
        async () => (await drawn(v, name))[0] !== snap[0] || (await atTop(v, name)),
      );
    }
  }
  return all;
}

async function atTop(v: View, name?: string): Promise<boolean> {
  return (await list(v, name).getByText("Beginning of what is kept").count()) > 0;
}
