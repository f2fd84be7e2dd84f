// Questions to the server. What is slow is asked for again, and the page says so meanwhile.

const PATIENCE_MS = 30000;
const SLOW_TRIES = 15;

export class ServerError extends Error {
  constructor(message, status, facts) {
    super(message);
    this.status = status;
    this.facts = facts;
  }
}

export function slidePath(slideId, rest = '') {
  return `/api/slides/${encodeURIComponent(slideId)}${rest}`;
}

async function ask(path, options, signal, onSlow) {
  for (let attempt = 1; ; attempt += 1) {
    const limit = AbortSignal.timeout(PATIENCE_MS);
    let response;
    try {
      response = await fetch(path, { ...options, signal: signal ? AbortSignal.any([signal, limit]) : limit });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new ServerError(
        limit.aborted ? 'mhim view has not answered for 30 s.' : 'mhim view does not answer: has it been ended?', 0, {});
    }
    if (response.ok) return response;
    let facts = {};
    try {
      facts = await response.json();
    } catch { /* not of ours */ }
    if (facts.slow && attempt < SLOW_TRIES) {
      onSlow?.(attempt);
      continue;
    }
    throw new ServerError(facts.error ?? `the server answered ${response.status}`, response.status, facts);
  }
}

export async function get(path, { signal, onSlow } = {}) {
  return (await ask(path, {}, signal, onSlow)).json();
}

export async function post(path, body, { signal, onSlow } = {}) {
  const headers = { 'content-type': 'application/json', 'x-mhim-view': '1' };
  return (await ask(path, { method: 'POST', headers, body: JSON.stringify(body) }, signal, onSlow)).json();
}

const KINDS = { float32: Float32Array, int32: Int32Array, uint8: Uint8Array };

// A JSON head with arrays behind it: flows/viewing/packed.py
export async function getPacked(path, { signal, onSlow } = {}) {
  const buffer = await (await ask(path, {}, signal, onSlow)).arrayBuffer();
  const length = new DataView(buffer).getUint32(0, true);
  const facts = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  let at = 4 + length;
  for (const { name, type, length: count } of facts.arrays) {
    facts[name] = new KINDS[type](buffer, at, count);
    at += Math.ceil(facts[name].byteLength / 4) * 4;
  }
  return facts;
}
