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
 * Keeps the parts of a capture as safetensors files in a folder: they take no memory, and an interrupted run goes on after the last of them.
 *
 * @param identity distinguishes them from those of other pairs or another model
 * @param beforeSave is called before a part is put in its place; what it throws keeps the part out
 * @throws UserError, when it saves, if a number is not finite or the disk is full; when it reads, if the file has been removed or damaged
 */
export function fileStore(
  folder: string,
  identity: string,
  beforeSave: () => void = () => {},
): Store & { close(): Promise<void> } {
  /** Those used last come last. */
  const open = new Map<string, TensorFile>();
  const path = (part: string) => join(folder, `${part}-${identity.slice(0, 16)}.safetensors`);
  const closeOne = async (part: string) => {
    const tensors = open.get(part);
    open.delete(part);
    await tensors?.source.close();
  };
  const file = async (part: string) => {
    const known = open.get(part) ?? (await openPart(path(part)));
    open.delete(part);
    open.set(part, known);
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
  const isWhole = async (part: string) => {
    const tensors = await file(part);
    const parts: [string, Uint8Array][] = [];
    for (const [name, { offset, length }] of tensors.tensors) {
      parts.push([name, await tensors.source.read(offset, length)]);
    }
    if (tensors.metadata.sha256 === sumOf(parts)) return true;
    await closeOne(part);
    return false;
  };
  return {
    // Of what is asked for so, a file that cannot be read is computed again like one that is not there.
    has: (part) => inTurn(() => isWhole(part).catch(() => false)),
    save: (part, tensors) =>
      inTurn(async () => {
        await closeOne(part);
        for (const [name, data] of tensors) checkActivations(data, `${name} of ${part}`);
        const hash = sumOf([...tensors].map(([name, data]) => [name, bytesOf(data)]));
        const bytes = writeSafetensors(
          new Map([...tensors].map(([name, data]) => [name, { shape: [data.length], data: data as Float32Array }])),
          { dtype: "F32", metadata: { sha256: hash } },
        );
        beforeSave();
        await rm(path(part), { recursive: true, force: true });
        await writeFileAtomic(path(part), bytes);
      }),
    read: (part, tensor): Promise<Floats | undefined> =>
      inTurn(async () => {
        const tensors = await file(part).catch((error) => {
          throw new UserError(
            `The unfinished work was removed or damaged (${path(part)}: ${messageOf(error)}). Run the same command again.`,
          );
        });
        return tensors.tensors.has(tensor) ? tensors.read(tensor) : undefined;
      }),
    remove: (part) =>
      inTurn(async () => {
        await closeOne(part);
        await rm(path(part), { force: true });
      }),
    close: () =>
      inTurn(async () => {
        for (const part of [...open.keys()]) await closeOne(part);
      }),
  };
}

const bytesOf = (data: Floats) => new Uint8Array(data.buffer, data.byteOffset, data.byteLength);

/** One SHA-256 of named bytes, in whatever order. */
function sumOf(parts: readonly (readonly [name: string, bytes: Uint8Array])[]): string {
  const hash = newSha256();
  for (const [name, bytes] of parts.toSorted(([a], [b]) => (a < b ? -1 : 1))) {
    hash.update(new TextEncoder().encode(`${JSON.stringify(name)} ${bytes.length}\n`));
    hash.update(bytes);
  }
  return hash.hex();
}

function checkActivations(values: Floats, what: string): void {
  const at = values.findIndex((value: number) => !Number.isFinite(value));
  if (at < 0) return;
  throw new UserError(
    `activations ${what}: expected finite numbers, got ${values[at]}. The model overflows in float32: try --precision float64, or check its weights.`,
  );
}

async function openPart(path: string): Promise<TensorFile> {
  const source = await openFile(path);
  try {
    return await openSafetensors(source);
  } catch (error) {
    await source.close();
    throw error;
  }
}
