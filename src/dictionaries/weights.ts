import { checkFinite, type TensorFile } from "../bytes/safetensors.ts";
import { UserError } from "../errors.ts";
import type { SiteName } from "../site.ts";
import type { Activation, Dictionary } from "./dictionary.ts";

/**
 * The dictionary in a file with W_enc[D,F], W_dec[F,D], b_enc[F], b_dec[D] and, for JumpReLU, threshold[F].
 *
 * @param subtractDecoderBias whether b_dec is subtracted from x before it is encoded
 * @param sha256 gives its identity
 * @throws UserError if a tensor is missing or its shape does not fit the others'
 */
export function dictionaryOf(
  file: TensorFile,
  site: SiteName,
  kind: "relu" | "jumprelu",
  subtractDecoderBias: boolean,
  sha256: () => Promise<string>,
): Dictionary {
  const name = file.source.name;
  const [inputWidth, width] = matrixShape(file);
  checkShape(file, "W_dec", [width, inputWidth]);
  checkShape(file, "b_enc", [width]);
  checkShape(file, "b_dec", [inputWidth]);
  if (kind === "jumprelu") checkShape(file, "threshold", [width]);

  const read = async (tensor: string) => {
    const values = await file.read(tensor);
    checkFinite(values, tensor, name);
    return values;
  };
  const activation = async (): Promise<Activation> =>
    kind === "relu" ? { kind } : { kind, threshold: (await read("threshold")).map((θ) => Math.max(θ, 0)) };
  return {
    name,
    site,
    inputWidth,
    width,
    kind,
    async encoder() {
      return {
        weight: await read("W_enc"),
        bias: await read("b_enc"),
        ...(subtractDecoderBias ? { inputBias: await read("b_dec") } : {}),
        activation: await activation(),
      };
    },
    decoder: () => read("W_dec"),
    async decoderRows(features) {
      const rows = await file.rows("W_dec", features);
      checkFinite(rows, "W_dec", name);
      return rows;
    },
    decoderBias: () => read("b_dec"),
    sha256,
    close: () => file.source.close(),
  };
}

function matrixShape(file: TensorFile): readonly [number, number] {
  const shape = file.tensors.get("W_enc")?.shape;
  const [rows, columns] = shape ?? [];
  if (shape?.length !== 2 || !rows || !columns) {
    const got = shape ? `[${shape}]` : "none";
    throw new UserError(
      `SAE weight W_enc: expected a matrix [input width, features], got ${got} in ${file.source.name}. Check that it is an SAE.`,
    );
  }
  return [rows, columns];
}

function checkShape(file: TensorFile, tensor: string, expected: readonly number[]): void {
  const shape = file.tensors.get(tensor)?.shape;
  if (shape?.length !== expected.length || shape.some((n, i) => n !== expected[i])) {
    const got = shape ? `[${shape}]` : "none";
    throw new UserError(
      `SAE weight ${tensor}: expected shape [${expected}], got ${got} in ${file.source.name}. Check that the file is complete.`,
    );
  }
}
