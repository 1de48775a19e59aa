// The hub in a SharedWorker: one for all tabs that run the same version of the page.

import { Hub } from "./hub";
import { browserDeps, serve } from "./serve";

const hub = new Hub(browserDeps());

// The types of a worker and of a page cannot both be had.
(self as unknown as { onconnect: (e: MessageEvent) => void }).onconnect = (e) => {
  const port = e.ports[0];
  if (port) serve(hub, port);
};
