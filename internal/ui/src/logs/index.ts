import { request } from "../api/client";
import type { LogPage } from "../api/types";
import { streamClient } from "../stream";
import { createLog, type Devices } from "./model";
import type { LineFilter, LogModel } from "./types";

/** A log of the devices in this browser; it lives until it is closed. */
export function openLog(devices: Devices, filter: LineFilter): LogModel {
  return createLog(devices, filter, {
    stream: streamClient,
    read: (path, query, signal) => request<LogPage>(path, { query, signal }),
    frame(f) {
      // A tab that is not seen gets no frames, but must not gather without end.
      const frame = requestAnimationFrame(once);
      const timer = setTimeout(once, 1000);
      function undo() {
        cancelAnimationFrame(frame);
        clearTimeout(timer);
      }
      function once() {
        undo();
        f();
      }
      return undo;
    },
    after(ms, f) {
      const timer = setTimeout(f, ms);
      return () => clearTimeout(timer);
    },
  });
}
