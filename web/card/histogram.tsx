import type { FeatureCard } from "../../src/report/cards.ts";
import { number, percent, whole } from "../../src/report/format.ts";
import type { KnownFeature } from "../known.ts";

type Activations = Pick<FeatureCard["activations"], "tokens" | "active" | "max" | "histogram">;

/** How often the feature is active, and how much: on the run's prompts, and in a corpus. */
export function Histogram({ of: { card, name } }: { of: KnownFeature }) {
  if (card === null) return <p class="empty">This page has no activations of {name}.</p>;
  return (
    <>
      <Activity title="The run's clean prompts" of={card.activations} />
      {card.corpus !== null && <Activity title="Corpus" of={card.corpus} />}
    </>
  );
}

const [width, height] = [320, 72];

function Activity({ title, of }: { title: string; of: Activations }) {
  const { histogram, tokens, active, max } = of;
  const density = tokens === 0 ? "–" : percent(active / tokens);
  const most = Math.max(1, ...(histogram?.counts ?? []));
  const bins = histogram?.counts.length ?? 0;
  const label = `${title}: active at ${density} of ${whole(tokens)} tokens, largest activation ${number(max)}`;
  return (
    <figure class="histogram">
      <figcaption>
        <b>{title}</b> active at {density} of {whole(tokens)} tokens, largest {number(max)}
      </figcaption>
      {histogram !== null && (
        <svg viewBox={`0 0 ${width} ${height + 16}`} role="img" aria-label={label}>
          {histogram.counts.map((count, i) => {
            // The square root keeps rare large activations in sight.
            const tall = count === 0 ? 0 : Math.max(1, height * Math.sqrt(count / most));
            const range = `${number(i * histogram.width)} to ${number((i + 1) * histogram.width)}: ${whole(count)} tokens`;
            return (
              <rect
                key={i}
                class="bin"
                x={((i * width) / bins).toFixed(2)}
                y={(height - tall).toFixed(2)}
                width={Math.max(0.5, width / bins - 1).toFixed(2)}
                height={tall.toFixed(2)}
              >
                <title>{range}</title>
              </rect>
            );
          })}
          <text x="0" y={height + 13}>
            0
          </text>
          <text class="end" x={width} y={height + 13}>
            {number(bins * histogram.width)}
          </text>
        </svg>
      )}
    </figure>
  );
}
