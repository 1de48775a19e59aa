import { expect, test } from "vitest";
import { Slots } from "./slots";

test("rows that stay keep their element, and new ones take those of rows that went", () => {
  const slots = new Slots();
  const assign = (...ids: number[]) => [...slots.assign(ids)].sort(([a], [b]) => a - b).map(([, slot]) => slot);
  expect(assign(10, 11, 12)).toEqual([0, 1, 2]);
  expect(assign(11, 12, 13)).toEqual([1, 2, 0]);
  expect(assign(20, 21, 22)).toEqual([1, 2, 0]); // in the order in which they stood
  expect(assign(20, 21, 22, 23)).toEqual([1, 2, 0, 3]);
  expect(assign(22)).toEqual([0]);
  expect(new Set(assign(22, 30, 31, 32)).size).toBe(4);
});
