import { rm } from "node:fs/promises";
import { join } from "node:path";
import { openFile } from "#file";
import { openSafetensors, writeSafetensors } from "../bytes/safetensors.ts";
import type { TensorFile } from "../bytes/tensor-file.ts";
import type { Floats } from "../capture/passes.ts";
import type { Store } from "../capture/store.ts";
import { writeFileAtomic } from "./files.ts";

/** Files kept open at a time. */
const mostOpen = 64;

/**
 * Keeps the parts of a capture as safetensors files in a folder: they take no memory, and an interrupted run goes on after the last of them.
 *
 * @param identity distinguishes them from those of other pairs or another model
 */
export function fileStore(folder: string, identity: string): Store & { close(): Promise<void> } {
  const open = new Map<string, Promise<TensorFile>>();
  const path = (part: string) => join(folder, `${part}-${identity.slice(0, 16)}.safetensors`);
  const closeOne = async (part: string) => {
    const tensors = open.get(part);
    open.delete(part);
    await (await tensors)?.source.close();
  };
  const file = async (part: string) => {
    const known = open.get(part);
    if (known) return known;
    if (open.size >= mostOpen) await closeOne([...open.keys()][0]!);
    const opened = openPart(path(part));
    open.set(part, opened);
    opened.catch(() => open.delete(part));
    return opened;
  };
  return {
    // A file that cannot be read is computed again like one that is not there.
    has: (part) =>
      file(part).then(
        () => true,
        () => false,
      ),
    async save(part, tensors) {
      const bytes = writeSafetensors(
        new Map([...tensors].map(([name, data]) => [name, { shape: [data.length], data: data as Float32Array }])),
        { dtype: "F32" },
      );
      await writeFileAtomic(path(part), bytes);
    },
    async read(part, tensor): Promise<Floats | undefined> {
      const tensors = await file(part);
      return tensors.tensors.has(tensor) ? tensors.read(tensor) : undefined;
    },
    async remove(part) {
      await closeOne(part);
      await rm(path(part), { force: true });
    },
    async close() {
      for (const part of [...open.keys()]) await closeOne(part);
    },
  };
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
