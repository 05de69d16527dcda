/** A bounded, line-based view of a log stream that arrives in pieces. */

// CSI and OSC sequences, and control characters other than tab, newline and carriage return.
const ESCAPES =
  /\u001b\[[0-?]*[ -/]*[@-~]|\u001b\][^\u0007]*(?:\u0007|\u001b\\)|[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f]/g;

export class LogBuffer {
  /**
   * @param maxLines Most lines kept; the oldest go first.
   * @param maxLineLength Characters after which a line is cut, so that a binary dump cannot fill the page.
   */
  constructor(
    readonly maxLines = 5000,
    readonly maxLineLength = 4000
  ) {}

  /** Complete lines and the one being written, oldest first. A new array after each change. */
  get lines(): readonly string[] {
    return this._lines;
  }

  /** Number of lines that no longer are in `lines`. */
  get dropped(): number {
    return this._dropped;
  }

  /** Offset in bytes up to which the stream has been taken. */
  get end(): number {
    return this._end;
  }

  /**
   * Takes a piece that stands for the bytes from `start` to `end`; bytes that are no text make it shorter or longer
   * than that. A piece already seen is ignored, so that a resumed stream repeats nothing.
   *
   * @returns false if bytes between the last piece and this one are missing.
   */
  append(text: string, start: number, end: number): boolean {
    if (start > this._end) {
      return false;
    }
    if (end <= this._end) {
      return true;
    }
    const skip = this._end - start;
    this._end = end;
    this._write(skip === 0 ? text : new TextDecoder().decode(new TextEncoder().encode(text).subarray(skip)));
    return true;
  }

  /** Starts again at byte `offset`, for a stream whose beginning is not wanted. */
  restart(offset: number): void {
    this._lines = [];
    this._dropped = 0;
    this._end = offset;
    this._open = false;
  }

  private _write(raw: string): void {
    const lines = this._lines.slice();
    const text = raw.replace(ESCAPES, '').replace(/\r\n/g, '\n');
    text.split('\n').forEach((part, index) => {
      // A carriage return begins the line again, as progress bars do.
      const piece = part.slice(part.lastIndexOf('\r') + 1);
      const restarted = part.includes('\r');
      if (index === 0 && this._open && lines.length > 0) {
        const last = lines[lines.length - 1] ?? '';
        lines[lines.length - 1] = this._cut(restarted ? piece || last : last + piece);
      } else {
        lines.push(this._cut(piece));
      }
    });
    this._open = true;
    const excess = lines.length - this.maxLines;
    if (excess > 0) {
      lines.splice(0, excess);
      this._dropped += excess;
    }
    this._lines = lines;
  }

  private _cut(line: string): string {
    return line.length > this.maxLineLength ? `${line.slice(0, this.maxLineLength)}…` : line;
  }

  private _lines: string[] = [];
  private _dropped = 0;
  private _end = 0;
  private _open = false;
}

/** Number of leading bytes that hold whole UTF-8 characters: up to three may wait for the rest of theirs. */
export function wholeCharacters(bytes: Uint8Array): number {
  for (let back = 1; back <= Math.min(3, bytes.length); back++) {
    const byte = bytes[bytes.length - back] ?? 0;
    if (byte >= 0xc0) {
      const needed = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2;
      return needed > back ? bytes.length - back : bytes.length;
    }
    if (byte < 0x80) {
      break;
    }
  }
  return bytes.length;
}

/** Indices of the lines that contain `query`, case-insensitively; none for an empty query. */
export function searchLines(lines: readonly string[], query: string): number[] {
  const wanted = query.toLowerCase();
  if (!wanted) {
    return [];
  }
  return lines.flatMap((line, index) => (line.toLowerCase().includes(wanted) ? [index] : []));
}
