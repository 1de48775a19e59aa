// What can be said of a new password before the server has seen it.

/** The least and the most of a password, in characters and in bytes. */
export const leastPassword = 10;
export const mostPassword = 1024;

/** What is wrong with a new password and its repetition, or null. Nothing typed yet is nothing wrong. */
export function passwordFault(password: string, again: string): string | null {
  if (password !== "" && [...password].length < leastPassword) {
    const missing = leastPassword - [...password].length;
    return `${missing} more ${missing === 1 ? "character" : "characters"}: it takes at least ${leastPassword}`;
  }
  if (new TextEncoder().encode(password).length > mostPassword) return `It takes at most ${mostPassword} bytes`;
  if (again !== "" && again !== password) return "The two are not the same";
  return null;
}

/** Whether both can be sent. */
export function passwordReady(password: string, again: string): boolean {
  return password !== "" && again !== "" && passwordFault(password, again) === null;
}
