// The way to an identity provider and back.

const key = "signalbox.provider";
const leftKey = "signalbox.left";
/** Who is sent there again so soon has not been logged in by it. */
const tooSoon = 15_000;

/** Where the login at the provider begins; it comes back to `path`. */
export function providerAddress(path: string): string {
  return `/api/auth/login?redirect=${encodeURIComponent(path)}`;
}

/** Whether going there by itself would lead round in a circle, as when the browser keeps no cookies. */
export function goesInCircles(now: number): boolean {
  try {
    return now - Number(sessionStorage.getItem(key) ?? 0) < tooSoon;
  } catch {
    return true;
  }
}

/** The login there has let somebody in. */
export function arrived(): void {
  try {
    sessionStorage.removeItem(key);
  } catch {
    // Nothing is there.
  }
}

/** Remembers, over the way by the provider, that somebody logged out of their own will. */
export function noteLeft(): void {
  try {
    sessionStorage.setItem(leftKey, "1");
  } catch {
    // They are asked to log in again at once.
  }
}

/** Whether this tab comes back from a logout, and has not said so yet. */
export function comesFromLogout(): boolean {
  try {
    return sessionStorage.getItem(leftKey) !== null;
  } catch {
    return false;
  }
}

/** It has. */
export function forgetLogout(): void {
  try {
    sessionStorage.removeItem(leftKey);
  } catch {
    // Nothing is there.
  }
}

/** Goes to the provider. */
export function toProvider(path: string): void {
  try {
    sessionStorage.setItem(key, String(Date.now()));
  } catch {
    // It is not gone to by itself without.
  }
  location.replace(providerAddress(path));
}
