// The way to an identity provider and back.

const key = "signalbox.provider";
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

/** Goes to the provider. */
export function toProvider(path: string): void {
  try {
    sessionStorage.setItem(key, String(Date.now()));
  } catch {
    // It is not gone to by itself without.
  }
  location.replace(providerAddress(path));
}
