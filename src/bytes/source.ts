/** Bytes that can be read from anywhere in them: a file, a part of a URL, a Blob. */
export interface ByteSource {
  /** What to call it in messages: a path or an address. */
  readonly name: string;
  /** Length in bytes. */
  readonly size: number;
  /** Reads come over a network, so that nothing should be read that is not asked for. */
  readonly overNetwork?: boolean;
  /**
   * Bytes [offset, offset + length).
   *
   * @param into memory of that length that a source may fill instead of taking new memory; what counts is what is returned
   * @throws UserError if the range reaches beyond the end
   */
  read(offset: number, length: number, into?: Uint8Array): Promise<Uint8Array>;
  /** Nothing can be read after it. */
  close(): Promise<void>;
}
