import { useEffect, useMemo, useState } from "preact/hooks";
import type { WebDevice } from "../../src/graph/session.web.ts";
import { Choice } from "../controls.tsx";
import { Bench } from "../live/bench.tsx";
import type { AskLive } from "../live/question.ts";
import { ThemeChoice } from "../theme.tsx";
import { Devices, deviceName, fasterOf, Opening, type Used } from "./devices.tsx";
import { openEngine } from "./engine.ts";
import type { Site } from "./messages.ts";
import { readSite } from "./site-file.ts";
import { findAdapter } from "./webgpu.ts";

/** Opens the model on a device once the site's description is there. */
function useEngine(device: WebDevice, site: Site | null): Used {
  const [used, setUsed] = useState<Used>(null);
  useEffect(() => {
    if (site === null) return;
    const since = performance.now();
    const engine = openEngine(device, site, (state) => setUsed({ engine, state }));
    setUsed({ engine, state: { at: "loading", done: 0, total: 0, since } });
    return () => engine.close();
  }, [device, site]);
  return used;
}

/** The page that computes by itself: the embedded model and its SAEs in this tab. */
export function App() {
  const [site, setSite] = useState<Site | null>(null);
  const [problem, setProblem] = useState<string | null>(null);
  const [adapter, setAdapter] = useState<string | null>(null);
  const [wanted, setWanted] = useState<WebDevice | null>(null);
  useEffect(() => {
    readSite().then(setSite, (error: Error) => setProblem(error.message));
  }, []);
  const cpu = useEngine("cpu", site);
  const isOpen = cpu?.state.at === "ready";
  useEffect(() => {
    if (isOpen) void findAdapter().then(setAdapter);
  }, [isOpen]);
  // WebGPU is tried in the background: until it has shown what it can, WebAssembly answers.
  const webgpu = useEngine("webgpu", adapter === null ? null : site);
  const hasChoice = isOpen && webgpu?.state.at === "ready";
  const device = hasChoice ? (wanted ?? fasterOf(cpu, webgpu)) : "cpu";
  const used = device === "webgpu" ? webgpu : cpu;
  const engine = used?.engine;
  const ask = useMemo<AskLive>(
    () => (kind, request) => engine?.ask(kind, request) ?? Promise.reject(new Error("The page is still loading.")),
    [engine],
  );
  return (
    <>
      <a class="skip" href="#main">
        Skip to the content
      </a>
      <div class="top">
        <nav aria-label="Parts">
          <a href="#bench">Pairs</a>
          <a href="#devices">What computes</a>
        </nav>
        <ThemeChoice />
      </div>
      <main id="main" class="serve site">
        <section class="section" aria-labelledby="title">
          <h1 id="title">Sparse features of a pair, in this tab</h1>
          <p>
            Type a pair of prompts with its two answers. A language model of 6 layers, trained on generated English, and
            its 18 SAEs compute here, in your browser: nothing that you type is sent or stored. Effects are changes of m
            = logit(patch answer) − logit(clean answer), in logits: a positive one moves the model to the patch answer.
          </p>
          {problem === null ? (
            <Opening used={used} />
          ) : (
            <p class="problem" role="alert">
              {problem}
            </p>
          )}
          <div id="bench">
            <Bench
              model={site?.model.name ?? ""}
              ask={ask}
              choices={
                hasChoice && (
                  <Choice
                    label="Device"
                    values={["cpu", "webgpu"]}
                    value={device}
                    show={deviceName}
                    onChange={setWanted}
                  />
                )
              }
            />
          </div>
          <Devices cpu={cpu} webgpu={webgpu} adapter={adapter} used={device} />
        </section>
      </main>
    </>
  );
}
