// The user name that was typed last, to fill it in when only the password is needed again.

const key = "signalbox.user";

export function rememberedName(): string {
  try {
    return localStorage.getItem(key) ?? "";
  } catch {
    return "";
  }
}

export function rememberName(name: string): void {
  try {
    localStorage.setItem(key, name);
  } catch {
    // It is typed again.
  }
}
