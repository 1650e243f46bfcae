import { messageOf } from "../errors.ts";

/** A text with the names and passwords of the addresses in it hidden, for messages. */
export function withoutPassword(text: string): string {
  return text.replace(/(\/\/|^)[^\s/?#"]*@/g, "$1***@");
}

/**
 * An address apart from the name and password in it, which `fetch` refuses.
 *
 * @returns `login` as the header Authorization wants it (RFC 7617)
 */
export function splitLogin(address: string): { readonly address: string; readonly login?: string } {
  const url = URL.canParse(address) ? new URL(address) : undefined;
  if (!url || (url.username === "" && url.password === "")) return { address };
  const bytes = new TextEncoder().encode(`${decodeURIComponent(url.username)}:${decodeURIComponent(url.password)}`);
  url.username = "";
  url.password = "";
  return { address: url.href, login: `Basic ${btoa(String.fromCharCode(...bytes))}` };
}

/** Why a request failed: the system's code of the error (ECONNREFUSED), otherwise the words of the innermost one. */
export function reasonOf(error: unknown): string {
  let inner = error;
  while (inner instanceof Error && inner.cause instanceof Error) inner = inner.cause;
  const { code } = inner as { code?: unknown };
  return typeof code === "string" && !code.startsWith("UND_") ? code : messageOf(inner);
}
