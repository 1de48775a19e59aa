import { useEffect, useState } from "react";
import { streamClient, useStreamStatus } from "../stream";
import { words } from "../stream/words";
import "./stream.css";

/**
 * Says in the bar how the event stream does. It has one width whatever it says, so that nothing beside it moves; on a phone
 * that is the width of its dot, which is a button when there is something to do.
 */
export function StreamState() {
  const status = useStreamStatus();
  const [now, setNow] = useState(() => Date.now());
  // What counts seconds is drawn every second; a live stream is drawn when it is heard.
  const counts = status.state === "reconnecting" || status.state === "silent";
  useEffect(() => {
    if (!counts) return;
    const timer = setInterval(() => setNow(Date.now()), 1000);
    return () => clearInterval(timer);
  }, [counts]);
  const w = words(status, Math.max(now, status.heard, status.since));
  const [said, setSaid] = useState("");
  const [before, setBefore] = useState(w.said);
  if (w.said !== before) {
    setBefore(w.said);
    if (before !== "") setSaid(w.said); // that it has come up need not be said
  }
  const { action } = w;
  return (
    <div className="stream" data-mood={w.mood} title={w.detail}>
      <span className="dot" aria-hidden="true" />
      <span className="word">{w.word}</span>
      {action && (
        <button
          type="button"
          className="button"
          title={w.detail}
          onClick={() => (action.kind === "reload" ? location.reload() : streamClient.retry())}
        >
          <span>{action.name}</span>
        </button>
      )}
      <span className="visually-hidden" role="status">
        {said}
      </span>
    </div>
  );
}
