import { expect, test } from "vitest";
import { Layout } from "./layout";

interface R {
  id: number;
  h: number;
}

function make() {
  const asked: number[] = [];
  let began = 0;
  const layout = new Layout<R>({
    height: (r) => r.h,
    marks: (r) => {
      asked.push(r.id);
      return r.id % 7 === 0 ? 1 : 0;
    },
    began: () => {
      began++;
    },
  });
  return { layout, asked, began: () => began };
}

const rows = (from: number, to: number): R[] => {
  const list: R[] = [];
  for (let id = from; id < to; id++) list.push({ id, h: id % 5 === 0 ? 0 : 20 });
  return list;
};

/** The layout against the plain way to the same numbers. */
function agrees(layout: Layout<R>, list: R[]) {
  expect(layout.length).toBe(list.length);
  let top = 0;
  for (const [i, r] of list.entries()) {
    if (i % 97 === 0 || i > list.length - 3) {
      expect(layout.id(i)).toBe(r.id);
      expect(layout.offset(i)).toBe(top);
      expect(layout.indexOf(r.id)).toBe(i);
      expect(layout.marks(i)).toBe(r.id % 7 === 0 ? 1 : 0);
      if (r.h > 0) {
        expect(layout.at(top)).toBe(i);
        expect(layout.at(top + r.h - 0.5)).toBe(i);
      }
    }
    top += r.h;
  }
  expect(layout.total).toBe(top);
}

test("appends, trims and prepends without asking about what is held", () => {
  const { layout, asked, began } = make();
  let list = rows(0, 3000);
  layout.sync(list);
  agrees(layout, list);
  asked.length = 0;

  list = rows(1000, 5000); // a thousand gone, two thousand come
  layout.sync(list);
  agrees(layout, list);
  expect(asked).toHaveLength(2000);

  asked.length = 0;
  list = rows(-4000, 5000);
  layout.sync(list);
  agrees(layout, list);
  expect(asked).toHaveLength(5000);
  expect(began()).toBe(1);
});

test("long following neither grows nor drifts", () => {
  const { layout, began } = make();
  for (let n = 0; n < 200; n++) layout.sync(rows(n * 100, n * 100 + 1000));
  agrees(layout, rows(19_900, 20_900));
  expect(began()).toBe(1);
});

test("a change in the midst, other rows and none are taken anew", () => {
  const { layout, began } = make();
  layout.sync(rows(0, 10_000));
  const without = rows(0, 10_000).filter((r) => r.id % 3 !== 0 || r.id === 0 || r.id === 9999);
  layout.sync(without);
  agrees(layout, without);
  expect(began()).toBe(2);
  layout.sync(rows(50_000, 50_100));
  agrees(layout, rows(50_000, 50_100));
  layout.sync([]);
  expect(layout.length).toBe(0);
  expect(layout.total).toBe(0);
  expect(layout.at(50)).toBe(0);
});

test("what comes between the last rows, or takes them away, costs no more than they do", () => {
  const { layout, asked, began } = make();
  layout.sync(rows(0, 3000));
  asked.length = 0;
  const list = [...rows(100, 2991), { id: 2990.5, h: 20 }, ...rows(2991, 3010)];
  layout.sync(list);
  agrees(layout, list);
  expect(asked.length).toBeLessThan(30);
  layout.sync(rows(50, 2900));
  agrees(layout, rows(50, 2900));
  expect(began()).toBe(1);
});

test("heights that were measured move what is below", () => {
  const { layout } = make();
  const list = rows(1, 700);
  layout.sync(list);
  layout.setHeight(3, 60);
  list[3] = { id: 4, h: 60 };
  agrees(layout, list);
  expect(layout.at(-5)).toBe(0);
  expect(layout.at(1e9)).toBe(698);
});
