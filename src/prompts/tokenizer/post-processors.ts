import { isWhole } from "../../amounts.ts";
import { byType, type Part } from "./part.ts";

/** The tokens that stand before and behind those of every text. */
export interface Frame {
  readonly before: readonly number[];
  readonly behind: readonly number[];
}

/**
 * What the post-processor of a tokenizer.json puts around a text.
 *
 * @param size ids are below it
 * @throws UserError naming a kind, field or id that is not understood
 */
export function frameOf(part: Part, size: number): Frame {
  const idOf = (value: unknown, place: Part, key: string): number =>
    isWhole(value) && value < size ? value : place.fail(`ids from 0 to ${size - 1}`, key, `${JSON.stringify(value)}`);
  /** Of BERT and RoBERTa: the pairs of token and id in `cls` and `sep`. */
  const around = (processor: Part): Frame => {
    const [before, behind] = ["cls", "sep"].map((key) => {
      const pair = processor.get(key);
      return [idOf(Array.isArray(pair) ? pair[1] : pair, processor, key)];
    });
    return { before: before!, behind: behind! };
  };
  const frame = (processor: Part): Frame =>
    byType(processor, {
      BertProcessing: around,
      ByteLevel: () => ({ before: [], behind: [] }),
      RobertaProcessing: around,
      Sequence: (sequence) =>
        sequence
          .parts("processors")
          .map(frame)
          .reduce<Frame>(
            (inner, outer) => ({
              before: [...outer.before, ...inner.before],
              behind: [...inner.behind, ...outer.behind],
            }),
            { before: [], behind: [] },
          ),
      TemplateProcessing: (template) => {
        const known = template.part("special_tokens");
        const pieces = template.parts("single").map((piece) => {
          const special = piece.part("SpecialToken");
          if (!special) return piece.part("Sequence")?.text("id") ?? piece.fail("a SpecialToken or a Sequence");
          const token = known?.part(special.text("id")) ?? special.fail("one of special_tokens", "id");
          return token.list("ids").map((id) => idOf(id, token, "ids"));
        });
        const at = pieces.indexOf("A");
        const parts = [pieces.slice(0, at), pieces.slice(at + 1)];
        if (at === -1 || parts.flat().some((piece) => typeof piece === "string")) {
          return template.fail("the text once, and no other", "single");
        }
        const [before, behind] = parts.map((side) => (side as number[][]).flat());
        return { before: before!, behind: behind! };
      },
    });
  return frame(part);
}
