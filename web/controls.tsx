import { type ComponentChildren, Fragment } from "preact";
import { useId, useLayoutEffect, useRef, useState } from "preact/hooks";
import { unbroken } from "../src/report/format.ts";
import type { Finding } from "./methods.ts";

/** One of a few values, all in view: radio buttons that look like a segmented control. */
export function Choice<T extends string>(props: {
  label: string;
  values: readonly T[];
  value: T;
  show?: (value: T) => string;
  onChange: (value: T) => void;
}) {
  const name = useId();
  if (props.values.length < 2) return null;
  return (
    <fieldset class="choice">
      <legend>{props.label}</legend>
      <div>
        {props.values.map((value) => (
          <label key={value}>
            <input
              type="radio"
              name={name}
              checked={value === props.value}
              onChange={() => {
                props.onChange(value);
              }}
            />
            <span>{props.show?.(value) ?? value}</span>
          </label>
        ))}
      </div>
    </fieldset>
  );
}

/** One of many values. */
export function Select(props: {
  label: string;
  values: readonly string[];
  value: string;
  show?: (value: string) => string;
  onChange: (value: string) => void;
}) {
  const id = useId();
  if (props.values.length < 2) return null;
  return (
    <div class="select">
      <label for={id}>{props.label}</label>
      <select id={id} value={props.value} onChange={(event) => props.onChange(event.currentTarget.value)}>
        {props.values.map((value) => (
          <option key={value} value={value}>
            {props.show?.(value) ?? value}
          </option>
        ))}
      </select>
    </div>
  );
}

/** A share between a least one and 1. */
export function Slider(props: {
  label: string;
  value: number;
  least: number;
  step: number;
  show: (value: number) => string;
  onChange: (value: number) => void;
}) {
  const id = useId();
  return (
    <div class="slider">
      <label for={id}>{props.label}</label>
      <div>
        <input
          id={id}
          type="range"
          min={props.least}
          max={1}
          step={props.step}
          value={props.value}
          aria-valuetext={props.show(props.value)}
          onInput={(event) => props.onChange(Number(event.currentTarget.value))}
        />
        <output for={id}>{props.show(props.value)}</output>
      </div>
    </div>
  );
}

/** A box that scrolls sideways by itself, so that the page never does; reachable by keyboard, and says so where there is more than fits. */
export function Scroll(props: { label: string; children: ComponentChildren }) {
  const box = useRef<HTMLElement>(null);
  const [hidden, setHidden] = useState(false);
  useLayoutEffect(() => {
    const element = box.current;
    if (element === null) return;
    const look = () => setHidden(element.scrollWidth > element.clientWidth + 1);
    look();
    const observer = new ResizeObserver(look);
    observer.observe(element);
    if (element.firstElementChild !== null) observer.observe(element.firstElementChild);
    return () => observer.disconnect();
  }, []);
  return (
    <>
      {hidden && (
        <p class="scroll-hint" aria-hidden="true">
          More to the right: scroll sideways →
        </p>
      )}
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: a box that scrolls has to be reachable by keyboard (WCAG 2.1.1) */}
      <section class={hidden ? "scroll hidden" : "scroll"} aria-label={props.label} tabIndex={0} ref={box}>
        {props.children}
      </section>
    </>
  );
}

/** A section of the report: an anchor, a heading and what it holds. */
export function Section(props: { id: string; title: string; children: ComponentChildren }) {
  return (
    <section class="section" id={props.id} aria-labelledby={`${props.id}-title`}>
      <h2 id={`${props.id}-title`} tabIndex={-1}>
        {props.title}
      </h2>
      {props.children}
    </section>
  );
}

/** A text to take elsewhere, with a button that copies it. */
export function Copied({ label, text }: { label: string; text: string }) {
  const [done, setDone] = useState(false);
  const copy = () =>
    navigator.clipboard?.writeText(text).then(
      () => setDone(true),
      () => setDone(false),
    );
  return (
    <div class="copied">
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: a box that scrolls has to be reachable by keyboard (WCAG 2.1.1) */}
      <section class="command" tabIndex={0} aria-label={label}>
        <pre>{text}</pre>
      </section>
      <button type="button" class="plain" onClick={copy} aria-label={`Copy: ${label}`}>
        {done ? "Copied" : "Copy"}
      </button>
    </div>
  );
}

/** A name and what stands under it, for a `dl` of class `facts`. */
export function Fact({ name, children }: { name: string; children: ComponentChildren }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{children}</dd>
    </div>
  );
}

/** A number at a glance with its name and a note, for a `dl` of class `figures`. */
export function Figure(props: { name: string; value: string; note: string; failed?: boolean }) {
  return (
    <div class={props.failed ? "failed" : ""}>
      <dt>{props.name}</dt>
      <dd>
        <b>{props.value}</b>
        <span>{props.note}</span>
      </dd>
    </div>
  );
}

/** Sentences that say what came out: the claim, and the numbers that it rests on. */
export function Findings({ label, findings }: { label: string; findings: readonly Finding[] }) {
  return (
    <ul class="findings" aria-label={label}>
      {findings.map(({ claim, grounds }) => (
        <li key={claim}>
          <strong>{claim}</strong> {unbroken(grounds)}
        </li>
      ))}
    </ul>
  );
}

/** A case's name, which may break after its slashes on a narrow page. */
export function CaseName({ name }: { name: string }) {
  const parts = name.split("/");
  return (
    <>
      {parts.map((part, i) => (
        <Fragment key={part}>
          {i > 0 && (
            <>
              /<wbr />
            </>
          )}
          {part}
        </Fragment>
      ))}
    </>
  );
}

/** What a reader has to know before the numbers; nothing where there is nothing. */
export function Warnings({ lines }: { lines: readonly string[] }) {
  if (lines.length === 0) return null;
  return (
    <section class="warnings" aria-label="Warnings">
      <h2>Read this first</h2>
      <ul>
        {lines.map((line) => (
          <li key={line}>{line}</li>
        ))}
      </ul>
    </section>
  );
}
