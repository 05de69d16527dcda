/** Reading a stream of a log from where its buffer ends. */
import type { Client } from '../client';
import type { LogBuffer } from '../logbuffer';

/** What of a long log is shown to begin with. */
const TAIL_BYTES = 1 << 20;

/** Takes all there is into the buffer; calls `grew` after each piece, and stops when `wanted` says so. */
export async function readLog(
  client: Client,
  id: string,
  stream: Parameters<Client['log']>[1],
  log: LogBuffer,
  grew: () => void,
  wanted: () => boolean
): Promise<void> {
  for (let first = log.end === 0; wanted(); first = false) {
    const piece = await client.log(id, stream, log.end);
    if (!piece || piece.end <= log.end) {
      return;
    }
    if (first && piece.size > 2 * TAIL_BYTES) {
      log.restart(piece.size - TAIL_BYTES);
      continue;
    }
    if (!log.append(piece.text, piece.start, piece.end)) {
      log.restart(piece.start);
      log.append(piece.text, piece.start, piece.end);
    }
    grew();
    if (log.end >= piece.size) {
      return;
    }
  }
}
