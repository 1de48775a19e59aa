import { ApiError } from "../api/client";
import { duration } from "./clock";

/** What a failure is about. */
export type Thing =
  | "device"
  | "model"
  | "person"
  | "token"
  | "session"
  | "password"
  | "audit"
  | "file"
  | "rotation"
  | "campaign";

/** A failure in plain words and with what can be done, as sentences; of which thing, for those that name it. */
export function explain(error: unknown, thing: Thing): string {
  if (!(error instanceof ApiError)) return "The page failed at this. Reload it; the browser's console says more.";
  const said = sentence(error.message);
  // Signalbox gives these a code; without one it was something in front of it.
  if (error.code === null && error.status >= 502 && error.status <= 504) {
    return `Signalbox cannot be reached: a proxy answered ${error.status} in its place. Is it running?`;
  }
  switch (error.status) {
    case 0:
      return said;
    case 400:
      return said;
    case 401:
      return "The server does not take your login for this. Reload the page and log in again.";
    case 403:
      if (thing === "file") return "You may look at devices but not make any. Ask for the role of an editor.";
      if (thing === "token") return `You may not do this. ${said}`;
      if (thing === "rotation" || thing === "campaign") {
        return "You may look at this but not change it. Ask an admin for the role of an editor.";
      }
      if (thing !== "device" && thing !== "model") return "Only an admin may do this. Ask one of them.";
      return `You may look at this ${thing} but not change it. Ask for the role of an editor.`;
    case 404:
      return error.code === "RECORD_NOT_FOUND"
        ? `${said} Somebody may have deleted it meanwhile.`
        : "The server does not know this request. Is it of another version than the page? Reload the page.";
    case 409:
      if (error.code === "INVALID_OPERATION") return said;
      if (thing === "rotation" || thing === "campaign") {
        return `${said} Something changed it meanwhile: look at how it stands now.`;
      }
      return `${said} Choose another one.`;
    case 413:
      if (thing === "file") return said;
      return `It is too large: at most 256 KiB of JSON. ${said}`;
    case 429:
      return error.retryAfter === null
        ? "Too many requests at once. Wait a moment, then try again."
        : `Too many attempts. Try again in ${duration(error.retryAfter * 1000)}.`;
    case 502:
      return `A service behind Signalbox failed, so this was not done. ${said} Try again; if it goes on, look at that service.`;
    case 503:
      return `The server cannot do this now. ${said} Try again in a few seconds.`;
    default:
      return error.status >= 500
        ? `${said} The server's log has more${error.correlationId ? ` under ${error.correlationId}` : ""}.`
        : said;
  }
}

function sentence(text: string): string {
  const t = text.trim();
  return /[.!?…]$/.test(t) ? t : `${t}.`;
}
