import react from "@vitejs/plugin-react";
import { defineConfig } from "vitest/config";

// The server that `npm run dev` passes requests on to.
const server = process.env.SIGNALBOX ?? "http://127.0.0.1:3101";

export default defineConfig({
  plugins: [react()],
  worker: { format: "es" },
  build: {
    target: "es2022",
    // The built files are committed and compared in CI: nothing in them may
    // depend on the machine or the day.
    sourcemap: false,
    assetsInlineLimit: 0, // the Content-Security-Policy knows no data: scripts or fonts
    chunkSizeWarningLimit: 1000,
  },
  server: { proxy: { "/api": { target: server, changeOrigin: true } } },
  test: {
    projects: [
      { extends: true, test: { name: "unit", include: ["src/**/*.test.{ts,tsx}"], testTimeout: 60_000 } },
      {
        extends: true,
        test: {
          name: "browser",
          include: ["test/**/*.test.ts"],
          testTimeout: 120_000,
          hookTimeout: 120_000,
          expect: { poll: { timeout: 30_000, interval: 100 } },
          fileParallelism: false,
        },
      },
    ],
  },
});
