import { ApiError, request } from "../api/client";
import { beforeLeaving, forgetUnsaved } from "../parts/unsaved";
import { session } from "./index";
import { noteLeft } from "./provider";

/** Ends the session, here and at the provider, and leaves the page. Throws ApiError if the server could not be told. */
export async function logOut(): Promise<void> {
  let to = "/logged-out";
  try {
    const answer = await request<{ redirect?: string } | undefined>("/api/auth/logout", {
      method: "POST",
      anonymous: true,
    });
    if (answer?.redirect) {
      noteLeft(); // the provider sends the browser back to the fleet
      to = answer.redirect;
    }
  } catch (e) {
    if (!(e instanceof ApiError) || e.status !== 401) throw e; // there is no session any more: that is what was wanted
  }
  forgetUnsaved();
  session.left();
  location.assign(to);
}

/** The same, after a question if something is unsaved. */
export function askToLogOut(failed: (e: unknown) => void): void {
  beforeLeaving(() => void logOut().catch(failed));
}
