import { readFile } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { splitLogin, withoutPassword } from "../bytes/address.ts";
import { UserError } from "../errors.ts";
import type { HubAccess } from "./client.ts";

/** The hub and its cache on this machine, as the environment says. */
export interface HubSettings extends HubAccess {
  /** The cache's folder. */
  readonly cache: string;
  /** Whether the network must not be used. */
  readonly offline: boolean;
  /** Whether snapshots link to their files; otherwise they hold copies. */
  readonly symlinks: boolean;
}

/**
 * Reads the variables that Python's huggingface_hub reads, with the same meaning: HF_ENDPOINT, HF_TOKEN, HF_TOKEN_PATH, HF_HOME, HF_HUB_CACHE,
 * HF_HUB_OFFLINE, HF_HUB_DISABLE_SYMLINKS, HF_HUB_DOWNLOAD_TIMEOUT (seconds), XDG_CACHE_HOME, and the earlier names of some. In paths, ~ and variables
 * (`$HOME`, `${HOME}`) are expanded.
 *
 * @throws UserError if HF_ENDPOINT is no address, a path begins with another user's ~name, or the token cannot be one
 */
export async function hubSettings(env: NodeJS.ProcessEnv = process.env): Promise<HubSettings> {
  const folder = (name: string) => expanded(name, env);
  const home = folder("HF_HOME") ?? join(folder("XDG_CACHE_HOME") ?? join(homeOf(env), ".cache"), "huggingface");
  const { address, login } = splitLogin(env.HF_ENDPOINT || "https://huggingface.co");
  const endpoint = address.replace(/\/+$/, "");
  if (!/^https?:$/.test(protocolOf(endpoint))) {
    throw new UserError(
      `HF_ENDPOINT: expected an address with http, got "${withoutPassword(endpoint)}". Correct it or unset it.`,
    );
  }
  const timeout = Number(env.HF_HUB_DOWNLOAD_TIMEOUT);
  return {
    endpoint,
    ...(login ? { login } : {}),
    ...(await findToken(env, folder("HF_TOKEN_PATH") ?? join(home, "token"))),
    ...(timeout > 0 ? { timeout } : {}),
    cache: folder("HF_HUB_CACHE") ?? folder("HUGGINGFACE_HUB_CACHE") ?? join(home, "hub"),
    offline: isTrue(env.HF_HUB_OFFLINE || env.TRANSFORMERS_OFFLINE),
    symlinks: !isTrue(env.HF_HUB_DISABLE_SYMLINKS),
  };
}

function protocolOf(address: string): string {
  try {
    return new URL(address).protocol;
  } catch {
    return "";
  }
}

async function findToken(env: NodeJS.ProcessEnv, path: string): Promise<Pick<HubAccess, "token" | "tokenFrom">> {
  for (const tokenFrom of ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"]) {
    const token = env[tokenFrom]?.trim();
    if (token) return checked(token, tokenFrom);
  }
  const token = (await readFile(path, "utf8").catch(() => "")).trim();
  return token ? checked(token, path) : {};
}

function checked(token: string, tokenFrom: string): Pick<HubAccess, "token" | "tokenFrom"> {
  if (!/^[\x21-\x7e]+$/.test(token)) {
    throw new UserError(
      `token: expected one line of letters and digits, got other text in ${tokenFrom}. Set it again.`,
    );
  }
  return { token, tokenFrom };
}

/** A path in a variable, with ~ and variables in it as Python's expanduser and expandvars give them; a variable that is not set stays as it is. */
function expanded(name: string, env: NodeJS.ProcessEnv): string | undefined {
  const path = env[name];
  if (!path) return undefined;
  if (/^~[^/\\]/.test(path)) {
    throw new UserError(`${name}: expected a path, got another user's home in "${path}". Write the path out.`);
  }
  return path
    .replace(/^~/, () => homeOf(env))
    .replace(/\$(?:(\w+)|\{([^}]*)\})/g, (whole, bare?: string, braced?: string) => env[bare ?? braced!] ?? whole);
}

const homeOf = (env: NodeJS.ProcessEnv) => env.HOME || homedir();

const isTrue = (text: string | undefined) => ["1", "ON", "YES", "TRUE"].includes((text ?? "").toUpperCase());
