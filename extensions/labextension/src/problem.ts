/** What the service refuses, and how it is told from silence. */
import type { IProblem } from './types';

/** A refusal by the service, or no answer at all (`status` 0). */
export class ServiceProblem extends Error {
  constructor(
    readonly problem: IProblem,
    readonly status: number
  ) {
    super(problem.title ?? `HTTP ${status}`);
  }

  /** The sign-in or the workspace's token is no longer good. */
  get refusesPerson(): boolean {
    // The service's own 403 is about one thing; the Jupyter server's is about everything.
    return this.status === 401 || (this.status === 403 && (this.problem.code ?? 'http.403') === 'http.403');
  }

  get unreachable(): boolean {
    return this.status === 0 || this.status === 502 || this.status === 503 || this.status === 504;
  }
}

/** The problem in whatever was thrown. */
export function problemOf(error: unknown): ServiceProblem {
  if (error instanceof ServiceProblem) {
    return error;
  }
  return new ServiceProblem({ title: error instanceof Error ? error.message : String(error) }, 0);
}
