import type { WebDevice } from "../../src/graph/session.web.ts";
import type { LiveAnswer, LiveAsks, LiveKind } from "../../src/live/questions.ts";
import type { FromWorker, Ready, Site, ToWorker } from "./messages.ts";
import workerAddress from "./worker.ts?worker&url";

/** How far a device is. */
export type EngineState =
  | { readonly at: "loading"; readonly done: number; readonly total: number; readonly since: number }
  | { readonly at: "checking" }
  | ({ readonly at: "ready" } & Ready)
  | { readonly at: "failed"; readonly error: string };

/** A device with the model on it, in a worker of its own. */
export interface Engine {
  readonly device: WebDevice;
  readonly threads: number;
  /** @throws Error with one line if it cannot be answered */
  ask<K extends LiveKind>(kind: K, request: LiveAsks[K]["request"]): Promise<LiveAnswer & LiveAsks[K]["found"]>;
  close(): void;
}

/** More threads only wait for one another in a model of this size. */
const mostThreads = 4;

/** Threads that a page may use: one, unless its server says that it is isolated from other origins. */
const threadsHere = () => (crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, mostThreads) : 1);

/** Opens the model on a device. @param onState told how far it is */
export function openEngine(device: WebDevice, site: Site, onState: (state: EngineState) => void): Engine {
  const threads = threadsHere();
  const worker = new Worker(underPolicy(new URL(workerAddress, document.baseURI).href), { type: "module" });
  const waiting = new Map<number, { resolve: (answer: never) => void; reject: (error: Error) => void }>();
  let failed: string | undefined;
  const fail = (error: string) => {
    failed = error;
    worker.terminate();
    for (const { reject } of waiting.values()) reject(new Error(error));
    waiting.clear();
    onState({ at: "failed", error });
  };
  const since = performance.now();
  worker.onerror = ({ message }) => fail(`The worker ended (${message || "it could not be loaded"}). Reload the page.`);
  worker.onmessage = ({ data }: MessageEvent<FromWorker>) => {
    switch (data.type) {
      case "loading":
        return onState({ at: "loading", done: data.done, total: data.total, since });
      case "checking":
        return onState({ at: "checking" });
      case "ready":
        return onState({ at: "ready", ...data });
      case "failed":
        return fail(data.error);
      case "answer":
        waiting.get(data.id)?.resolve(data.answer as never);
        break;
      case "problem":
        waiting.get(data.id)?.reject(new Error(data.error));
    }
    waiting.delete(data.id);
  };
  const tell = (message: ToWorker) => worker.postMessage(message);
  tell({ type: "open", device, threads, site, base: new URL(".", document.baseURI).href });
  let asked = 0;
  return {
    device,
    threads,
    ask: (kind, request) =>
      new Promise((resolve, reject) => {
        if (failed !== undefined) return reject(new Error(failed));
        const id = asked++;
        waiting.set(id, { resolve, reject });
        tell({ type: "ask", id, kind, request });
      }),
    close: () => worker.terminate(),
  };
}

/** The address of a script that runs another one under this page's policy: a worker that is loaded from the site would have none. */
const underPolicy = (address: string) =>
  URL.createObjectURL(new Blob([`import ${JSON.stringify(address)};`], { type: "text/javascript" }));
