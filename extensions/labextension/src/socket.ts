/**
 * An event stream of the service as the body of a response, over a WebSocket: a browser opens six plain connections to a host, and
 * every open stream would hold one of them.
 */
import { ServiceProblem } from './problem';
import type { IProblem } from './types';

/** Settles when the service has answered; rejects with its problem, or without one when there is no connection. */
export function openSocket(url: string, signal: AbortSignal): Promise<Response> {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const socket = new WebSocket(url);
    socket.binaryType = 'arraybuffer';
    let body: ReadableStreamDefaultController<Uint8Array> | null = null;
    let over = false;
    const end = (): void => {
      if (!over) {
        over = true;
        body?.close();
        reject(new TypeError('The connection was closed'));
      }
      socket.close();
    };
    signal.addEventListener('abort', end, { once: true });
    socket.addEventListener('close', end);
    socket.addEventListener('message', ({ data }: MessageEvent<ArrayBuffer | string>) => {
      if (over) {
        return;
      }
      if (typeof data !== 'string') {
        body?.enqueue(new Uint8Array(data));
        return;
      }
      const answer = JSON.parse(data) as IProblem & { status: number };
      if (answer.status !== 200) {
        reject(new ServiceProblem(answer, answer.status));
        end();
        return;
      }
      const stream = new ReadableStream<Uint8Array>({
        start: controller => {
          body = controller;
        },
        cancel: () => {
          over = true;
          socket.close();
        }
      });
      resolve(new Response(stream));
    });
  });
}
