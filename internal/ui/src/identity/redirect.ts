// Where a login leads to: the page that somebody wanted, and never another server.

/** The pages that are about logging in: going back to them would lead round in a circle. */
const own = /^\/(login|logged-out|setup)(\/|$)/;

/**
 * The path to go to after a login, from what the address of the login page says; "/" for whatever is not a path of this
 * server. A browser takes `\` for `/` and leaves tabs and newlines out, so that what holds one of those is not to be trusted.
 */
export function safePath(text: string | null): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  if (text === null || !/^\/(?![/\\])/.test(text) || /[\\\u0000-\u001f\u007f]/.test(text)) return "/";
  let u: URL;
  try {
    u = new URL(text, "http://here.invalid");
  } catch {
    return "/";
  }
  if (u.origin !== "http://here.invalid" || u.pathname.startsWith("//") || own.test(u.pathname)) return "/";
  return u.pathname + u.search + u.hash;
}

/** The address of the login page that comes back to where somebody is. */
export function loginAddress(here: string): string {
  const path = safePath(here);
  return path === "/" ? "/login" : `/login?redirect=${encodeURIComponent(path)}`;
}
