/** Writes the wire format of Protocol Buffers: just what an ONNX file needs (protobuf.dev/programming-guides/encoding). */
export class Message {
  readonly #parts: Uint8Array[] = [];
  #length = 0;

  /** An integer field, also for enums. Zero is written as well: ONNX tells an absent attribute from 0. */
  int(field: number, value: number | bigint): this {
    return this.#varint((BigInt(field) << 3n) | 0n).#varint(BigInt.asUintN(64, BigInt(value)));
  }

  ints(field: number, values: Iterable<number | bigint>): this {
    for (const value of values) this.int(field, value);
    return this;
  }

  text(field: number, value: string): this {
    return this.bytes(field, new TextEncoder().encode(value));
  }

  message(field: number, value: Message): this {
    this.#varint((BigInt(field) << 3n) | 2n).#varint(BigInt(value.#length));
    for (const part of value.#parts) this.#push(part);
    return this;
  }

  bytes(field: number, value: Uint8Array): this {
    return this.#varint((BigInt(field) << 3n) | 2n)
      .#varint(BigInt(value.length))
      .#push(value);
  }

  finish(): Uint8Array {
    const out = new Uint8Array(this.#length);
    let at = 0;
    for (const part of this.#parts) {
      out.set(part, at);
      at += part.length;
    }
    return out;
  }

  #varint(value: bigint): this {
    const out: number[] = [];
    let rest = value;
    do {
      const low = Number(rest & 0x7fn);
      rest >>= 7n;
      out.push(rest > 0n ? low | 0x80 : low);
    } while (rest > 0n);
    return this.#push(Uint8Array.from(out));
  }

  #push(part: Uint8Array): this {
    this.#parts.push(part);
    this.#length += part.length;
    return this;
  }
}
