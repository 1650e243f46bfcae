import type { ReportData } from "../../src/report/data.ts";
import { signed, tokenText } from "../../src/report/format.ts";
import type { KnownFeature } from "../known.ts";

/** The tokens whose logits the decoder row raises and lowers most by the direct path. */
export function PromotedTokens({ of: { card, cardSite }, data }: { of: KnownFeature; data: ReportData }) {
  if (card === null || data.cards === null) return null;
  const { tokens } = data.cards;
  if (card.promotes === null || card.suppresses === null) {
    return cardSite?.direct == null ? null : <p class="note">No promoted tokens: {cardSite.direct}.</p>;
  }
  const list = (name: string, of: NonNullable<typeof card.promotes>) => (
    <div>
      <h4>{name}</h4>
      <ol class="logits">
        {of.token.map((place, i) => (
          <li key={i}>
            <span class="word">{tokenText(tokens[place] ?? "").trim()}</span> <span>{signed(of.logit[i]!)}</span>
          </li>
        ))}
      </ol>
    </div>
  );
  return (
    <>
      <h4>Promoted and suppressed tokens</h4>
      <p class="note">Logits per unit of its activation along the direct path, without the scale of the final norm.</p>
      <div class="logit-lists">
        {list("raises", card.promotes)}
        {list("lowers", card.suppresses)}
      </div>
    </>
  );
}
