import { rm } from "node:fs/promises";
import { join } from "node:path";
import { newSha256, openFile } from "#file";
import { openSafetensors, writeSafetensors } from "../bytes/safetensors.ts";
import type { TensorFile } from "../bytes/tensor-file.ts";
import type { Floats } from "../capture/hooks.ts";
import type { Store } from "../capture/store.ts";
import { messageOf, UserError } from "../errors.ts";
import { writeFileAtomic } from "../storage/files.ts";

/** Files kept open at a time. */
const mostOpen = 64;

/**
 * Keeps the tensors of a capture as safetensors files, one for each key, in a folder: they take no memory, and an interrupted run goes on after the last of them.
 *
 * @param identity distinguishes them from those of other pairs or another model
 * @param beforeSave is called before a file is put in its place; what it throws keeps the file out
 * @throws UserError, when it saves, if a number is not finite or the disk is full; when it reads, if the file has been removed or damaged
 */
export function fileStore(
  folder: string,
  identity: string,
  beforeSave: () => void = () => {},
): Store & { close(): Promise<void> } {
  /** Those used last come last. */
  const open = new Map<string, TensorFile>();
  const path = (key: string) => join(folder, `${key}-${identity.slice(0, 16)}.safetensors`);
  const closeOne = async (key: string) => {
    const tensors = open.get(key);
    open.delete(key);
    await tensors?.source.close();
  };
  const file = async (key: string) => {
    const known = open.get(key) ?? (await openTensors(path(key)));
    open.delete(key);
    open.set(key, known);
    if (open.size > mostOpen) await closeOne([...open.keys()][0]!);
    return known;
  };
  // One thing after another, whoever asks: a file must not be closed while another reads from it.
  let last: Promise<unknown> = Promise.resolve();
  const inTurn = <T>(work: () => Promise<T>): Promise<T> => {
    const next = last.then(work);
    last = next.catch(() => {});
    return next;
  };
  const isWhole = async (key: string) => {
    const tensors = await file(key);
    const named: [string, Uint8Array][] = [];
    for (const [name, { offset, length }] of tensors.tensors) {
      named.push([name, await tensors.source.read(offset, length)]);
    }
    if (tensors.metadata.sha256 === sumOf(named)) return true;
    await closeOne(key);
    return false;
  };
  return {
    // Of what is asked for so, a file that cannot be read is computed again like one that is not there.
    has: (key) => inTurn(() => isWhole(key).catch(() => false)),
    save: (key, tensors) =>
      inTurn(async () => {
        await closeOne(key);
        for (const [name, data] of tensors) checkActivations(data, `${name} of ${key}`);
        const hash = sumOf([...tensors].map(([name, data]) => [name, bytesOf(data)]));
        const bytes = writeSafetensors(
          new Map([...tensors].map(([name, data]) => [name, { shape: [data.length], data: data as Float32Array }])),
          { dtype: "F32", metadata: { sha256: hash } },
        );
        beforeSave();
        await rm(path(key), { recursive: true, force: true });
        await writeFileAtomic(path(key), bytes);
      }),
    read: (key, tensor): Promise<Floats | undefined> =>
      inTurn(async () => {
        const tensors = await file(key).catch((error) => {
          throw new UserError(
            `The unfinished work was removed or damaged (${path(key)}: ${messageOf(error)}). Run the same command again.`,
          );
        });
        return tensors.tensors.has(tensor) ? tensors.read(tensor) : undefined;
      }),
    remove: (key) =>
      inTurn(async () => {
        await closeOne(key);
        await rm(path(key), { force: true });
      }),
    close: () =>
      inTurn(async () => {
        for (const key of [...open.keys()]) await closeOne(key);
      }),
  };
}

const bytesOf = (data: Floats) => new Uint8Array(data.buffer, data.byteOffset, data.byteLength);

/** One SHA-256 of named bytes, in whatever order. */
function sumOf(named: readonly (readonly [name: string, bytes: Uint8Array])[]): string {
  const hash = newSha256();
  for (const [name, bytes] of named.toSorted(([a], [b]) => (a < b ? -1 : 1))) {
    hash.update(new TextEncoder().encode(`${JSON.stringify(name)} ${bytes.length}\n`));
    hash.update(bytes);
  }
  return hash.hex();
}

function checkActivations(values: Floats, what: string): void {
  // Of numbers that are finite, all differences with themselves are 0.
  let rest = 0;
  for (let i = 0; i < values.length; i++) rest += values[i]! - values[i]!;
  if (rest === 0) return;
  const at = values.findIndex((value: number) => !Number.isFinite(value));
  throw new UserError(
    `activations ${what}: expected finite numbers, got ${values[at]}. The model overflows in float32: try --precision float64, or check its weights.`,
  );
}

async function openTensors(path: string): Promise<TensorFile> {
  const source = await openFile(path);
  try {
    return await openSafetensors(source);
  } catch (error) {
    await source.close();
    throw error;
  }
}
