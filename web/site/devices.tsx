import type { WebDevice } from "../../src/graph/session.web.ts";
import { percentOf, seconds, unbroken, whole } from "../../src/report/format.ts";
import { Scroll } from "../controls.tsx";
import type { Engine, EngineState } from "./engine.ts";

/** A device that was asked for, and how far it is; null until then. */
export type Used = { readonly engine: Engine; readonly state: EngineState } | null;

const names: Readonly<Record<WebDevice, string>> = { cpu: "WebAssembly", webgpu: "WebGPU" };

/** What a reader calls a device. */
export const deviceName = (device: WebDevice): string => names[device];

/** The device that answers where the reader has not chosen: of those that compute what they should, the faster one. */
export function fasterOf(cpu: Used, webgpu: Used): WebDevice {
  const [a, b] = [cpu?.state, webgpu?.state];
  return a?.at === "ready" && b?.at === "ready" && b.seconds < a.seconds ? "webgpu" : "cpu";
}

/** What stands above the fields: how far the page is in opening, or what answers and how exact it is. */
export function Opening({ used }: { used: Used }) {
  if (used === null) return <p class="note">Loading …</p>;
  const { engine, state } = used;
  switch (state.at) {
    case "failed":
      return (
        <p class="problem" role="alert">
          {state.error}
        </p>
      );
    case "loading":
      return (
        <p class="note opening">
          <progress aria-label="Loading" max={state.total || 1} value={state.done} />{" "}
          {state.total === 0 ? "Loading …" : loadingText(state)}
        </p>
      );
    case "checking":
      return (
        <p class="note opening">
          <progress aria-label="Comparing" /> Computing a first pair, to compare its effects with those that Node found
          …
        </p>
      );
    case "ready":
      return (
        <p class="note opening" role="status">
          Computed by {deviceName(engine.device)} in this tab
          {engine.device === "cpu" && `, ${threadsText(engine.threads)}`}. Its effects differ from Node's in float64 by
          at most {unbroken(percentOf(state.share))} of the largest.
        </p>
      );
  }
}

function loadingText({ done, total, since }: Extract<EngineState, { at: "loading" }>): string {
  const took = (performance.now() - since) / 1000;
  const left = (took * (total - done)) / done;
  return `${megabytes(done)} of ${megabytes(total)}${took > 1 ? `, about ${seconds(left)} left` : ""}: the model, its SAEs and the runtime`;
}

const megabytes = (bytes: number) => `${whole(Math.round(bytes / 1e6))} MB`;
const threadsText = (threads: number) => (threads === 1 ? "one thread" : `${threads} threads`);

/** All devices: whether each is used, how exact it is and how long it takes. */
export function Devices(props: { cpu: Used; webgpu: Used; adapter: string | null; used: WebDevice }) {
  const { cpu, webgpu, adapter, used } = props;
  return (
    <section aria-labelledby="devices">
      <h2 id="devices">What computes</h2>
      <p>
        When the page opens, each device finds the effects of the pair that the page begins with, and they are compared
        with those that Node found in float64 when the site was built: the largest difference at any site, as a share of
        the site's largest effect. Of the devices that pass, the faster one answers.
      </p>
      <Scroll label="Devices">
        <table class="numbers devices">
          <thead>
            <tr>
              <th scope="col">device</th>
              <th scope="col">threads</th>
              <th scope="col">largest difference</th>
              <th scope="col">at</th>
              <th scope="col">allowed</th>
              <th scope="col">the pair, asked again</th>
              <th scope="col" class="text">
                state
              </th>
            </tr>
          </thead>
          <tbody>
            <Row name="WebAssembly, SIMD" of={cpu} threads={cpu?.engine.threads ?? null} isUsed={used === "cpu"} />
            <Row
              name={`WebGPU${adapter === null ? "" : `, ${adapter}`}`}
              of={webgpu}
              threads={null}
              isUsed={used === "webgpu"}
              otherwise={cpu?.state.at === "ready" ? "this browser has no adapter for it" : "tried after WebAssembly"}
            />
          </tbody>
        </table>
      </Scroll>
      {!crossOriginIsolated && (
        <p class="note">
          One thread: more need a server that isolates the page with the headers Cross-Origin-Opener-Policy: same-origin
          and Cross-Origin-Embedder-Policy: require-corp.
        </p>
      )}
    </section>
  );
}

function Row(props: { name: string; of: Used; threads: number | null; isUsed: boolean; otherwise?: string }) {
  const { name, of, threads, isUsed, otherwise = "loading" } = props;
  const ready = of?.state.at === "ready" ? of.state : null;
  return (
    <tr>
      <th scope="row">{name}</th>
      <td>{threads ?? ""}</td>
      <td>{ready && percentOf(ready.share)}</td>
      <td>{ready?.site ?? ""}</td>
      <td>{ready && percentOf(ready.tolerance)}</td>
      <td>{ready && seconds(ready.seconds)}</td>
      <td class="text">{of === null ? otherwise : stateText(of.state, isUsed)}</td>
    </tr>
  );
}

function stateText(state: EngineState, isUsed: boolean): string {
  switch (state.at) {
    case "loading":
      return state.total === 0 ? "loading" : `loading, ${megabytes(state.done)} of ${megabytes(state.total)}`;
    case "checking":
      return "computing the pair";
    case "ready":
      return isUsed ? "answers" : "passed, not used";
    case "failed":
      return `not used: ${state.error}`;
  }
}
